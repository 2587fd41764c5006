"""A model that is spread over two processes learns what one learns, in half of the memory each; and an adapter in two does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dinotile.dino.compress.checkpoint import load_flat
from dinotile.files.weights import read_weights
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.training.adapter.config import load_config
from dinotile.training.adapter.run import train
from dinotile.training.core.monitor import read_log
from dinotile.training.core.processes import Processes, check_devices, launched
from dinotile.training.core.shards import check_torch

from ..tiny import largest_difference, write_models
from .tiny import stored
from .two import ADAPTER, CUT, KINDS, STEPS, command, size, trained

ROOT = Path(__file__).parents[3]
IDLE = (
    "k_norm.bias"  # adds the same to all of a query's logits, so that its gradient, and AdamW's step, is rounding alone
)
TENSORS = ("weights", "average", "optimizer")


def adapter_config(place: Path, pictures: Path, *, processes: int) -> dict:
    """Of a training whose steps have four rows."""
    return {
        "model": write_models(place),
        "adapter": {"width": 16, "grid": 4, "double_sites": [0], "single_sites": [1]},
        "data": {"path": str(pictures), "picture": 32, "tile": 16},
        "conditions": {"dino_guidance": 2.0},
        "optimisation": {"steps": STEPS, "batch": 4 // processes, "learning_rate": 1e-3, "warmup": 2},
        "output": {"folder": str(place / f"adapter {processes}"), "log_every": 1, "tensorboard": False},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures):
    """The folder with what two processes left; beside it this process trains alone."""
    place = tmp_path_factory.mktemp("spread")
    stored(place / "data", count=12)
    trained(place, "clipped", "clipped from one", processes=Processes(), cut=True)
    (place / ADAPTER).write_text(yaml.safe_dump(adapter_config(place, pictures, processes=2)))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *launch, "-m", "tests.training.flatdino.two", str(place)]
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "Warning" not in ran.stderr, ran.stderr[-4000:]
    said = [f"{place}/{file}.safetensors" for file in ("adapter 2/adapter", "command 1/flat", "command 2/flat")]
    assert ran.stdout.splitlines() == said, "only the first process speaks"
    return place


@pytest.fixture(scope="module")
def alone(runs):
    return {kind: trained(runs, kind, f"{kind} alone", processes=Processes()) for kind in KINDS}


def apart(one: Path, other: Path) -> float:
    """The largest distance between two files' tensors, as a part of their length."""
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    felt = [name for name in ours if not name.endswith(IDLE)]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    return max(float((ours[name] - theirs[name]).norm() / (theirs[name].norm() + 1e-30)) for name in felt)


