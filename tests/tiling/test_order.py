"""Which tile sees which, in which order, and where its noise comes from."""

import pytest
import torch

from dinotile.tiling.mosaic import Mosaic, levels_of, pixels_of
from dinotile.tiling.noise import placed_noise, seed_of
from dinotile.tiling.order import colour, neighbours, order, seen, waves, whole_after
from dinotile.tiling.plan import Box, plan_tiles

PLANS = [
    plan_tiles(height, width, tile=64, overlap=overlap, grid=16, cell=8)
    for height, width, overlap in ((64, 64, 16), (400, 64, 16), (304, 400, 16), (304, 400, 48), (64, 528, 0))
]
plans = pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.count} tiles, overlap {plan.overlap}")


@plans
def test_every_tile_comes_once_and_after_all_that_it_sees(plan):
    given = order(plan)
    assert sorted(given) == list(range(plan.count))
    done = set()
    for tile in given:
        assert set(seen(plan, tile)) <= done
        done.add(tile)


@plans
def test_a_wave_sees_earlier_ones_only(plan):
    done = set()
    for wave in waves(plan):
        assert wave and all(set(seen(plan, tile)) <= done for tile in wave)
        done |= {*wave}
    assert done == {*range(plan.count)}


@plans
def test_a_tile_lies_where_the_plan_has_it_also_alone(plan):
    for number, box in enumerate(plan.boxes):
        alone = plan.alone(number)
        assert plan.box(number) == box and (alone.height, alone.width, alone.count) == (box.height, box.width, 1)


@plans
def test_of_two_neighbours_one_sees_the_other(plan):
    for tile in range(plan.count):
        for other in neighbours(plan, tile):
            assert (other in seen(plan, tile)) != (tile in seen(plan, other))
            assert colour(plan, tile) != colour(plan, other)


@plans
def test_rows_are_whole_where_no_tile_is_left_and_only_few_tiles_wait_for_theirs(plan):
    given, whole = order(plan), whole_after(plan)
    for done in range(plan.count):
        left = [plan.boxes[tile].top for tile in given[done + 1 :]]
        assert whole[done] == min(left, default=plan.height)
        waiting = [tile for tile in given[: done + 1] if plan.boxes[tile].bottom > whole[done]]
        rows_below = len(waiting) / len(plan.lefts)
        assert rows_below <= 3 + (2 * plan.overlap > plan.tile_height) * 3


def test_noise_is_the_same_whatever_box_it_is_drawn_for():
    whole = placed_noise(Box(0, 0, 100, 130), channels=4, seed=3)
    for box in (Box(0, 0, 8, 8), Box(31, 33, 40, 50), Box(64, 96, 36, 34)):
        part = placed_noise(box, channels=4, seed=3)
        assert torch.equal(part, whole[:, box.top : box.bottom, box.left : box.right])
    assert abs(float(whole.mean())) < 0.02 and abs(float(whole.std()) - 1) < 0.02


def test_noise_of_another_seed_turn_or_block_is_another():
    box = Box(0, 0, 32, 32)
    drawn = [
        placed_noise(box, channels=2, seed=seed, turn=turn) for seed, turn in ((0, 0), (1, 0), (0, 1), (2**64 - 1, 0))
    ]
    drawn += [
        placed_noise(Box(0, 32, 32, 32), channels=2, seed=0),
        placed_noise(Box(32, 0, 32, 32), channels=2, seed=0),
    ]
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert abs(float((first * second).mean())) < 0.1


def test_no_two_places_share_a_seed():
    boxes = [box for plan in PLANS for box in plan.latent.boxes]
    seeds = {seed_of(box, seed=seed) for box in boxes for seed in (0, 1, 2**64 - 1)}
    assert len(seeds) == 3 * len(set(boxes)) and all(0 <= seed < 2**63 for seed in seeds)


@plans
def test_a_mosaic_of_a_pictures_tiles_is_the_picture_whatever_rows_are_asked_for(plan):
    picture = torch.rand(1, 3, plan.height, plan.width)
    mosaic = Mosaic(plan)
    for number, box in enumerate(plan.boxes):
        mosaic.put(number, levels_of(picture[..., box.top : box.bottom, box.left : box.right]))
    rows = torch.cat([mosaic.rows(top, min(top + 23, plan.height)) for top in range(0, plan.height, 23)], dim=2)
    assert (rows - pixels_of(levels_of(picture))).abs().max() < 1e-6


def test_a_white_picture_is_no_more_than_white():
    plan = plan_tiles(304, 400, tile=64, overlap=48, grid=16, cell=8)
    mosaic = Mosaic(plan)
    for number, box in enumerate(plan.boxes):
        mosaic.put(number, levels_of(torch.ones(1, 3, box.height, box.width)))
    assert mosaic.rows(0, plan.height).max() == 1


def test_neighbours_are_drawn_over_a_tile_by_their_windows_and_their_share_is_told():
    plan = plan_tiles(64, 112, tile=64, overlap=16, grid=16, cell=8, fit="exact")
    mosaic, base = Mosaic(plan), torch.zeros(1, 3, 64, 64)
    mosaic.put(0, levels_of(torch.ones(1, 3, 64, 64)))
    shown, share = mosaic.over(base, plan.boxes[1], [0])
    assert torch.equal(shown[0, 0], share) and base.abs().max() == 0
    assert (share[:, 0] > 0.98).all() and (share[:, 15] < 0.02).all() and share[:, 16:].abs().max() == 0
    assert (share[:, 1:16] < share[:, :15]).all()
