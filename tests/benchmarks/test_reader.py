"""Readers of flat sources, and sources that show something of the textures."""

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from benchmarks.semantics import classifier, levels, reader  # noqa: E402
from benchmarks.semantics.classifier import CELL, cell_labels  # noqa: E402
from dinotile.demo.train import world  # noqa: E402


@pytest.fixture(scope="module")
def scenes():
    return [world.scene(np.random.default_rng(reader.HELD_OUT + index)) for index in range(3)]


def test_windows_come_with_the_texture_of_every_cell():
    for seed in range(6):  # of all sides
        torch.manual_seed(seed)
        pixels, kinds = reader.windows(seed, reader.SIDES)
        assert kinds.shape == (len(pixels), pixels.shape[2] // 2, pixels.shape[3] // 2)
        assert set(kinds.unique().tolist()) <= set(range(world.GROUND + 1)) and kinds.unique().numel() > 3
        assert pixels.numel() == 3 * reader.PIXELS // world.FACTOR**2


def test_the_reader_answers_at_the_cells_of_the_truth(scenes):
    shown = torch.from_numpy(scenes[0].source()).permute(2, 0, 1)[None]
    assert reader.load()(shown).shape[-2:] == cell_labels(scenes[0])[0].shape == (world.SIDE // CELL,) * 2


def test_the_whole_picture_tells_more_than_tiles_and_these_more_than_smaller_ones(scenes):
    model = reader.load()
    small, tile, whole = (np.mean([reader.right(model, scene, side) for scene in scenes]) for side in (64, 128, 384))
    assert small + 0.1 < tile < whole and whole > 0.9


@pytest.mark.parametrize("side", [128, world.SIDE])
def test_what_is_right_is_counted_by_area_and_of_objects_only(scenes, side):
    share, own = cell_labels(scenes[0])
    inside = (own != world.GROUND) & (share > 0.5)

    def always(kind):
        return lambda pixels: torch.eye(world.GROUND + 1)[kind][None, :, None, None].expand(
            -1, -1, *(length // 2 for length in pixels.shape[-2:])
        )

    found = [reader.right(always(kind), scenes[0], side) for kind in range(world.GROUND + 1)]
    assert found[world.GROUND] == 0 and sum(found) == pytest.approx(1)
    if side == world.SIDE:
        shares = [float((share * (inside & (own == kind))).sum() / share[inside].sum()) for kind in range(world.GROUND)]
        assert found[:-1] == pytest.approx(shares)


def test_sources_of_all_levels_show_one_scene_and_their_share_of_its_textures(scenes):
    judge = classifier.load()
    for scene in scenes[:1]:
        shown = {level: levels.source(scene, level, seed=0) for level in levels.LEVELS}
        assert all(each.shape == scene.source().shape for each in shown.values())
        assert (shown["flat"] == scene.source()).all()
        assert all(np.abs(each - shown["flat"]).mean() < 0.03 for each in shown.values())  # colours and light
        right = {level: levels.seen(scene, each, judge).accuracy for level, each in shown.items()}
        assert right["flat"] < 0.02 and right["eighth"] > 0.04


def test_noise_is_of_the_seed(scenes):
    first, again, other = (levels.source(scenes[0], "eighth", seed=seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