def states_apart(one: Path, other: Path) -> float:
    last = f"step-{STEPS:06d}"
    return max(apart(one / last / f"{name}.safetensors", other / last / f"{name}.safetensors") for name in TENSORS)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_a_part_each_learn_what_one_learns(runs, alone, kind):
    spread, whole = runs / f"{kind} in two", runs / f"{kind} alone"
    assert states_apart(spread, whole) < 1e-4
    assert apart(spread / "flat.safetensors", whole / "flat.safetensors") < 1e-4
    ours, theirs = read_log(spread), read_log(whole)
    for one, other in zip(ours, theirs, strict=True):
        for name in other.keys() - {"seconds_per_step", "step", "skipped", "case_share", "learning_rate"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name
    assert all(line["gradient_norm"] > KINDS["clipped"]["clip"] for line in ours if "loss" in line)
    assert set(ours[-1]["validation"]) >= {"cosine", "huber", "explained"}


def test_files_are_the_same_as_without(runs, alone):
    for name in ("flat.safetensors", *(f"step-{STEPS:06d}/{kind}.safetensors" for kind in TENSORS)):
        (ours, about), (theirs, told) = (read_weights(runs / f"clipped {how}" / name) for how in ("in two", "alone"))
        assert {key: (t.shape, t.dtype) for key, t in ours.items()} == {
            key: (t.shape, t.dtype) for key, t in theirs.items()
        }
        numbers = [json.loads(each.pop("provenance", "{}")).get("rows_per_step") for each in (about, told)]
        assert about == told and numbers[0] == numbers[1]
    assert load_flat(runs / "clipped in two" / "flat.safetensors").provenance["steps"] == STEPS


def test_a_state_is_gone_on_from_with_parts_and_without(runs, alone):
    whole = runs / "clipped alone"
    assert states_apart(runs / "clipped in parts", runs / "clipped in two") < 1e-6
    assert states_apart(runs / "clipped from one", whole) < 1e-4
    assert trained(runs, "clipped", "clipped to one", processes=Processes()).done == STEPS
    assert states_apart(runs / "clipped to one", whole) < 1e-4
    for folder in ("clipped in parts", "clipped from one", "clipped to one"):
        assert [place.name for place in sorted((runs / folder).glob("step-*"))] == [
            f"step-{step:06d}" for step in (CUT, STEPS)
        ]


def test_a_gradient_that_is_not_finite_in_one_part_ends_the_run_in_all_and_keeps_the_last_good_state(runs, alone):
    for number in (0, 1):
        told = (runs / f"spoilt, {number}.txt").read_text()
        assert (
            told.startswith("the gradient is not finite at step 2") and "step-000001: lower the learning rate" in told
        )
    assert [place.name for place in (runs / "spoilt").glob("step-*")] == ["step-000001"]


@pytest.mark.parametrize("folder", ["clipped in two", "fp16 in two", "clipped in parts", "clipped from one"])
def test_each_process_holds_half_of_parameters_gradients_average_and_moments(runs, alone, folder):
    whole = size(alone[folder.split()[0]])
    parts = [json.loads((runs / f"{folder}, {number}.json").read_text()) for number in (0, 1)]
    sys.stdout.write(f"{folder}: {whole:,} bytes alone, {parts[0]:,} and {parts[1]:,} in two processes\n")
    assert sum(parts) >= whole and max(parts) < 0.52 * whole


def test_the_command_in_two_processes_equals_one_process_whether_each_has_all_or_a_part(runs, dinotile):
    code, _, err = dinotile(*command(runs, "command alone"))
    assert code == 0, err
    losses, told = {}, {}
    for how in ("alone", "1", "2"):
        losses[how] = [line["loss"] for line in read_log(runs / f"command {how}") if "loss" in line]
        told[how] = json.loads((runs / f"command {how}/step-000003/state.json").read_text())["config"]["training"]
    assert len(losses["alone"]) == 3 and {each["batch"] for each in told.values()} == {4}
    assert [told[how]["fsdp"] for how in ("1", "2")] == [1, 2]
    assert losses["1"] == pytest.approx(losses["alone"], abs=1e-5) and losses["2"] == pytest.approx(
        losses["alone"], abs=1e-5
    )


def test_an_adapter_in_two_processes_equals_one_with_the_same_total_batch(runs, pictures):
    (runs / ADAPTER).write_text(yaml.safe_dump(adapter_config(runs, pictures, processes=1)))
    train(load_config(runs / ADAPTER))
    one, two = (load_adapter(runs / f"adapter {processes}" / "adapter.safetensors") for processes in (1, 2))
    alone, log = ([line["loss"] for line in read_log(runs / f"adapter {processes}")] for processes in (1, 2))
    assert len(alone) == STEPS and log == pytest.approx(alone, abs=1e-4)
    assert largest_difference(*(dict(adapter.module.named_parameters()) for adapter in (one, two))) < 1e-4
    assert two.config.provenance["rows_per_step"] == 4


def test_what_cannot_be_spread_is_one_sentence(monkeypatch):
    with pytest.raises(
        ValueError, match="--fsdp 3 spreads the model over 3 processes, and 1 was started: begin the command"
    ):
        launched("cpu", shards=3)
    with pytest.raises(ValueError, match="3 processes were started for 2 GPUs: start at most 2, or let them"):
        check_devices(3, devices=2)
    check_devices(2, devices=2)
    check_torch()
    monkeypatch.delattr(torch.distributed.fsdp.FSDPModule, "set_force_sum_reduction_for_comms")
    with pytest.raises(ValueError, match="--fsdp needs a torch with FSDP2 .*: update torch, or leave --fsdp out"):
        check_torch()
