"""Redux on the command line's path: each tile's text is followed by the tokens of its own region."""

import dataclasses

import numpy as np
import pytest
import torch

import dinotile
from dinotile.dino.feature_map import sample_grid
from dinotile.files.pictures import to_image
from dinotile.flux_patch.redux import ReduxTokens, picture_tokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.redux import load_teacher
from dinotile.hosts.host import Text
from dinotile.upscaling.api import split_options
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.tile_batch import TileRow
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..near import assert_near
from ..tiny import picture, redux_files, redux_model, tiny_adapter

GRID = 3
SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=1, denoise=0.5, redux_grid=GRID)


@pytest.fixture(scope="module")
def redux_folder(tmp_path_factory):
    return redux_files(tmp_path_factory.mktemp("redux"))


@pytest.fixture(scope="module")
def redux(redux_folder):
    return load_teacher(redux_folder, redux_folder)


@pytest.fixture
def text():
    return Text(torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 16))


def drawn(flux, vae, pixels, *, settings=SETTINGS, **parts):
    return Upscaler(flux, vae, **parts).upscale(pixels, settings)[0]


def test_redux_acts_another_picture_acts_otherwise_and_strength_0_is_without(flux, vae, redux, text):
    pixels = picture(40, 52)
    usual, without = (drawn(flux, vae, pixels, text=text, redux=each) for each in (redux, None))
    off = dataclasses.replace(SETTINGS, redux_strength=0.0)
    assert torch.equal(drawn(flux, vae, pixels, settings=off, text=text, redux=redux), without)
    swapped, _ = Upscaler(flux, vae, text=text, redux=redux).upscale(pixels, SETTINGS, shown=picture(40, 52, seed=1))
    assert min((usual - other).abs().max() for other in (without, swapped)) > 1e-3


def test_each_tile_is_told_of_its_own_region_of_its_own_picture(flux, vae, redux, text):
    """Also of pictures whose canvas is padded, beside an adapter, and not in the negative of cfg."""
    pixels, seen = picture(40, 50, batch=2), []
    parts = {"dino": tiny_encoder("tiny-v2"), "adapter": tiny_adapter(flux), "text": text, "negative": text}
    upscaler = Upscaler(flux, vae, redux=redux, **parts)
    velocity, plan = upscaler.host.velocity, upscaler.host.latents.plan_tiles(80, 112, tile=64, overlap=16)

    def see(x, sigmas, *, text, **more):
        seen.append(text.context)
        return velocity(x, sigmas, text=text, **more)

    upscaler.host.velocity = see
    upscaler.upscale(pixels, dataclasses.replace(SETTINGS, cfg=2.0))
    whole, rows = redux.tokens(pixels), [TileRow(image, box) for image in (0, 1) for box in plan.latent.boxes]
    for row, context in zip(rows, seen[0], strict=True):
        box = row.box.fractions(80 / 8, 100 / 8)
        wanted = sample_grid(whole[row.image, None], [box], GRID)[0, 0].flatten(0, 1)
        assert (context[8:] - wanted).abs().max() < 1e-5 and torch.equal(context[:8], text.context[0])
    assert len(rows) > 2 and {row.image for row in rows} == {0, 1}
    assert {context.shape[1] for context in seen} == {8, 8 + GRID**2}


def test_the_option_loads_a_folder_of_diffusers(models, redux_folder):
    options = {"model_path": models[1], "no_dino": True, "tile": 64, "overlap": 16, "steps": 1, "redux_grid": GRID}
    image = to_image(picture(40, 52))
    plain, shown, half = (
        np.asarray(dinotile.upscale(image, **{**options, **more}), int)
        for more in ({"redux_grid": None}, {"redux": redux_folder}, {"redux": redux_folder, "redux_strength": 0.5})
    )
    assert min(abs(one - other).max() for one, other in ((plain, shown), (shown, half), (half, plain))) > 0
    with pytest.raises(ValueError, match="holds none of image_encoder/model.safetensors"):
        dinotile.upscale(image, **options, redux=redux_folder / "image_embedder")


def test_strength_2_is_the_tokens_twice_also_beside_padding(flux, vae, redux):
    tokens = ReduxTokens(redux.tokens(picture(40, 52)), GRID, Strength()).region().tokens
    host, generator = Upscaler(flux, vae).host, torch.Generator().manual_seed(1)
    x, sigmas = torch.randn(1, 16, 8, 8, generator=generator), torch.tensor([0.5])
    context = torch.randn(1, 8, 32, generator=generator)
    for mask in (None, torch.tensor([[True] * 6 + [False] * 2])):
        text = Text(context, torch.zeros(1, 16), mask=mask)
        double = text.followed_by(tokens, torch.full((1, GRID**2), 2.0))
        twice = text.followed_by(tokens, None).followed_by(tokens, None)
        once = text.followed_by(tokens, None)
        none = text.followed_by(tokens, torch.zeros(1, GRID**2))
        by = [host.velocity(x, sigmas, text=each) for each in (double, twice, once, none, text)]
        assert_near(by[0], by[1])
        assert_near(by[3], by[4])
        assert (by[2] - by[1]).abs().max() > 1e-3


def test_a_grid_of_crops_adds_what_each_quarter_shows(redux):
    quarters = torch.cat(
        [torch.cat([picture(48, 64, seed=2 * row + i) for i in range(2)], dim=3) for row in range(2)], dim=2
    )
    whole, finer = (picture_tokens(redux, quarters, crops=crops) for crops in (1, 2))
    assert whole.shape == (1, 6, 6, 32) and finer.shape == (1, 12, 12, 32)
    larger = torch.nn.functional.interpolate(whole.movedim(3, 1), scale_factor=2, mode="bilinear").movedim(1, 3)
    detail = 2 * finer - larger
    wanted = redux.tokens(picture(48, 64, seed=1))
    own, other = ((detail[:, :6, at] - wanted).norm() / wanted.norm() for at in (slice(6, None), slice(6)))
    assert own < 0.5 * other


@pytest.mark.parametrize("broken", range(5))
def test_tokens_of_the_whole_or_of_a_crop_that_are_nan_are_refused(broken):
    class Broken:
        side, asked = 8, -1

        def tokens(self, pixels):
            self.asked += 1
            return torch.full((len(pixels), 2, 2, 4), float("nan") if self.asked == broken else 1.0)

    with pytest.raises(ValueError, match="Redux gave tokens that are NaN or infinite"):
        picture_tokens(Broken(), picture(16, 16), crops=2)


def test_redux_is_refused_where_it_could_not_act(flux, vae, redux_folder):
    siglip, wide = redux_folder / "image_encoder/model.safetensors", redux_model(outputs=48)
    with pytest.raises(ValueError, match="redux_strength acts with redux only"):
        split_options({"redux_strength": 0.5})
    with pytest.raises(ValueError, match="redux strength 3 must be from 0 to 2"):
        UpscaleSettings(redux_strength=3)
    with pytest.raises(ValueError, match="redux grid 0 must be from 1 to 54"):
        UpscaleSettings(redux_grid=0)
    wide.save_pretrained(redux_folder / "wide")
    with pytest.raises(ValueError, match="Redux gives tokens 48 wide, the FLUX model takes 32"):
        Upscaler(flux, vae, redux=load_teacher(siglip, redux_folder / "wide"))
