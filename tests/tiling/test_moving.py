import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.moving import moved, step_of
from dinotile.tiling.windows import tile_windows

from .test_plan import GRID, plans

STEPS = 40


@settings(max_examples=1000, deadline=None)
@given(plans(), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_tiles_of_every_step_cover_the_canvas_on_the_grid_with_the_overlap_asked_for(plan, seed, step):
    at = moved(plan, step=step, seed=seed)
    least = -(-plan.overlap // GRID) * GRID
    for origins, sizes, side, before in (
        (at.tops, at.heights, at.height, plan.heights),
        (at.lefts, at.widths, at.width, plan.widths),
    ):
        assert sum(sizes) <= sum(before) or side % GRID or plan.overlap % GRID
        ends = [origin + size for origin, size in zip(origins, sizes, strict=True)]
        assert origins[0] == 0 and ends[-1] == side and min(sizes) > 0
        assert max(sizes) <= 1.375 * max(before) + GRID
        assert all(number % GRID == 0 for number in (*origins, *ends[:-1]))
        assert all(end - following == least for end, following in zip(ends, origins[1:], strict=False))
    rows = tile_windows(at)[:: len(at.lefts)]
    total = torch.zeros(at.height)
    for top, (row, _) in zip(at.tops, rows, strict=True):
        assert bool((row > 0).all())
        total[top : top + len(row)] += row
    assert (total - 1).abs().max() <= 1e-6


def test_tiles_move_by_up_to_a_quarter_and_inner_ones_keep_their_size():
    plan = plan_tiles(4096, 3072, tile=1024, overlap=32)
    steps = [moved(plan, step=step, seed=7) for step in range(STEPS)]
    assert {size for at in steps for size in at.heights[1:-1]} == {plan.tile_height}
    for origins, size in (("tops", plan.tile_height), ("lefts", plan.tile_width)):
        seconds = [getattr(at, origins)[1] for at in steps]
        assert 0.4 * size < max(seconds) - min(seconds) <= size / 2
        assert (
            min(abs(a - b) for a, b in zip(seconds, seconds[1:], strict=False)) >= size // 16
        )  # no seam twice in a row
        assert len(set(seconds)) > 15
    assert all(0.7 < size / 1024 < 1.35 for at in steps for size in (*at.heights, *at.widths))


@pytest.mark.parametrize(("side", "overlap"), [(2048, 0), (2048, 16), (2048, 32), (4096, 0), (4096, 16), (4096, 32)])
def test_little_is_sampled_twice(side, overlap):
    plan = plan_tiles(side, side, tile=1024, overlap=overlap)
    assert max(moved(plan, step=step, seed=3).work for step in range(STEPS)) <= 1.05


def test_a_step_is_the_same_each_time_and_another_step_or_seed_is_not():
    plan = plan_tiles(2048, 2048, tile=512, overlap=16)
    assert moved(plan, step=3, seed=9) == moved(plan, step=3, seed=9)
    assert moved(plan, step=3, seed=9).tops == (0, 560, 1072, 1584)
    assert len({moved(plan, step=step, seed=9) for step in range(4)}) == 4
    assert len({moved(plan, step=0, seed=seed) for seed in range(4)}) == 4


def test_one_tile_does_not_move():
    plan = plan_tiles(1024, 700, tile=1024, overlap=32)
    assert moved(plan, step=5, seed=1) == plan


def test_a_noise_level_belongs_to_the_step_that_it_lies_in():
    sigmas = [0.9, 0.6, 0.3, 0.0]
    assert [step_of(sigma, sigmas) for sigma in (1.1, 0.9, 0.7, 0.6, 0.59999, 0.4, 0.3, 0.1, 0.0)] == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        3,
    ]
