import pytest
import torch

from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.seams import border_ratio

PLAN = plan_tiles(160, 240, tile=96, overlap=32)


def picture():
    return torch.rand(1, 3, 160, 240, generator=torch.Generator().manual_seed(0))


def test_a_picture_without_tiles_is_neutral():
    assert border_ratio(picture(), PLAN) == pytest.approx(1, abs=0.05)


def test_a_step_at_the_tile_borders_shows_and_grows():
    ratios = []
    for step in (0.0, 0.1, 0.3):
        stepped = picture()
        stepped[..., PLAN.lefts[1] :] += step
        ratios.append(border_ratio(stepped, PLAN))
    assert ratios == sorted(ratios) and ratios[2] > ratios[0] * 1.02


def test_a_step_elsewhere_does_not_raise_it():
    stepped = picture()
    stepped[..., PLAN.lefts[1] + 13 :] += 0.3
    assert border_ratio(stepped, PLAN) <= border_ratio(picture(), PLAN)


def test_one_tile_has_no_borders():
    with pytest.raises(ValueError, match="one tile and so no borders"):
        border_ratio(picture(), plan_tiles(160, 240, tile=256, overlap=32))
