"""A VAE walked in strips gives what the whole gives."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dinotile.benchmarks.counts import Counts, Fused
from dinotile.benchmarks.vae_strips import random_vae
from dinotile.hosts import vae_walk
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.strips import Strips
from dinotile.hosts.vae_walk import Network, normed, pointwise

from ..tiny import picture, tiny_kl, tiny_vae

CPU, META = torch.device("cpu"), torch.device("meta")
ROOMS = {"for all maps": 1 << 40, "for some": 20 << 20, "for none": 0}


def whole_latents(vae, pixels):
    encoded = vae.encode(pixels * 2 - 1)
    raw = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return (raw - vae.config["shift_factor"]) * vae.config["scaling_factor"]


def whole_pixels(vae, latents):
    raw = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    return (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)


def quantising_kl():
    """With the 1 x 1 convolutions on either side of the latents that other VAEs than FLUX's have."""
    vae, (first, second) = tiny_kl(), (nn.Conv2d(32, 32, 1), nn.Conv2d(16, 16, 1))
    vae.quant_conv, vae.post_quant_conv = (conv.requires_grad_(False) for conv in (first, second))
    return vae


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    monkeypatch.setattr(vae_walk, "AREA_OF_CACHE", 400)
    monkeypatch.setattr(vae_walk, "ROWS", 1)
    monkeypatch.setattr(vae_walk, "AT_ONCE", 8 * 64)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("make", [tiny_kl, quantising_kl, tiny_vae])
def test_strips_are_the_whole(make, room, monkeypatch):
    monkeypatch.setattr(vae_path, "FREE", ROOMS[room])
    vae = make()
    for size in ((80, 48), (16, 112)):
        pixels = picture(*size, batch=2)
        with torch.no_grad():
            latents = whole_latents(vae, pixels)
            decoded = whole_pixels(vae, latents)
        assert (vae_path.encode(vae, pixels) - latents).abs().max() < 1e-5
        assert (vae_path.decode(vae, latents) - decoded).abs().max() < 3e-5


def test_strips_are_the_whole_at_the_width_of_fluxs_vae():
    vae = random_vae(128, tiny=False, device=CPU, dtype=torch.float32)
    vae.register_to_config(scaling_factor=0.3611, shift_factor=0.1159)
    pixels = picture(48, 32)
    with torch.no_grad():
        latents = whole_latents(vae, pixels)
        decoded = whole_pixels(vae, latents)
    assert (vae_path.encode(vae, pixels) - latents).abs().max() < 1e-5
    assert (vae_path.decode(vae, latents) - decoded).abs().max() < 1e-5


def test_in_bfloat16_strips_are_as_near_to_float32_as_the_whole():
    vae, pixels = tiny_kl(), picture(80, 48)
    half = copy.deepcopy(vae).bfloat16()
    with torch.no_grad():
        latents = whole_latents(vae, pixels)
        decoded = whole_pixels(vae, latents)
        errors = whole_latents(half, pixels.bfloat16()) - latents, whole_pixels(half, latents.bfloat16()) - decoded
    ours = vae_path.encode(half, pixels) - latents, vae_path.decode(half, latents) - decoded
    for strips, whole in zip(ours, errors, strict=True):
        assert 0 < strips.abs().mean() < 1.1 * whole.abs().mean()


def test_a_vae_with_other_layers_runs_whole():
    vae, pixels = tiny_kl(), picture(32, 48)
    vae.register_to_config(act_fn="relu")
    with torch.no_grad():
        assert torch.equal(vae_path.encode(vae, pixels), whole_latents(vae, pixels))
    assert len(vae_path.decoder_network(vae).steps) == 1


def test_the_norm_of_a_map_far_from_zero_is_exact():
    """Where the mean is a thousand times the spread, the mean of squares less the square of the mean is noise."""
    norm, canvas = nn.GroupNorm(2, 4), torch.randn(1, 4, 50, 7) + 1000
    nn.init.normal_(norm.weight)
    network = Network([normed(norm)])
    with torch.no_grad():
        result = network.run(canvas, torch.empty_like(canvas), Strips(CPU, CPU, area=21))
        expected = torch.nn.functional.silu(norm.double()(canvas.double()))
    assert (result - expected).abs().max() < 1e-3


def test_a_norm_that_cannot_be_told_is_not_passed_over():
    class Other(nn.GroupNorm):
        def forward(self, x):
            return x - x.mean()

    canvas = torch.randn(1, 4, 8, 8)
    with pytest.raises(TypeError, match="Other does not call"):
        Network([normed(Other(2, 4))]).run(canvas, canvas.clone(), Strips(CPU, CPU, area=21))


