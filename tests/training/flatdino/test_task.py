"""How a FlatDINO is trained: it learns, and a run is the same however it is cut."""

import math

import pytest
import torch

from dinotile.dino.compress.checkpoint import load_flat
from dinotile.dino.compress.model import LEARNED
from dinotile.files.errors import BROKEN
from dinotile.training.core.config import OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.monitor import read_log
from dinotile.training.core.optimiser import rate_at
from dinotile.training.core.random import generator_for
from dinotile.training.core.state import checkpoints
from dinotile.training.flatdino import task
from dinotile.training.flatdino.losses import divergence
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.task import draw_keep

from ...near import assert_near
from ..tiny import largest_difference, weights
from .tiny import NAME, opened, stored, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return opened(stored(tmp_path_factory.mktemp("stored") / "data"))


def output(folder, **changes):
    return OutputSettings(folder=str(folder), tensorboard=False, log_every=1, **changes)


@pytest.mark.parametrize("name", [NAME, "fast-4-nn-6-hl-nokl", "fast-4-nn-8555-hl"])
def test_held_out_pictures_are_restored_better_and_better(tmp_path, name):
    run = trainer(opened(stored(tmp_path / "many", count=120)), tmp_path, name=name, steps=80, batch=16, ema=0.9)
    before = run.task.validate()
    fit(run, output(tmp_path, validate_every=80))
    after = read_log(tmp_path)[-1]["validation"]
    assert after["huber"] < 0.8 * before["huber"] and after["cosine"] > before["cosine"] + 0.2
    assert after["explained"] > 0.2 and ("codes" in after) == ("8555" in name)


def test_an_interrupted_run_goes_on_exactly(data, tmp_path):
    whole, first, second = (trainer(data, tmp_path, name=f"{NAME}-an5k-fb0.1-klvar2") for _ in range(3))
    fit(whole, output(""))
    fit(first, output(tmp_path), should_stop=lambda: first.done == 4)
    assert first.done == 5 and [place.name for place in checkpoints(tmp_path)] == ["step-000005"]
    fit(second, output(tmp_path))
    assert second.done == 12 and largest_difference(weights(second), weights(whole)) <= 1e-6
    assert largest_difference(second.average.weights, whole.average.weights) <= 1e-6
    assert largest_difference(weights(whole), weights(trainer(data, tmp_path))) > 0.01


