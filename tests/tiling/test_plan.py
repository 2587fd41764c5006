import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinotile.flux_patch.families import FAMILIES, plan_tiles
from dinotile.tiling.plan import Box, canvas_size
from dinotile.tiling.windows import tile_windows, window

GRID = 16


@st.composite
def plans(draw):
    tile = GRID * draw(st.integers(2, 80))
    overlap = draw(st.integers(0, tile - GRID))
    step = GRID * max(1, (tile - overlap) // GRID)
    height, width = (min(draw(st.integers(1, 6000)), tile + 14 * step) for _ in range(2))
    try:
        return plan_tiles(height, width, tile=tile, overlap=overlap)
    except ValueError as error:  # shortened tiles may leave no room for one grid step
        assert "leaves no room" in str(error) and tile - overlap < 2 * GRID
        return plan_tiles(height, width, tile=tile, overlap=overlap - GRID if overlap >= GRID else 0)


def mirrored(origins, size, side):
    return tuple(side - size - o for o in reversed(origins))


@settings(max_examples=10_000, deadline=None)
@given(plans())
def test_every_plan_covers_the_canvas_and_its_windows_sum_to_one(plan):
    check_plan(plan)
    check_windows(plan)


def check_plan(plan):
    """On the grid, with the overlap asked for, its own mirror image."""
    for origins, size, side in ((plan.tops, plan.tile_height, plan.height), (plan.lefts, plan.tile_width, plan.width)):
        assert origins[0] == 0 and origins[-1] + size == side
        assert all(o % GRID == 0 for o in origins)
        assert all(a + size - b >= plan.overlap and b > a for a, b in zip(origins, origins[1:], strict=False))
        assert mirrored(origins, size, side) == origins


def check_windows(plan):
    """Positive, finite, mirrored."""
    pairs = tile_windows(plan)
    columns = len(plan.lefts)
    vertical = [pairs[i * columns][0] for i in range(len(plan.tops))]
    horizontal = [pair[1] for pair in pairs[:columns]]
    for origins, profiles, side in ((plan.tops, vertical, plan.height), (plan.lefts, horizontal, plan.width)):
        weights = torch.stack(profiles)  # [tiles, cells]
        assert bool((weights > 0).all()) and bool(weights.isfinite().all())
        total = torch.zeros(side)
        for origin, profile in zip(origins, profiles, strict=True):
            total[origin : origin + len(profile)] += profile
        assert (total - 1).abs().max() <= 1e-6
        assert torch.allclose(weights, weights.flip(0, 1), atol=1e-6)


def test_two_dimensional_windows_sum_to_one():
    plan = plan_tiles(720, 1040, tile=256, overlap=80)
    total = torch.zeros(plan.height, plan.width)
    for box, pair in zip(plan.boxes, tile_windows(plan), strict=True):
        total[box.top : box.bottom, box.left : box.right] += window(pair)
    assert (total - 1).abs().max() <= 1e-6


def test_weights_fade_over_the_overlap_only():
    plan = plan_tiles(256, 448, tile=256, overlap=64)
    first, last = (pair[1] for pair in tile_windows(plan))
    assert plan.lefts == (0, 192)
    assert bool((first[:192] == 1).all()) and bool((first[192:] < 1).all())
    assert bool((last[64:] == 1).all())


def test_a_small_picture_is_one_tile():
    plan = plan_tiles(96, 112, tile=256, overlap=32)
    assert plan.boxes == [Box(0, 0, 96, 112)]


def test_known_plans():
    assert plan_tiles(2048, 2048, tile=1024, overlap=128).tops == (0, 512, 1024)
    assert plan_tiles(2048, 3072, tile=1024, overlap=128).lefts == (0, 688, 1360, 2048)
    assert plan_tiles(16, 16, tile=1024, overlap=128).count == 1
    assert plan_tiles(160, 1600, tile=256, overlap=32).tops == (0,)


def test_a_canvas_that_is_off_the_grid_gets_shorter_tiles_with_origins_on_it():
    plan = plan_tiles(2040, 2040, tile=1024, overlap=128)
    assert plan.tile_height == 1016
    assert all(top % 16 == 0 for top in plan.tops) and plan.tops[-1] + 1016 == 2040


def test_an_odd_way_shortens_the_tiles_before_it_adds_one():
    plan = plan_tiles(2064, 2064, tile=1024, overlap=128)
    assert plan.tile_height == 1008 and plan.tops == (0, 528, 1056)
    full = plan_tiles(16 * 13, 16, tile=64, overlap=0)  # 9 cells in steps of up to 4: no room to shorten
    assert full.tile_height == 64 and len(full.tops) == 4


def test_latent_plan_is_the_pixel_plan_divided_by_eight():
    plan = plan_tiles(1360, 2048, tile=1024, overlap=128)
    latent = plan.latent
    assert (latent.height, latent.width, latent.tile_height) == (170, 256, 128)
    assert latent.lefts == tuple(left // 8 for left in plan.lefts)
    assert (plan.grid, plan.cell, latent.grid, latent.cell) == (16, 8, 2, 1)
    with pytest.raises(ValueError, match="1364 is not a multiple of 8"):
        _ = plan_tiles(1364, 2048, tile=1024, overlap=128).latent


def test_a_family_of_wider_cells_plans_whole_cells():
    plan = plan_tiles(1360, 2048, tile=1024, overlap=128, family=FAMILIES["flux2"])
    assert (plan.grid, plan.cell, plan.latent.grid) == (16, 16, 1)
    assert plan.latent.lefts == tuple(left // 16 for left in plan.lefts)


def test_canvas_size_rounds_up():
    assert canvas_size(666, 1034, grid=GRID) == (672, 1040)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 64, "overlap": 96}, "overlap 96 must be smaller than tile 64: raise the tile or lower the overlap"),
        ({"tile": 64, "overlap": 64}, "overlap 64 must be smaller than tile 64"),
        ({"tile": 100, "overlap": 8}, "tile 100 must be a multiple of 16, at least 16: use 96 or 112"),
        ({"tile": 64, "overlap": -1}, "overlap -1 must not be negative"),
        ({"tile": 64, "overlap": 60}, "overlap 60 leaves no room for a step of 16 in tile 64"),
    ],
)
def test_impossible_sizes_say_what_to_change(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(512, 512, **arguments)
    with pytest.raises(ValueError, match="canvas height 0"):
        plan_tiles(0, 512)


def test_more_tiles_than_anybody_waits_for_are_refused_at_once():
    assert plan_tiles(65_536, 65_536, tile=1024, overlap=128).count > 5_000
    assert plan_tiles(64 * 100, 64 * 100, tile=64, overlap=0).count == 10_000
    for side, tile, overlap, count in (
        (65_536, 80, 16, "1,048,576"),
        (64 * 101, 64, 0, "10,201"),
        (7000, 64, 33, "189,225"),
        (10**15, 64, 0, "244,140,625"),
    ):
        begin = time.process_time()
        with pytest.raises(ValueError, match=rf"{side} x {side} takes {count}.* at most 10,000 .*: raise the tile"):
            plan_tiles(side, side, tile=tile, overlap=overlap)
        assert time.process_time() - begin < 0.1
    for height, width, tile, overlap, count in (
        (64, 10**15, 64, 0, "15,625"),
        (52_989, 32_982, 496, 64, "10,240 tiles"),
    ):
        with pytest.raises(ValueError, match=f"{count}.* at most 10,000"):
            plan_tiles(height, width, tile=tile, overlap=overlap)
