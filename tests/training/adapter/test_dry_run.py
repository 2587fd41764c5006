from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from dinotile.cli import app as cli
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter import DinoAdapter
from dinotile.flux_patch.adapter_config import adapter_config
from dinotile.flux_patch.geometry import FluxGeometry
from dinotile.training.adapter.config import load_config
from dinotile.training.adapter.dry_run import GIB, dry_run, memory_of, work_of
from dinotile.upscaling.forecast import OF_KLEIN, flux_bytes

from ..pictures import colours
from ..tiny import settings, tiny_trainer, write_models

DOCS = Path(__file__).parents[3] / "docs"
FLUX1 = FluxGeometry(3072, 24, 19, 38, 4096, 768)


def test_the_weights_are_those_of_flux1():
    assert flux_bytes(FLUX1, wide=2, weights="full") == pytest.approx(2 * 11.9e9, rel=0.01)
    assert 14 * GIB < flux_bytes(FLUX1, wide=2, weights="fp8") < 15 * GIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    colours(256, 256).save(place / "a.png")
    return place


def full_size(name):
    """A shipped configuration, FLUX.1's default adapter for DINOv2-B, and the adapter's parameters."""
    adapter = adapter_config(SPECS["dinov2-base"], FLUX1, layers="2/3")
    with torch.device("meta"):
        return load_config(DOCS / name), adapter, sum(map(torch.numel, DinoAdapter(adapter).parameters()))


@pytest.mark.parametrize("room", [24, 80])
def test_the_shipped_configurations_load_and_fit_the_gpu_that_they_are_for(room):
    config, adapter, parameters = full_size(f"training-{room}gb.yaml")
    work = work_of(config, FLUX1, adapter, text=512)
    needed = sum(memory_of(config, FLUX1, work, parameters=parameters).values())
    assert 0.5 * room < needed / GIB < 0.85 * room


def test_the_configuration_for_klein_fits_its_gpu_at_less_than_flux1s_work():
    config = load_config(DOCS / "training-klein.yaml")
    adapter = adapter_config(SPECS["dinov2-base"], OF_KLEIN, layers="2/3")
    with torch.device("meta"):
        parameters = sum(map(torch.numel, DinoAdapter(adapter).parameters()))
    work = work_of(config, OF_KLEIN, adapter, text=8)
    needed = memory_of(config, OF_KLEIN, work, parameters=parameters)
    assert len(adapter.sites) == 8 and parameters == pytest.approx(58.2e6, rel=0.01)
    assert needed["FLUX"] / GIB == pytest.approx(6.9, rel=0.01) and sum(needed.values()) / GIB == pytest.approx(
        11.8, rel=0.01
    )
    assert work.tokens == 1024 + 512  # whatever the text is said to have
    dev = load_config(DOCS / "training-24gb.yaml")
    assert work.flops == pytest.approx(
        0.49 * work_of(dev, FLUX1, full_size("training-24gb.yaml")[1], text=8).flops, rel=0.02
    )


def test_a_step_at_full_size_is_near_what_was_measured_on_an_h100():
    config, adapter, parameters = full_size("training-24gb.yaml")
    whole = config.model_copy(
        update={
            "model": config.model.model_copy(update={"weights": "full"}),
            "data": config.data.model_copy(update={"tile": 1024}),
        }
    )
    work = work_of(whole, FLUX1, adapter, text=512)
    needed = sum(memory_of(whole, FLUX1, work, parameters=parameters).values())
    assert work.flops / 300e12 == pytest.approx(0.83, rel=0.05)  # s, at the rate that is reckoned with there
    assert needed / GIB == pytest.approx(26.1, rel=0.06)


FIRST, LAST = ("double.0", "single.1"), ("single.1",)


@pytest.mark.parametrize(
    ("sites", "checkpointing", "guidance"),
    [(FIRST, False, 1.0), (FIRST, True, 2.0), (LAST, True, 1.0), (LAST, False, 2.0)],
)
def test_the_work_of_a_row_is_what_torch_counts(folder, checkpointing, sites, guidance):
    config = settings(
        folder,
        model={"gradient_checkpointing": checkpointing},
        data={"picture": 256, "tile": 256, "cache": 0},
        conditions={"none": 0, "text": 1e-6, "dino": 0, "both": 1 - 1e-6, "dino_guidance": guidance},
        optimisation={"batch": 1},
    )
    trainer = tiny_trainer(config, checkpointing=checkpointing, sites=sites)
    task = trainer.task
    rows = task.rows([0], step=0, total=1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # others are not counted on the CPU
        task.losses(rows, watch=False)["loss"].sum().backward()
    adapter = task.adapter.config
    work = work_of(config, adapter.geometry, adapter, text=rows[0].text.context.shape[1])
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_dry_run_tells_what_is_there_and_missing_and_begins_nothing(tmp_path):
    models, data = write_models(tmp_path / "models"), tmp_path / "data"
    data.mkdir()
    for number in range(3):
        colours(64, 64, number).save(data / f"{number}.png")
    colours(16, 64).save(data / "flat.png")
    for number in range(2):
        np.save(data / f"{number}.t5.npy", np.zeros((20, 32), np.float16))
        np.save(data / f"{number}.clip.npy", np.zeros(16, np.float16))
    config = {
        "model": models,
        "adapter": {"width": 16, "grid": 4},
        "data": {"path": str(data), "picture": 64, "tile": 32},
        "optimisation": {"steps": 30, "batch": 2, "accumulation": 3},
        "output": {"folder": str(tmp_path / "run")},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    found = dry_run(load_config(path))
    assert (found.samples, found.usable, found.text, found.begun) == (4, 3, 2, 0)
    assert dict(found.skipped) == {"with a side below 32 px": 1}
    assert (found.rows, found.steps, found.work.tokens) == (6, 30, 4 + 20)
    assert found.hours == pytest.approx(30 * 6 * found.work.flops / found.rate / 3600)
    printed = CliRunner().invoke(cli.app, ["train", "--dry-run", str(path)])
    assert printed.exit_code == 0 and "samples: 3 of 4 can be used (1 with a side below 32 px)" in printed.stdout
    assert "30 steps x 6, 60.0 for every sample; 24 tokens each" in printed.stdout
    assert "(estimated:" in printed.stdout and not (tmp_path / "run").exists()
    (data / "0.t5.npy").write_bytes(b"cut short")
    damaged = dry_run(load_config(path))
    assert (damaged.usable, damaged.text, damaged.work.tokens) == (2, 1, 4 + 20)
    assert damaged.skipped["with a damaged t5.npy"] == 1
    scarce = replace(found, room=2**30, device="a small GPU").lines()
    assert "MORE than the 1 GiB there: set model.weights fp8" in scarce[4]
    config["data"]["features"] = "dinov2"
    path.write_text(yaml.safe_dump(config))
    printed = CliRunner().invoke(cli.app, ["train", "--dry-run", str(path)])
    assert printed.exit_code == 0 and "0 of 4 can be used (4 without dinov2_patches.npy" in printed.stdout