def test_rows_at_once_do_not_matter(data, tmp_path):
    runs = [trainer(data, tmp_path, steps=3, gpu_batch=rows, learning_rate=1e-3) for rows in (8, 2)]
    losses = [[run.step().loss for _ in range(3)] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert largest_difference(weights(runs[0]), weights(runs[1])) < 1e-4


def test_the_file_has_the_averaged_weights_and_says_where_they_come_from(data, tmp_path):
    run = trainer(data, tmp_path)
    fit(run, output(tmp_path))
    flat = load_flat(tmp_path / "flat.safetensors")
    assert_near(dict(flat.module.state_dict())["decoder.head.weight"], run.average.weights["decoder.head.weight"])
    assert not torch.equal(run.average.weights["decoder.head.weight"], weights(run)["decoder.head.weight"])
    assert (flat.config.dino, flat.config.how, flat.config.width, flat.config.grid) == ("dinov2-demo", "4", 128, (4, 4))
    assert flat.provenance["name"] == NAME and flat.provenance["steps"] == 12
    train = run.task.train
    latents = torch.cat([flat.module.encode(patches[:, 0]) for _, patches in data.whole(train)])
    assert flat.statistics.pictures == len(train) == 22
    assert_near(flat.statistics.mean, latents.mean(0))


def test_statistics_are_of_pictures_from_all_over_the_data(data, tmp_path, monkeypatch):
    """Sorted folders of classes would else give those of the first class."""
    monkeypatch.setattr(task, "SEEN", 5)
    run = trainer(data, tmp_path, steps=1)
    fit(run, output(tmp_path))
    flat = load_flat(tmp_path / "flat.safetensors")
    first = torch.cat([flat.module.encode(patches[:, 0]) for _, patches in data.whole(run.task.train[:5])])
    assert flat.statistics.pictures == 5 and float((flat.statistics.mean - first.mean(0)).abs().max()) > 1e-3


def test_a_larger_weight_of_the_divergence_brings_latents_nearer_to_normal(data, tmp_path):
    found = {}
    for option in ("kl6", "kl1"):
        run = trainer(data, tmp_path, name=f"{NAME}-{option}", steps=30)
        found[option] = [run.step() for _ in range(30)][-1].measures
    assert found["kl1"]["kl"] < 0.2 * found["kl6"]["kl"] and found["kl1"]["huber"] > found["kl6"]["huber"]


def test_the_weight_of_the_divergence_rises_from_step_to_step(data, tmp_path):
    """The loss of a row is its Huber loss and so much of the divergence."""
    run = trainer(data, tmp_path, name=f"{NAME}-kl2-an1k")
    for step in (0, 499, 999, 5000):
        (row,) = run.task.rows([0], step=step, total=1)
        told = run.task.losses([row], watch=False)
        (extra,) = ((told["loss"] - told["huber"]) / (0.01 * told["kl"])).tolist()
        assert extra == pytest.approx(min(1, (step + 1) / 1000), rel=1e-3)


def test_free_bits_are_free_and_idle_tokens_cost(data, tmp_path):
    task = trainer(data, tmp_path).task
    latents = task.model.latents(torch.randn(2, 4, 4, 128))
    share = torch.ones(2)
    experiment = parse(f"{NAME}-kl0-fb{'9' * 3}")
    all_free = divergence(latents, experiment, share=share)
    assert_near(all_free, torch.full((2,), 999.0 * 4 * 6))
    plain = divergence(latents, parse(f"{NAME}-kl0"), share=share)
    assert_near(plain, latents.kl.sum((1, 2)))
    varied = divergence(latents, parse(f"{NAME}-kl0-klvar0"), share=share)
    assert_near(varied - plain, latents.kl.sum(2).var(1, unbiased=False))
    assert float((varied - plain).min()) > 0


def test_tokens_are_kept_by_powers_of_two_each_as_often():
    drawn = [draw_keep(12, generator_for(0, place)) for place in range(2000)]
    counts = {keep: drawn.count(keep) for keep in sorted(set(drawn))}
    assert list(counts) == [1, 2, 4, 8, 12] and all(abs(count - 400) < 80 for count in counts.values())
    assert {draw_keep(1, generator_for(place)) for place in range(5)} == {1}


def test_the_rate_rises_stays_and_falls_to_nothing(data, tmp_path):
    rates = [rate_at(step / 1000, step=step, warmup=50, least=0.0, hold=0.85) for step in range(1000)]
    assert rates[:50] == sorted(rates[:50]) and set(rates[50:850]) == {1.0}
    assert rates[850:] == sorted(rates[850:], reverse=True) and rates[-1] < 1e-3
    assert rates[925] == pytest.approx(0.5, abs=0.01)
    run = trainer(data, tmp_path, name=NAME.replace("fast", "ext"), steps=8)
    assert run.hold == 0.75 and run.least == 0


def test_weight_decay_spares_what_is_a_token_itself(data, tmp_path):
    run = trainer(data, tmp_path, name=f"{NAME}-er2-dr2")
    names = {parameter: name for name, parameter in run.parameters.items()}
    (decayed,) = (
        [names[p] for p in group["params"]] for group in run.optimizers[0].param_groups if group["weight_decay"]
    )
    assert decayed and all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert not {name.rpartition(".")[2] for name in decayed} & set(LEARNED)


def test_a_run_with_another_name_does_not_go_on(data, tmp_path):
    fit(trainer(data, tmp_path, steps=1), output(tmp_path))
    with pytest.raises(ValueError, match="the checkpoint differs in name: choose another output folder"):
        fit(trainer(data, tmp_path, name=f"{NAME}-kl3"), output(tmp_path))


def test_a_kernel_that_does_not_run_here_is_told_before_the_first_step(data, tmp_path):
    for kernel, runs in (("math", True), ("cudnn", False)):
        task = trainer(data, tmp_path, attention=kernel).task
        if runs:
            task.begin(looks=False)
            assert all(not bool(parameter.grad.any()) for parameter in task.parameters.values())
        else:
            with pytest.raises(ValueError, match="attention cudnn does not run on this cpu .*: use auto"):
                task.begin(looks=False)
    assert RuntimeError in BROKEN and math.isfinite(float(trainer(data, tmp_path).step().loss))
