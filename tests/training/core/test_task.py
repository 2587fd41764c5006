"""The loop with a task of two lines: what it promises has nothing to do with adapters."""

import pytest
import torch
from torch import nn

from dinotile.demo.train.muon import optimizers
from dinotile.training.core.config import OptimisationSettings, OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.monitor import read_log
from dinotile.training.core.random import generator_for
from dinotile.training.core.state import checkpoints
from dinotile.training.core.task import Task
from dinotile.training.core.trainer import Trainer

from ..tiny import largest_difference, weights

TRUE = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Regression(Task):
    """Finds a matrix; a row is a point."""

    device = torch.device("cpu")

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 4)
        self.parameters = dict(self.model.named_parameters())
        self.exported = []

    def rows(self, slots, *, step, total):
        return [torch.randn(3, generator=generator_for("row", step, slot)) for slot in slots]

    def losses(self, rows, *, watch):
        x = torch.stack(rows)
        return {"loss": (self.model(x) - x @ TRUE.T).square().mean(1)}

    def export(self, *, steps, rows_per_step):
        self.exported.append((steps, rows_per_step, self.model.weight.detach().clone()))

    def validate(self):
        return {"apart": float((self.model.weight - TRUE).norm())}


OPTIMIZERS = {
    "the default": lambda model: [],
    "Muon and AdamW": lambda model: optimizers(model, lr=0.02),
    "SGD": lambda model: [torch.optim.SGD(model.parameters(), lr=0.05)],
    "momentum": lambda model: [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)],
    "Adafactor": lambda model: [torch.optim.Adafactor(model.parameters(), lr=0.05)],
    "NAdam": lambda model: [torch.optim.NAdam(model.parameters(), lr=0.05)],
}


def trainer(kind="the default", *, minutes=None, **changes):
    task = Regression()
    settings = OptimisationSettings(
        **{"steps": 12, "batch": 2, "learning_rate": 0.05, "warmup": 2, "ema": 0.9} | changes
    )
    return Trainer(task, settings, optimizers=OPTIMIZERS[kind](task.model), minutes=minutes)


def output(folder="", **changes):
    return OutputSettings(folder=str(folder), tensorboard=False, log_every=1, **changes)


class Cancelled(Exception):
    pass


def cancel_at(step):
    def progress(stage, done, total, note=""):
        if done == step:
            raise Cancelled

    return progress


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_run_with_any_optimiser_goes_on_exactly(tmp_path, kind):
    whole, first, second = (trainer(kind) for _ in range(3))
    fit(whole, output())
    with pytest.raises(Cancelled):
        fit(first, output(tmp_path), progress=cancel_at(5), cancels=Cancelled)
    fit(second, output(tmp_path))
    assert (first.done, second.done) == (5, 12)
    assert largest_difference(weights(second), weights(whole)) <= 1e-6
    assert largest_difference(second.average.weights, whole.average.weights) <= 1e-6
    start = trainer(kind)
    assert largest_difference(weights(whole), weights(start)) > 0.01


def test_what_cancels_saves_and_exports_and_other_errors_do_not(tmp_path):
    cancelled, broken = trainer(), trainer()
    with pytest.raises(Cancelled):
        fit(cancelled, output(tmp_path / "a"), progress=cancel_at(3), cancels=Cancelled)
    with pytest.raises(Cancelled):
        fit(broken, output(tmp_path / "b"), progress=cancel_at(3), cancels=KeyboardInterrupt)
    assert [place.name for place in checkpoints(tmp_path / "a")] == ["step-000003"]
    assert [steps for steps, _, _ in cancelled.task.exported] == [3]
    assert not checkpoints(tmp_path / "b") and not broken.task.exported


def test_without_a_folder_the_task_is_exported_alone_with_the_averaged_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = trainer(accumulation=3)
    fit(run, output(save_every=8))
    assert not list(tmp_path.iterdir())
    assert [found[:2] for found in run.task.exported] == [(8, 6), (12, 6)]
    assert torch.equal(run.task.exported[-1][2], run.average.weights["weight"])
    assert not torch.equal(run.task.model.weight, run.average.weights["weight"])


def test_a_finished_run_that_is_asked_for_again_exports_once_more(tmp_path):
    fit(trainer(), output(tmp_path))
    again = trainer()
    fit(again, output(tmp_path))
    assert [steps for steps, _, _ in again.task.exported] == [12]


def test_validation_sees_the_averaged_weights_and_is_logged(tmp_path):
    run = trainer(steps=4)
    fit(run, output(tmp_path, validate_every=4))
    *_, found = read_log(tmp_path)
    expected = float((run.average.weights["weight"] - TRUE).norm())
    assert found == {"step": 4, "validation": {"apart": pytest.approx(expected)}}


def test_minutes_of_computing_are_a_run_and_are_resumed(tmp_path):
    run, rates = trainer(minutes=0.01), []

    def progress(stage, done, total, note=""):
        rates.append(run.optimizers[0].param_groups[0]["lr"])
        if len(rates) == 20:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit(run, output(tmp_path), progress=progress, cancels=Cancelled)
    assert run.done == 20 and 0 < run.share < 1
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[1] > rates[0]
    resumed = trainer(minutes=0.01)
    fit(resumed, output(tmp_path))
    assert resumed.done > 20 and 1 <= resumed.share < 2
    assert resumed.seconds >= 0.6 > run.seconds


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    fit(trainer(steps=1), output(tmp_path))
    other = trainer(steps=2)
    other.task.identity = lambda: {"kind": "other"}
    with pytest.raises(ValueError, match="the checkpoint differs in kind: choose another output folder"):
        fit(other, output(tmp_path))
