"""The demo's training scripts run, and change what they say they change."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

pytest.importorskip("skimage")

from dinotile.demo import VAE
from dinotile.demo.train import decoder as train_decoder  # noqa: E402
from dinotile.demo.train import flux as train_flux
from dinotile.demo.train import upscaler as train_upscaler
from dinotile.demo.train import vae as train_vae
from dinotile.demo.train.muon import optimizers, orthogonal
from dinotile.demo.train.pictures import held_out, psnr
from dinotile.demo.train.task import train_for
from dinotile.files.pixels import resize
from dinotile.hosts.diffusers.load import load_vae
from dinotile.hosts.diffusers.upscale_model import enlarge, load_upscale_model


@pytest.fixture
def small_report(monkeypatch):
    """What a training tells of itself at the end, on a part of the photo."""
    part = held_out()[..., :64, :96]
    monkeypatch.setattr(train_flux, "held_out", lambda: part)


def test_polishing_the_decoder_leaves_the_encoder_as_it_is(tmp_path, monkeypatch, small_report):
    """Every latent keeps its meaning, for FLUX and for the adapters."""
    polished = tmp_path / "vae.safetensors"
    monkeypatch.setattr(train_vae, "VAE", polished)  # where it writes
    monkeypatch.setattr(train_decoder, "Pictures", partial(train_decoder.Pictures, worlds=2))
    train_decoder.train(minutes=0.02, seed=0)
    before, after = load_file(VAE), load_file(polished)
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"taesd_decoder"}


def test_the_upscaler_begins_at_its_sources_nearest_pixels_and_learns(tmp_path, monkeypatch):
    begun = train_upscaler.started()
    pixels = torch.rand(1, 3, 8, 9)
    assert torch.equal(begun(pixels), pixels.repeat_interleave(2, 2).repeat_interleave(2, 3))
    grown = begun.body[:-1](pixels)
    assert grown.std() > 0.1  # nothing dies on the way
    monkeypatch.setattr(train_upscaler, "UPSCALER", tmp_path / "up.safetensors")
    monkeypatch.setattr(train_upscaler, "COUNT", 4)
    true = held_out()
    small = resize(true, height=144, width=224)
    plain = psnr(small.repeat_interleave(2, 2).repeat_interleave(2, 3), true)
    minutes, gained = 0.0, 0.0
    while gained <= 1:  # as long as this machine needs, from where it was
        assert (minutes := minutes + 0.04) < 2
        train_upscaler.train(minutes=minutes, seed=0, folder=tmp_path / "run")
        model = load_upscale_model(tmp_path / "up.safetensors")
        gained = psnr(enlarge(model, small, device=true.device), true) - plain


def test_sources_of_the_upscaler_are_clean_or_lightly_spoilt():
    torch.manual_seed(0)
    true = train_upscaler.Pictures(seed=0, worlds=0).crops(60, side=32)
    clean = resize(true, height=16, width=16)
    off = torch.cat([train_upscaler.spoilt(one[None]) for one in true]) - clean
    assert 0.5 < (off.abs().amax((1, 2, 3)) == 0).float().mean() < 0.9
    assert 0.001 < off.abs().mean() < 0.02


def test_only_windows_of_the_world_come_with_text():
    torch.manual_seed(0)
    pictures = train_flux.Pictures(seed=0, worlds=0)
    windows = train_flux.LatentBank(load_vae(VAE), pictures, size=3, seed=0).batch()
    text = windows.text.context
    assert windows.latents.shape[:2] == (len(text), 16)
    assert text[~windows.photos].any() and not text[windows.photos].any()


def test_flux_is_trained_compiled(tmp_path, monkeypatch, caplog, small_report):
    """By a backend that runs each graph as it is, and needs no C++ compiler."""
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(train_flux, "BANK_SIZE", 4)
    monkeypatch.setattr(train_flux, "FLUX", tmp_path)
    monkeypatch.setitem(train_flux.compile_blocks.__kwdefaults__, "backend", backend)
    train_flux.train(minutes=0.02, seed=0, compiled=True)
    trained = load_file(tmp_path / train_flux.WEIGHTS)
    assert trained["proj_out.weight"].abs().max() > 0  # it begins at 0
    assert len(graphs) >= 2 and "cannot be had" not in caplog.text  # both kinds of blocks


def test_a_training_learns_and_goes_on_from_its_folder(tmp_path):
    written = []

    def run(minutes):
        torch.manual_seed(0)
        model = nn.Linear(4, 4)
        train_for(
            model,
            optimizers(model, lr=0.1),
            batch=lambda share: torch.randn(32, 4),
            loss=lambda x: (model(x) - x.flip(1)).square().mean(),
            write=lambda steps, loss: written.append((steps, float((model.weight - torch.eye(4).flip(1)).norm()))),
            minutes=minutes,
            seed=0,
            folder=tmp_path,
            save_every=10**9,
        )

    for minutes in (0.003, 0.02):
        run(minutes)
    (first, far), (steps, near) = written
    assert 1 <= first < steps and near < far
    assert not (tmp_path / f"step-{first:06d}").exists() and (tmp_path / f"step-{steps:06d}").is_dir()


def test_muon_leaves_slow_parameters_to_a_careful_adamw():
    flux = train_flux.new_flux()
    muon, adamw = optimizers(flux, lr=1e-2, slow=train_flux.SLOW)
    late = {id(parameter) for parameter in flux.time_text_embed.parameters()}
    rates = {id(p): group["lr"] for tool in (muon, adamw) for group in tool.param_groups for p in group["params"]}
    assert set(rates) == {id(parameter) for parameter in flux.parameters()}
    assert {rates[each] for each in late} == {1e-3} and not late & {id(p) for p in muon.param_groups[0]["params"]}


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_muon_s_matrices_are_nearly_orthogonal(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5 and values.max() < 1.3
