"""One tile after the other: what is said of the whole picture reaches each tile as its own part, and its job's name."""

import dataclasses
import math

import pytest
import torch

from dinotile.dino.feature_map import sample_grid
from dinotile.files.pixels import resize
from dinotile.hosts.diffusers.redux import load_teacher
from dinotile.hosts.host import Text
from dinotile.tiling.canvas import cut, scaled_size
from dinotile.tiling.order import order
from dinotile.tiling.plan import Box, plan_tiles
from dinotile.upscaling import tile
from dinotile.upscaling.masks import Masks
from dinotile.upscaling.rows import Pixels
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, redux_model, siglip_model, tiny_adapter, tiny_flux, tiny_vae

GRID = 3
SETTINGS = UpscaleSettings(
    tile=64, overlap=16, steps=1, denoise=0.5, tile_fit="exact", redux_grid=GRID, mode="sequential"
)
PLAN = plan_tiles(112, 160, tile=64, overlap=16, grid=16, cell=8, fit="exact")  # 2 x 3 tiles, of 112 x 156 px
PIXELS = picture(56, 78)
LEFT = torch.zeros(1, 1, 28, 39)
LEFT[..., 20:] = 1  # black on the left


class JobFound(Exception):
    """Instead of a store: the name of the job is all that is asked for."""


def job(upscaler, settings=SETTINGS, masks=None):
    def open_store(name):
        raise JobFound(name)

    with pytest.raises(JobFound) as found:
        more = {"open_store": open_store, "masks": masks or Masks(), "write": lambda rows: None}
        upscaler.upscale_tiles(Pixels(PIXELS), settings, **more)
    return str(found.value)


def guided(flux, vae, *, seed=0, **more):
    return Upscaler(flux, vae, dino=tiny_encoder("tiny-v2", seed), adapter=tiny_adapter(flux), **more)


def test_dino_redux_and_the_dino_mask_tell_each_tile_of_its_own_place(flux, vae, tmp_path):
    siglip_model().save_pretrained(tmp_path / "image_encoder")
    redux_model().save_pretrained(tmp_path / "image_embedder")
    redux = load_teacher(tmp_path, tmp_path)
    text = Text(torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 16))
    upscaler, calls = guided(flux, vae, redux=redux, text=text), []
    velocity = upscaler.host.velocity

    def see(x, sigmas, *, text, rows, **more):
        calls.append((rows, text.context[0]))
        return velocity(x, sigmas, text=text, rows=rows, **more)

    upscaler.host.velocity = see
    upscaler.upscale(PIXELS, SETTINGS, masks=Masks(dino=LEFT))
    whole = redux.tokens(PIXELS)
    for number, ((row,), context) in zip(order(PLAN), calls, strict=True):
        box = PLAN.latent.boxes[number].fractions(112 / 8, 156 / 8)
        assert row.box == pytest.approx(box) and torch.equal(row.settings.mask, LEFT[0, 0])
        wanted = sample_grid(whole[0, None], [box], GRID)[0, 0].flatten(0, 1)
        assert (context[8:] - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [2, 1.5])  # of which one has borders of tiles between px of the source
