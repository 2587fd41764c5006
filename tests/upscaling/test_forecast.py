"""What a dry run tells is what a run does, or near what it takes."""

import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.counts import Counts, Fused
from benchmarks.vae_strips import random_vae
from dinotile import demo
from dinotile.cli.app import app
from dinotile.hosts.diffusers.sources import model_files
from dinotile.upscaling import forecast as module
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.forecast import GIB, OF_FLUX1, VAE, Models, block_flops, flux_bytes, forecast, spoken
from dinotile.upscaling.settings import settings_for

META = torch.device("meta")


def ahead(settings, height, width):
    models = Models.of(model_files("demo"))
    return forecast(settings, models, height=height, width=width, dtype=torch.float32, text=8)


def test_sizes_tiles_and_calls_are_those_of_the_run():
    settings = settings_for("demo", scale=1.7, steps=2, tile=64, overlap=16, dino_guidance=1.5)
    upscaler, calls = load_upscaler("demo"), []
    velocity = upscaler.host.velocity

    def counted(x, *args, **options):
        calls.append(len(x))
        return velocity(x, *args, **options)

    upscaler.host.velocity = counted
    _, report = upscaler.upscale(torch.rand(1, 3, 50, 70), settings)
    found = ahead(settings, 50, 70)
    assert found.size == (report["output"]["height"], report["output"]["width"])
    assert (found.plan.count, found.plan.tile_height) == (report["tiles"]["count"], report["tiles"]["height"])
    assert found.calls == sum(calls)


def test_moving_tiles_are_counted_as_they_move():
    """Four where tiles that stay are five."""
    settings = settings_for("demo", steps=1, tile=64, overlap=16, moving=True)
    _, report = load_upscaler("demo").upscale(torch.rand(1, 3, 32, 112), settings)
    assert ahead(settings, 32, 112).plan.count == report["tiles"]["count"] == 4
    assert ahead(replace(settings, moving=False), 32, 112).plan.count == 5


def test_a_pipelines_folder_is_not_its_vae(tmp_path):
    """FLUX, its text encoder and a VAE in one folder, as on the hub."""
    for name, source in (("vae", demo.VAE), ("text_encoder", demo.DINO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(source.read_bytes())
    shutil.copytree(demo.FLUX, tmp_path / "transformer")
    found = Models.of(model_files("dev", model_path=tmp_path))
    assert found.known and found.small_vae and found.sizes["VAE"] == Models.of(model_files("demo")).sizes["VAE"]


def test_offloaded_models_are_there_one_at_a_time():
    models = Models.of(model_files("demo"))
    kept = [
        forecast(settings_for("demo"), models, height=64, width=64, dtype=torch.float32, text=8, offload=offload).memory
        for offload in ("none", "model", "sequential")
    ]
    assert kept[0].keys() > kept[1].keys() and sum(kept[0].values()) > sum(kept[1].values()) > sum(kept[2].values())
    assert "DINO" not in Models.of(model_files("demo"), no_dino=True).sizes


@pytest.mark.parametrize(
    "value,said", [(6400.0, "6,400"), (99.6, "100"), (9.94, "9.9"), (0.031, "0.031"), (330.4, "330")]
)
def test_figures_have_no_exponent(value, said):
    assert module.number(value) == said and spoken(3.6e5) == "100 h"


def test_flux_2_has_its_own_number_of_text_tokens_whatever_the_text():
    models = replace(Models.of(model_files("demo")), geometry=module.OF_KLEIN)
    settings = settings_for("demo")
    eight, all_of_them, more = (
        forecast(settings, models, height=64, width=64, dtype=torch.float32, text=text).flops for text in (8, 512, 600)
    )
    assert eight == all_of_them < more


def test_at_denoise_0_flux_is_not_called():
    assert ahead(settings_for("demo", denoise=0.0), 64, 64).calls == 0


def test_operations_of_the_blocks_are_those_that_are_counted():
    from diffusers import FluxTransformer2DModel

    with META:
        flux = FluxTransformer2DModel(num_layers=1, num_single_layers=2)
        tokens, text = torch.empty(1, 1024, 64), torch.empty(1, 256, 4096)
        rest = {"pooled_projections": torch.empty(1, 768), "timestep": torch.empty(1)}
        ids = {"img_ids": torch.empty(1024, 3), "txt_ids": torch.empty(256, 3)}
    with torch.no_grad(), Counts() as counts, Fused():
        flux(tokens, encoder_hidden_states=text, **rest, **ids)
    geometry = module.FluxGeometry(3072, 24, 1, 2, 4096, 768)
    assert counts.flops == pytest.approx(block_flops(geometry, 1280), rel=0.05)


@pytest.mark.parametrize("tiny", [True, False])
def test_operations_of_the_vae_are_those_that_are_counted(tiny):
    vae = random_vae(64 if tiny else 128, tiny=tiny, device=META, dtype=torch.bfloat16)
    side, found = 512, []
    for call, shape in ((vae.encode, (1, 3, side, side)), (vae.decode, (1, 16, side // 8, side // 8))):
        with torch.no_grad(), Counts() as counts, Fused():
            call(torch.empty(shape, device=META, dtype=torch.bfloat16))
        found.append(counts.flops / side**2)
    assert found == pytest.approx(VAE[tiny], rel=0.05)


@pytest.mark.parametrize("weights,gib", [("full", 22), ("fp8", 14), ("nf4", 6)])
def test_memory_of_flux_is_what_docs_say(weights, gib):
    assert flux_bytes(OF_FLUX1, wide=2, weights=weights) / GIB == pytest.approx(gib, rel=0.1)


def test_a_dry_run_tells_each_picture_and_writes_nothing(tmp_path):
    done = CliRunner().invoke(app, ["upscale", str(demo.SAMPLE), "-o", str(tmp_path / "out.png"), "--dry-run"])
    first, second, last = done.output.splitlines()
    assert done.exit_code == 0 and not list(tmp_path.iterdir())
    assert "768 x 512 px, 0.4 megapixels; 6 tiles of 288 x 272 px" in first and "36 times FLUX on a tile" in first
    assert "GiB (estimated: FLUX" in second and last.startswith("1 picture, about") and "on this disk" not in last


def test_a_dry_run_refuses_what_a_run_would(tmp_path):
    for given, said in (
        (["--steps", "0"], "steps 0 must be from 1"),
        (["--denoise-mask", str(tmp_path / "gone.png")], "gone.png does not exist"),
        (["--controlnet", str(tmp_path / "gone.safetensors")], "there is no model"),
    ):
        done = CliRunner().invoke(
            app, ["upscale", str(demo.SAMPLE), "-o", str(tmp_path / "a.png"), "--dry-run", *given]
        )
        assert done.exit_code != 0 and said in str(done.exception)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    done = CliRunner().invoke(app, ["upscale", str(tmp_path / "cut.png"), "-o", str(tmp_path / "a.png"), "--dry-run"])
    assert "cut.png is not a readable picture" in str(done.exception)