@pytest.mark.parametrize(("half", "room"), [("encoder", "lean"), ("decoder", "lean"), ("decoder", "roomy")])
def test_a_plan_says_how_much_memory_it_takes(half, room, monkeypatch):
    """Counted at 2048 px with FLUX's widths on the meta device, which computes nothing."""
    monkeypatch.undo()
    vae = random_vae(128, tiny=False, device=META, dtype=torch.bfloat16)
    network = getattr(vae_path, f"{half}_network")(vae)
    strips, needed = network.plan((2048, 2048), vae.dtype, device=META, free=5 << 30 if room == "lean" else 1 << 40)
    shapes = [(1, 3, 2048, 2048), (1, 32 if half == "encoder" else 16, 256, 256)][:: 1 if half == "encoder" else -1]
    canvas, out = (torch.empty(shape, dtype=vae.dtype, device=META) for shape in shapes)
    with torch.no_grad(), Fused(), Counts() as counts:
        network.run(canvas, out, strips)
    assert strips.roomy == (room == "roomy") or half == "encoder"
    assert 0.5 * needed < counts.peak < 0.8 * needed  # without what convolutions take for themselves


def test_strips_of_a_wide_picture_are_not_made_of_halos(monkeypatch):
    monkeypatch.undo()
    vae = random_vae(64, tiny=True, device=META, dtype=torch.float32)
    network, latents = vae_path.decoder_network(vae), torch.empty(1, 16, 12, 1024, device=META)
    strips, _ = network.plan((96, 8192), torch.float32, device=CPU, free=1 << 40)
    with torch.no_grad(), Counts() as whole:
        vae.decoder(latents)
    with torch.no_grad(), Counts() as counts:
        network.run(latents, torch.empty(1, 3, 96, 8192, device=META), replace(strips, device=META, keep=META))
    assert whole.flops < counts.flops < 1.2 * whole.flops


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_strips_of_a_tiny_vae_hold_little_and_make_little_twice(half, monkeypatch):
    monkeypatch.undo()
    vae = random_vae(64, tiny=True, device=META, dtype=torch.float32)
    network, module = getattr(vae_path, f"{half}_network")(vae), getattr(vae, half)
    shapes = [(1, 3, 2048, 2048), (1, 16, 256, 256)][:: 1 if half == "encoder" else -1]
    canvas, out = (torch.empty(shape, device=META) for shape in shapes)
    strips, _ = network.plan((2048, 2048), torch.float32, device=CPU, free=1 << 40)
    with torch.no_grad(), Counts() as whole:
        module(canvas)
    with torch.no_grad(), Counts() as counts:
        network.run(canvas, out, replace(strips, device=META, keep=META))
    assert counts.flops < 1.3 * whole.flops
    assert counts.peak < 0.08 * whole.peak


def test_the_less_memory_is_free_the_more_is_done_without(monkeypatch):
    """At 4096 px in bfloat16, beside a FLUX on the same GPU."""
    monkeypatch.undo()
    network = vae_path.decoder_network(random_vae(128, tiny=False, device=META, dtype=torch.bfloat16))
    found = []
    for free in (40, 13, 11, 6):
        strips, needed = network.plan((4096, 4096), torch.bfloat16, device=META, free=free << 30)
        assert needed <= free << 30
        found.append((strips.roomy, strips.area == vae_walk.AREA, strips.keep.type))
    assert found == [(True, True, "meta"), (False, True, "meta"), (False, False, "meta"), (False, False, "cpu")]


def test_memory_that_does_not_suffice_costs_time_but_no_picture(caplog):
    vae, latents, calls, room = tiny_kl(), torch.randn(1, 16, 6, 8), [], [10_000]

    def full(strip):
        calls.append(strip.shape[2])
        if len(calls) == 5 or strip.shape[-2:].numel() > room[0]:
            raise torch.cuda.OutOfMemoryError("no room")
        return strip

    network = vae_path.decoder_network(vae)
    failing = network.between([], [pointwise(full)])
    strips = Strips(CPU, torch.device("cpu", 0), area=400)  # as if maps lay elsewhere than on the CPU
    out = torch.empty(1, 3, 48, 64)
    with torch.no_grad():
        whole = network.run(latents, out.clone(), strips)
        assert torch.equal(failing.run(latents, out, strips), whole)
        assert len(calls) == 5 + 8 and "in the CPU's" in caplog.text
        calls.extend([0] * 2)
        room[0] = 500
        assert (failing.run(latents, out, replace(strips, keep=CPU, area=1600)) - whole).abs().max() < 1e-5
        assert calls[15:] == [24, *[6] * 8] and "lower strips" in caplog.text
        room[0] = 0
        with pytest.raises(torch.cuda.OutOfMemoryError):
            network.between([pointwise(full)]).run(latents, out, strips)