def test_the_anchor_holds_each_tile_to_the_source_below_it(flux, vae, monkeypatch, scale):
    seen, start = [], tile.guided_estimates
    upscaler = Upscaler(flux, vae, decoder=tiny_vae(seed=3))
    host, settings = upscaler.host, dataclasses.replace(SETTINGS, scale=scale, anchor=0.5, steps=2, guide_to=0.6)

    def see(pixels, given, *, canvas, **more):
        seen.append((pixels, given, canvas))
        return start(pixels, given, canvas=canvas, **more)

    monkeypatch.setattr(tile, "guided_estimates", see)
    _, report = upscaler.upscale(PIXELS, settings)
    plan, (height, width) = settings.plan(56, 78, latents=host.latents), scaled_size(56, 78, scale=scale)
    told = report["guidance"]["pictures"][0]["anchor"]
    assert told["moved"] == report["guidance"]["outside_window"] == plan.count and told["last"] > 0
    large = resize(PIXELS, height=height, width=width)
    small = resize(large, height=56, width=78)
    for number, (pixels, given, canvas) in zip(order(plan), seen, strict=True):
        box = plan.box(number)
        own = cut(large, Box(box.top, box.left, min(box.bottom, height) - box.top, min(box.right, width) - box.left))
        missing = box.width - own.shape[-1], box.height - own.shape[-2]
        top, left = int(box.top / scale), int(box.left / scale)
        below = Box(top, left, *(math.ceil((at + side) / scale) - first for at, side, first in zip(
            (box.top, box.left), own.shape[-2:], (top, left), strict=True
        )))  # fmt: skip
        assert torch.equal(pixels, cut(PIXELS, below)) and given.anchor == 0.5 and canvas.decode == host.show
        padded = torch.nn.functional.pad(own, (0, missing[0], 0, missing[1]), mode="replicate")
        assert torch.equal(canvas.encode(own), host.read(padded))
        inner = slice(4, -4)  # where nothing beyond the tile is missed
        assert (canvas.enlarged(pixels) - own)[..., inner, inner].abs().max() < 1e-5
        shrunk = canvas.shrunk(padded, size=pixels.shape[-2:])
        assert (shrunk - cut(small, below))[..., inner, inner].abs().max() < 1e-5


def test_masks_and_dinos_own_keep_their_part_of_each_tile(flux, vae):
    upscaler = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), dino_uses=["adaptive"])
    adaptive = dataclasses.replace(SETTINGS, adaptive=1.0)
    still, _ = upscaler.upscale(PIXELS, dataclasses.replace(SETTINGS, denoise=0.0))
    plain, less = (upscaler.upscale(PIXELS, settings)[0] for settings in (SETTINGS, adaptive))
    masked, _ = upscaler.upscale(PIXELS, SETTINGS, masks=Masks(denoise=LEFT))
    far = slice(128, 156)  # where no neighbour that is masked is seen
    both = Masks(denoise=torch.cat([LEFT, 1 - LEFT]))
    first, second = upscaler.upscale(PIXELS.repeat(2, 1, 1, 1), SETTINGS, masks=both)[0].split(1)
    assert torch.equal(first, masked) and (second - still)[..., :40, far].abs().max() < 1e-4
    assert (second - plain)[..., :40, :40].abs().max() < 1e-4
    assert (masked - still)[..., :40, :40].abs().max() < 1e-4
    assert (masked - plain)[..., :40, far].abs().max() < 1e-4
    assert (plain - still)[..., :40, :40].abs().max() > 0.01
    assert (less - still).abs().mean() < 0.9 * (plain - still).abs().mean()


def test_all_that_tiles_depend_on_makes_another_job_and_nothing_else_does(flux, vae):
    plain, other = Upscaler(flux, vae), Upscaler(tiny_flux(), tiny_vae(), dtype=torch.bfloat16)  # which converts them
    upscaler = guided(flux, vae)
    jobs = [job(plain), job(other), job(upscaler), job(guided(flux, vae, seed=1))]
    jobs += [job(plain, masks=Masks(denoise=mask)) for mask in (LEFT, 1 - LEFT)]
    jobs += [job(upscaler, masks=Masks(dino=mask)) for mask in (LEFT, 1 - LEFT)]
    given = {"seed": 1, "denoise": 0.4, "steps": 2, "scale": 1.5, "vae_detail": 0.5, "color_match": "wavelet"}
    given |= {"anchor": 0.5, "guide_to": 0.1}
    jobs += [job(plain, dataclasses.replace(SETTINGS, **{name: value})) for name, value in given.items()]
    assert len(set(jobs)) == len(jobs)
    for same in ({"tile_batch": 3}, {"mode": "auto"}):
        assert job(plain, dataclasses.replace(SETTINGS, **same)) == jobs[0]
