from types import SimpleNamespace

import pytest
import torch

from dinotile.hosts.comfy.areas import flat_area
from dinotile.hosts.comfy.crop import crop_cells
from dinotile.hosts.comfy.latents import COARSEST, check_canvas, flat, like, patch_of
from dinotile.hosts.comfy.tiles import sized
from dinotile.tiling.plan import plan_tiles

PLAN = plan_tiles(24, 40, tile=16, overlap=4, grid=2, fit="exact")


class CONDNoiseShape(SimpleNamespace):
    """The name by which the host's own is known."""


@pytest.mark.parametrize(
    ("said", "patch"),
    [
        ({"patch_size": 2}, 2),
        ({"patch_size": (1, 2, 2)}, 2),
        ({"patch_size": [16, 16]}, 16),
        ({"patch_spatial": 2}, 2),
        ({"patch": 4}, 4),
        ({"channel_mult": [1, 2, 4]}, 4),
        ({"channel_mult": (1, 2, 4, 4)}, 8),
        ({}, COARSEST),
    ],
)
def test_a_token_is_as_wide_as_the_model_says(said, patch):
    assert patch_of(SimpleNamespace(**said)) == patch


@pytest.mark.parametrize(("shape", "said"), [((1, 16, 5, 8, 8), "5 frames"), ((1, 64, 100), "3 dimensions")])
def test_only_latents_of_one_picture_are_tiled(shape, said):
    with pytest.raises(ValueError, match=said):
        check_canvas(torch.zeros(shape))


def test_a_frame_goes_and_comes_back():
    latents = torch.rand(2, 16, 1, 4, 6)
    assert flat(latents).shape == (2, 16, 4, 6) and torch.equal(like(flat(latents), latents), latents)
    assert flat(latents[:, :, 0]).shape == (2, 16, 4, 6)


def test_an_area_may_have_frames_before_rows_and_columns():
    assert flat_area((3, 4, 1, 2)) == flat_area((9, 3, 4, 0, 1, 2)) == (3, 4, 1, 2)


def test_a_tensor_of_the_canvass_cells_is_cropped_where_the_host_does_not_do_it():
    cells = torch.arange(24.0 * 40).reshape(1, 1, 1, 24, 40)
    cropped = crop_cells(SimpleNamespace(cond=cells), (16, 16, 4, 20), PLAN).cond
    assert cropped.shape == (1, 1, 1, 16, 16) and cropped[0, 0, 0, 0, 0] == 4 * 40 + 20
    for kept in (CONDNoiseShape(cond=cells), SimpleNamespace(cond=torch.zeros(1, 24, 40)), SimpleNamespace(cond=3)):
        assert crop_cells(kept, (16, 16, 4, 20), PLAN) is kept


def test_a_size_that_the_person_said_stays():
    assert sized({"width": 7}, PLAN) == {"width": 7, "height": PLAN.tile_height}
    assert sized({}, plan_tiles(16, 16, tile=16, overlap=4, grid=2)) == {}
