from dataclasses import replace

import numpy as np
import pytest
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from dinotile.cli import app as cli
from dinotile.flux_patch.geometry import FluxGeometry
from dinotile.training.adapter.config import ModelSettings, load_config
from dinotile.training.adapter.dry_run import GIB, dry_run, flux_bytes, work_of

from ..pictures import colours
from ..tiny import settings, tiny_trainer, write_models

FLUX1 = FluxGeometry(3072, 24, 19, 38, 4096, 768)


def test_the_weights_are_those_of_flux1():
    assert flux_bytes(FLUX1, ModelSettings(dtype="bfloat16")) == pytest.approx(2 * 11.9e9, rel=0.01)
    narrow = ModelSettings(dtype="bfloat16", weights="fp8", gradient_checkpointing=True)
    assert 14 * GIB < flux_bytes(FLUX1, narrow) < 15 * GIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    colours(256, 256).save(place / "a.png")
    return place


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
    scarce = replace(found, room=2**30, device="a small GPU").lines()
    assert "MORE than the 1 GiB there: set model.weights fp8" in scarce[4]
    config["data"]["features"] = "dinov2"
    path.write_text(yaml.safe_dump(config))
    printed = CliRunner().invoke(cli.app, ["train", "--dry-run", str(path)])
    assert printed.exit_code == 0 and "0 of 4 can be used (4 without dinov2_patches.npy" in printed.stdout
