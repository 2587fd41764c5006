import random
import time
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinotile.flux_patch.families import FAMILIES, plan_tiles
from dinotile.tiling.plan import FITS, Box, canvas_size
from dinotile.tiling.windows import tile_windows, window

GRID = 16
exact = partial(plan_tiles, fit="exact")


@st.composite
def plans(draw):
    return any_plan(lambda low, high: draw(st.integers(low, high)))


def any_plan(number):
    """number(low, high): chooses."""
    tile = GRID * number(2, 80)
    overlap = number(0, tile - GRID)
    step = GRID * max(1, (tile - overlap) // GRID)
    height, width = (min(number(1, 6000), tile + 14 * step) for _ in range(2))
    fit = FITS[number(0, len(FITS) - 1)]
    try:
        return plan_tiles(height, width, tile=tile, overlap=overlap, fit=fit)
    except ValueError as error:  # shortened tiles may leave no room for one grid step
        assert fit == "exact" and "leaves no room" in str(error) and tile - overlap < 2 * GRID
        return plan_tiles(height, width, tile=tile, overlap=overlap - GRID if overlap >= GRID else 0, fit=fit)


def mirrored(origins, size, side):
    return tuple(side - size - o for o in reversed(origins))


@settings(max_examples=500, deadline=None)
@given(plans(), st.booleans())
def test_every_plan_covers_the_canvas_and_its_windows_sum_to_one(plan, down):
    check_plan(plan)
    check_windows(plan, down=down)  # one axis, as each is alone and both are drawn alike: half the time


def test_so_do_ten_thousand_at_random():
    """Hypothesis, which looks for corners, takes longer to draw a plan than to check it."""
    dice = random.Random(0)
    for count in range(10_000):
        plan = any_plan(dice.randint)
        check_plan(plan)
        if count % 4 == 0:  # windows take most of the time
            check_windows(plan, down=dice.random() < 0.5)


def check_plan(plan):
    """On the grid, with the overlap asked for, its own mirror image."""
    for origins, size, side in ((plan.tops, plan.tile_height, plan.height), (plan.lefts, plan.tile_width, plan.width)):
        assert origins[0] == 0 and origins[-1] + size == side
        assert all(o % GRID == 0 for o in origins)
        assert all(a + size - b >= plan.overlap and b > a for a, b in zip(origins, origins[1:], strict=False))
        assert mirrored(origins, size, side) == origins


def check_windows(plan, *, down):
    """Positive, finite, mirrored, down or across."""
    pairs, columns = tile_windows(plan), len(plan.lefts)
    origins, side = (plan.tops, plan.height) if down else (plan.lefts, plan.width)
    profiles = [row for row, _ in pairs[::columns]] if down else [column for _, column in pairs[:columns]]
    weights = torch.stack(profiles)  # [tiles, cells]
    assert weights.min() > 0 and weights.max() < float("inf")
    total = torch.zeros(side)
    for origin, profile in zip(origins, profiles, strict=True):
        total[origin : origin + len(profile)] += profile
    assert (total - 1).abs().max() <= 1e-6
    assert (weights - weights.flip(0, 1)).abs().max() <= 1e-6


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


def test_known_exact_plans():
    assert exact(2048, 2048, tile=1024, overlap=128).tops == (0, 512, 1024)
    assert exact(2048, 3072, tile=1024, overlap=128).lefts == (0, 688, 1360, 2048)
    assert exact(16, 16, tile=1024, overlap=128).count == 1
    assert exact(160, 1600, tile=256, overlap=32).tops == (0,)


@pytest.mark.parametrize(
    ("width", "height", "tiles", "work"),
    [
        (2048, 2048, "2 x 2 of 1088 x 1088", 1.13),
        (4096, 4096, "4 x 4 of 1120 x 1120", 1.20),
        (1536, 1536, "2 x 2 of 832 x 832", 1.17),
        (3072, 2048, "3 x 2 of 1120 x 1088", 1.16),
        (2560, 1440, "3 x 2 of 960 x 784", 1.225),  # three tiles of 944 have no mirror image on the grid
        (1664, 2432, "2 x 2 of 896 x 1280", 1.13),
        (1280, 1024, "1 x 1 of 1280 x 1024", 1.0),
        (1296, 700, "2 x 1 of 768 x 700", 1.19),
        (2040, 2041, "2 x 2 of 1096 x 1097", 1.16),
        (16, 16, "1 x 1 of 16 x 16", 1.0),
    ],
)
def test_known_balanced_plans(width, height, tiles, work):
    plan = plan_tiles(height, width, tile=1024, overlap=128)
    assert f"{len(plan.lefts)} x {len(plan.tops)} of {plan.tile_width} x {plan.tile_height}" == tiles
    assert plan.work == pytest.approx(work, abs=0.005)


def canvases():
    """Sides, tiles and overlaps, also close to the tile, for which a balanced plan may have up to 25 tiles."""
    sizes = st.tuples(st.integers(1, 1500), st.integers(1, 1500), st.integers(4, 20), st.integers(0, 2**16))
    return sizes.map(lambda n: (n[0], n[1], 16 * n[2], n[3] % (16 * n[2])))


@settings(max_examples=300, deadline=None)
@given(canvases())
def test_no_rows_columns_and_sizes_near_the_tile_sample_less_than_a_balanced_plan(canvas):
    (height, width), (tile, overlap) = canvas_size(*canvas[:2], grid=GRID), canvas[2:]
    plan = plan_tiles(height, width, tile=tile, overlap=overlap)
    for side, size in ((height, plan.tile_height), (width, plan.tile_width)):
        assert size == side <= 1.25 * tile or 0.75 * tile <= size <= 1.25 * tile
    down, across = (brute(side, tile, overlap) for side in (height, width))
    fewest = min(rows * tall * columns * wide for rows, tall in down for columns, wide in across)
    same = [(tall, wide) for rows, tall in down for columns, wide in across if rows * tall * columns * wide == fewest]
    assert plan.count * plan.tile_height * plan.tile_width == fewest
    squarest = min(max(pair) / min(pair) for pair in same)
    assert max(plan.tile_height, plan.tile_width) / min(plan.tile_height, plan.tile_width) == squarest


def brute(side, tile, overlap):
    """All numbers and sizes of tiles near the one asked for that cover a side: each origin counted up, one by one."""
    found = [(1, side)] if side <= 1.25 * tile else []
    for size in range(GRID, side, GRID):
        if not 0.75 * tile <= size <= 1.25 * tile:
            continue
        way, longest = (side - size) // GRID, (size - overlap) // GRID
        for gaps in range(1, way + 1):
            middle = way % 2 if gaps % 2 == 0 else 0  # two equal halves
            if gaps * longest >= way and not middle:
                found.append((gaps + 1, size))
                break
    return found


@settings(max_examples=1000, deadline=None)
@given(canvases())
def test_a_side_off_the_grid_takes_no_more_tiles_than_the_next_multiple(canvas):
    height, width, tile, overlap = canvas
    plan = plan_tiles(height, width, tile=tile, overlap=overlap)
    whole = plan_tiles(*canvas_size(height, width, grid=GRID), tile=tile, overlap=overlap)
    assert len(plan.tops) <= len(whole.tops) and len(plan.lefts) <= len(whole.lefts)
    for side, size in ((height, plan.tile_height), (width, plan.tile_width)):
        assert size == side or 0.75 * tile - GRID < size < 1.25 * tile + 2 * GRID


def test_a_canvas_that_is_off_the_grid_gets_shorter_exact_tiles_with_origins_on_it():
    plan = exact(2040, 2040, tile=1024, overlap=128)
    assert plan.tile_height == 1016
    assert all(top % 16 == 0 for top in plan.tops) and plan.tops[-1] + 1016 == 2040


def test_an_odd_way_shortens_exact_tiles_before_it_adds_one():
    plan = exact(2064, 2064, tile=1024, overlap=128)
    assert plan.tile_height == 1008 and plan.tops == (0, 528, 1056)
    full = exact(16 * 13, 16, tile=64, overlap=0)  # 9 cells in steps of up to 4: no room to shorten
    assert full.tile_height == 64 and len(full.tops) == 4


def test_latent_plan_is_the_pixel_plan_divided_by_eight():
    plan = plan_tiles(1360, 2048, tile=1024, overlap=128)
    latent = plan.latent
    assert (latent.height, latent.width, latent.tile_height) == (170, 256, plan.tile_height // 8)
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
        ({"tile": 64, "overlap": 60, "fit": "exact"}, "overlap 60 leaves no room for a step of 16 in tile 64"),
        ({"tile": 48, "overlap": 40}, "overlap 40 leaves no room for a step of 16 in tile 48"),
        ({"tile": 64, "overlap": 8, "fit": "loose"}, "tile fit 'loose' must be balanced or exact"),
    ],
)
def test_impossible_sizes_say_what_to_change(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(512, 512, **arguments)
    with pytest.raises(ValueError, match="canvas height 0"):
        plan_tiles(0, 512)


def test_more_tiles_than_anybody_waits_for_are_refused_at_once():
    assert exact(65_536, 65_536, tile=1024, overlap=128).count > 5_000
    assert exact(64 * 100, 64 * 100, tile=64, overlap=0).count == 10_000
    for side, tile, overlap, fit, count in (
        (65_536, 80, 16, "exact", "1,048,576"),
        (65_536, 80, 16, "balanced", "670,761"),
        (64 * 101, 64, 0, "exact", "10,201"),
        (7000, 64, 33, "exact", "189,225"),
        (10**15, 64, 0, "exact", "244,140,625"),
        (10**15, 64, 0, "balanced", "156,250,000"),
    ):
        begin = time.process_time()
        with pytest.raises(ValueError, match=rf"{side} x {side} takes {count}.* at most 10,000 .*: raise the tile"):
            plan_tiles(side, side, tile=tile, overlap=overlap, fit=fit)
        assert time.process_time() - begin < 0.1
    for height, width, tile, overlap, count in (
        (64, 10**15, 64, 0, "15,625"),
        (52_989, 32_982, 496, 64, "10,240 tiles"),
    ):
        with pytest.raises(ValueError, match=f"{count}.* at most 10,000"):
            exact(height, width, tile=tile, overlap=overlap)
