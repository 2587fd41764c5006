"""Weights & Biases beside TensorBoard: asked for by name, kept on the disk here, never on the network."""

import json
import struct
import sys

import pytest
import torch

from dinotile.training.core.config import OutputSettings
from dinotile.training.core.monitor import Monitor
from dinotile.training.core.trainer import StepReport

from ..tiny import run, settings, tiny_trainer

BLOCK = 2**15  # of the log format that wandb keeps offline runs in (that of LevelDB)


@pytest.fixture
def offline(monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    wandb.teardown()


def monitored(folder, *steps):
    """A run of these steps with a picture after each."""
    output = OutputSettings(log_every=1, tensorboard=False, wandb="project")
    monitor = Monitor(folder, output, step=steps[0] - 1, sums={}, config={"adapter": {"grid": 4}})
    for step in steps:
        details = {"gates": {"double.0": step / 8}}
        monitor.record(StepReport(step, 1 / step, {"none": [1.0]}, {"velocity": 1.0}, 1.0, 1e-4, details=details))
        monitor.picture("samples", torch.full((3, 4, 6), 0.5), step=step)
    monitor.close()


def records(path):
    """The records of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:  # no head fits into the rest of the block
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        part, at = part + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(part)
            yield record
            part = b""


def test_wandb_gets_the_numbers_and_pictures_of_the_log_and_a_resumed_run_is_the_same(offline, tmp_path):
    import wandb

    monitored(tmp_path, 1, 2)
    monitored(tmp_path, 5, 4)  # back, as from an earlier checkpoint
    wandb.teardown()
    found = [record for path in sorted(tmp_path.glob("wandb/offline-*/*.wandb")) for record in records(path)]
    lines = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    numbers = {line["step"]: (line["loss"], line["gates/double.0"]) for line in lines if "loss" in line}
    assert numbers == {step: (1 / step, step / 8) for step in (1, 2, 5, 4)}
    assert {line["step"]: line["samples/width"] for line in lines if "samples/width" in line} == dict.fromkeys(
        numbers, 6
    )
    assert len(list(tmp_path.glob("wandb/offline-*/files/media/images/samples*.png"))) == 4
    runs = [record.run for record in found if record.HasField("run")]
    assert {run.run_id for run in runs} == {(tmp_path / "wandb.id").read_text()} and runs[0].project == "project"
    told = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert told["adapter"] == {"grid": 4}


def test_it_is_off_unless_a_project_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    monitor = Monitor(tmp_path, OutputSettings(tensorboard=False), step=0, sums={})
    assert OutputSettings().wandb == "" and monitor.boards == [] and not list(tmp_path.iterdir())


def test_where_it_is_not_installed_a_run_does_not_begin(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainer = tiny_trainer(settings(pictures, output={"folder": str(tmp_path), "wandb": "project"}))
    with pytest.raises(ValueError, match=r'pip install "dinotile\[wandb\]", or leave it out'):
        run(trainer)
    assert trainer.done == 0 and not list(tmp_path.glob("step-*"))


def test_what_wandb_refuses_is_one_sentence(offline, tmp_path):
    output = OutputSettings(wandb="no/such:project", tensorboard=False)
    with pytest.raises(
        ValueError, match="^output.wandb no/such:project cannot be opened .*WANDB_MODE=offline"
    ) as error:
        Monitor(tmp_path, output, step=0, sums={})
    assert "\n" not in str(error.value)
