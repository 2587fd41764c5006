from itertools import pairwise

import pytest
import torch

from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.seams import border_ratio, measure_seams

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


def ramp(height=160, width=240):
    """Steps of 0.001 down and 0.002 across, [1, 1, H, W]."""
    return (0.001 * torch.arange(height)[:, None] + 0.002 * torch.arange(width))[None, None]


def planted(pixels, between, at, step):
    """The picture with everything behind a line a step higher."""
    stepped = pixels.clone()
    (stepped if between == "rows" else stepped.mT)[..., at:, :] += step
    return stepped


@pytest.mark.parametrize("between", ["rows", "columns"])
@pytest.mark.parametrize("step", [0.01, 0.05, -0.2])
def test_a_step_is_read_in_its_height_at_its_own_border_and_nowhere_else(between, step):
    plan = plan_tiles(224, 160, tile=96, overlap=32)
    at = plan.tops[1] if between == "rows" else plan.lefts[1]
    borders = measure_seams(planted(ramp(224, 160), between, at, step), plan).borders
    own = [border for border in borders if (border.between, border.at) == (between, at)]
    assert [border.step for border in own] == pytest.approx([abs(step)] * len(own), rel=0.02)
    assert min(border.ratio for border in own) > 0.5
    others = [border for border in borders if border not in own]
    assert len(others) > 6 and max(max(abs(border.step), abs(border.ratio)) for border in others) < 1e-3


def test_a_step_along_one_tile_shows_at_that_tile():
    stepped, plan = ramp(224, 160), plan_tiles(224, 160, tile=96, overlap=32)
    stepped[..., plan.tops[1] : plan.tops[1] + 20, 8 : plan.lefts[1] - 8] += 0.05  # in the first column alone
    worst = measure_seams(stepped, plan).worst(2)
    assert (worst[0].between, worst[0].at, worst[0].start) == ("rows", plan.tops[1], 0) and worst[1].ratio < 0.1


def test_seams_are_ranked_by_their_height_and_told_by_rows_and_columns():
    scores = []
    for step in (0.0, 0.01, 0.03, 0.1):
        pixels = planted(picture(), "columns", PLAN.lefts[1], step)
        found = measure_seams(pixels, PLAN, source=picture()).summary()
        scores.append((found["score"], found["columns"]))
        assert abs(found["rows"]) < 1e-6
    assert scores[0] == (0, 0)
    assert all(low < high for before, after in pairwise(scores) for low, high in zip(before, after, strict=True))


def test_an_edge_that_the_source_has_is_no_seam():
    source = planted(picture(), "rows", PLAN.tops[1], 0.5)
    drawn = planted(source, "columns", PLAN.lefts[1], 0.05)
    told = measure_seams(drawn, PLAN, source=source)
    assert abs(told.ratio("rows")) < 1e-6 < told.ratio("columns") and told.worst(1)[0].at == PLAN.lefts[1]
    assert measure_seams(drawn, PLAN).worst(1)[0].at == PLAN.tops[1]
    smooth = measure_seams(picture(), PLAN, source=source)
    assert smooth.ratio("rows") < -0.1 and min(border.step for border in smooth.borders) == pytest.approx(-0.5, rel=0.1)


def test_a_flat_picture_has_no_seams_and_a_step_in_it_is_one():
    flat = torch.full((1, 3, 160, 240), 0.5)
    assert measure_seams(flat, PLAN).summary() == {"score": 0, "rows": 0, "columns": 0, "step": 0}
    stepped = measure_seams(planted(flat, "columns", PLAN.lefts[1], 0.1), PLAN)
    assert stepped.summary()["step"] == pytest.approx(0.1, rel=0.01) and stepped.ratio("columns") > 0.9


def test_of_a_picture_that_is_smaller_than_the_canvas_only_borders_within_are_measured():
    plan = plan_tiles(192, 240, tile=96, overlap=32)
    edge = max(plan.tops[1], plan.tops[0] + plan.heights[0])
    for height in (edge + 1, edge + 2):
        borders = measure_seams(picture()[..., :height, :], plan).borders
        assert max(border.end for border in borders if border.between == "columns") == height
        assert (edge in {border.at for border in borders if border.between == "rows"}) == (height == edge + 2)


def test_the_score_wants_borders_too():
    with pytest.raises(ValueError, match="one tile and so no borders"):
        measure_seams(picture(), plan_tiles(160, 240, tile=256, overlap=32))
