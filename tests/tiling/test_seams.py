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


@pytest.mark.parametrize("kind", ["top", "bottom", "left", "right"])
def test_every_inner_edge_of_every_tile_counts(kind):
    """On a ramp, whose steps are all 1, a step of 9 on one of n border lines has the ratio (n + 8) / n."""
    plan = plan_tiles(224, 160, tile=96, overlap=32)  # no edge lies on another one
    inner = {"top": plan.tops[1:], "left": plan.lefts[1:]}
    inner["bottom"] = tuple(top + plan.tile_height for top in plan.tops[:-1])
    inner["right"] = tuple(left + plan.tile_width for left in plan.lefts[:-1])
    lines = {("rows" if name in ("top", "bottom") else "columns", edge) for name in inner for edge in inner[name]}
    assert len(lines) == sum(len(edges) for edges in inner.values()) == 6
    for edge in inner[kind]:
        ramp = torch.arange(224.0)[:, None] + torch.arange(160.0)  # [H, W]
        (ramp if kind in ("top", "bottom") else ramp.T)[edge:] += 8
        assert border_ratio(ramp[None, None], plan) == pytest.approx((6 + 8) / 6, rel=1e-4)


def test_a_step_elsewhere_does_not_raise_it():
    stepped = picture()
    stepped[..., PLAN.lefts[1] + 13 :] += 0.3
    assert border_ratio(stepped, PLAN) <= border_ratio(picture(), PLAN)


def test_one_tile_has_no_borders():
    with pytest.raises(ValueError, match="one tile and so no borders"):
        border_ratio(picture(), plan_tiles(160, 240, tile=256, overlap=32))
