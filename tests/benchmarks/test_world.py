"""The benchmark world: what is known, what cannot be read from the source, and what is counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from benchmarks.semantics.classifier import CELL, TextureClassifier, cell_labels, load  # noqa: E402
from benchmarks.semantics.measure import Scores, agreement, difference, measure, outline, summary  # noqa: E402
from benchmarks.semantics.rows import PAIRS, ROWS  # noqa: E402
from dinotile.demo.train import world  # noqa: E402
from dinotile.flux_patch.families import plan_tiles  # noqa: E402

PLAN = plan_tiles(world.SIDE, world.SIDE, tile=128, overlap=32, fit="exact")


@pytest.fixture(scope="module")
def scene():
    return world.scene(np.random.default_rng(3))


def test_a_seed_gives_one_scene(scene):
    again = world.scene(np.random.default_rng(3))
    assert again == scene and np.array_equal(again.true(), scene.true())
    assert world.scene(np.random.default_rng(4)) != scene


def test_the_source_does_not_tell_the_texture(scene):
    """Another texture in the same shapes: other pictures, the very same sources."""
    things = tuple(replace(thing, texture=(thing.texture + 1) % len(world.TEXTURES)) for thing in scene.things)
    other = replace(scene, things=things)
    assert np.array_equal(other.source(), scene.source())
    assert np.abs(other.true() - scene.true()).mean() > 0.01


def test_faint_textures_are_the_same_ones_at_a_fifth_of_the_contrast(scene):
    faint = replace(scene, contrast=world.CONTRAST / 5)
    assert np.array_equal(faint.source(), scene.source())
    assert np.allclose(5 * (faint.true() - faint.flat()), scene.true() - scene.flat(), atol=1e-5)
    true, flat = (torch.from_numpy(each).permute(2, 0, 1)[None] for each in (faint.true(), faint.flat()))
    found = [
        measure(pixels, faint, PLAN, load()) for pixels in (true, flat)
    ]  # the judge sees them as strong as it learned
    assert found[0].accuracy > 0.9 and found[1].blank > 0.95


def test_textures_keep_the_mean_colour():
    for seed in range(12):
        scene = world.scene(np.random.default_rng(seed))
        difference = scene.true() - scene.flat()
        for thing in scene.things:
            inside = scene.mask(thing) == 1
            assert np.abs(difference[inside].mean(0)).max() < 0.03
            assert difference[inside].std() > 0.08


def test_shape_and_texture_go_together_unless_shuffled():
    drawn = [world.scene(np.random.default_rng(seed)) for seed in range(20)]
    assert all(thing.shape == thing.texture for scene in drawn for thing in scene.things)
    assert {thing.shape for scene in drawn for thing in scene.things} == set(range(len(world.SHAPES)))
    shuffled = [world.scene(np.random.default_rng(seed), shuffled=True) for seed in range(20)]
    assert any(thing.shape != thing.texture for scene in shuffled for thing in scene.things)


def test_objects_hardly_touch_and_are_seen_by_several_tiles():
    covered = twice = 0
    for seed in range(60):
        scene = world.scene(np.random.default_rng(seed))
        masks = np.stack([scene.mask(thing) > 0.5 for thing in scene.things])
        covered, twice = covered + (masks.sum(0) > 0).sum(), twice + (masks.sum(0) > 1).sum()
        for mask in masks:
            assert sum(mask[b.top : b.bottom, b.left : b.right].any() for b in PLAN.boxes) >= 2
    assert twice < 0.001 * covered


def test_exchanging_keeps_places_and_colours_and_changes_every_texture(scene):
    other = scene.exchanged(np.random.default_rng(0))
    for before, after in zip(scene.things, other.things, strict=True):
        assert before.texture != after.texture == after.shape
        assert (before.top, before.left, before.colour) == (after.top, after.left, after.colour)


def test_captions_name_their_textures():
    text = world.caption([2, 5])
    assert text.shape == (world.TEXT_TOKENS, 4096)
    assert np.array_equal(text[0], world.caption([2])[0]) and np.array_equal(text[1], world.caption([5])[0])
    assert text[:2].any() and not text[2:].any()


def test_agreement_is_whole_where_every_tile_names_one_texture_and_falls_where_they_differ(scene):
    own = cell_labels(scene)[1]
    assert agreement(own, scene, PLAN) == 1
    assert agreement(torch.full_like(own, 3), scene, PLAN) == 1  # agreed, if wrongly
    halves = own.clone()
    halves[:, world.SIDE // CELL // 2 :] = 0
    halves[:, : world.SIDE // CELL // 2] = 1
    assert agreement(halves, scene, PLAN) < 1
    assert agreement(torch.full_like(own, world.GROUND), scene, PLAN) == 0  # no texture is no agreement


def test_scores_of_the_truth_are_neutral(scene):
    true = torch.from_numpy(scene.true()).permute(2, 0, 1)[None]
    flat = torch.from_numpy(scene.flat()).permute(2, 0, 1)[None]
    judge = TextureClassifier().eval()
    assert measure(true, scene, PLAN, judge).sharpness == pytest.approx(1)
    assert measure(true, scene, PLAN, judge).outline == outline(true, scene) > 0.93
    assert outline(true.roll(24, 3), scene) < 0.85 and outline(flat, scene) > 0.93
    blank = [measure(each, scene, PLAN, load()).blank for each in (true, flat)]
    assert blank[0] < 0.05 and blank[1] > 0.8
    assert measure(true, scene, PLAN, judge).seams == pytest.approx(1)
    stepped = true.clone()
    stepped[..., PLAN.lefts[1] :] *= 0.8
    assert measure(stepped, scene, PLAN, judge).seams > 1.05
    assert measure(flat, scene, PLAN, judge).sharpness == pytest.approx(0, abs=1e-6)
    assert measure(flat, scene, PLAN, judge).colour == pytest.approx(0, abs=1e-3)
    assert measure((flat + 0.1).clamp(0, 1), scene, PLAN, judge).colour > 10


class Says(torch.nn.Module):
    """A judge that names given textures."""

    def __init__(self, kinds):
        super().__init__()
        self.kinds = kinds

    def forward(self, pixels):
        return torch.nn.functional.one_hot(self.kinds, world.GROUND + 1).movedim(-1, 0)[None].float()


def test_what_follows_other_features_is_counted_where_they_differ(scene):
    true = torch.from_numpy(scene.true()).permute(2, 0, 1)[None]
    shown = scene.exchanged(np.random.default_rng(0))
    own, theirs = (cell_labels(one)[1] for one in (scene, shown))
    for named, accuracy, follows in ((own, 1.0, 0.0), (theirs, None, 1.0)):
        scores = measure(true, scene, PLAN, Says(named), shown=shown)
        assert scores.follows == follows and (accuracy is None or scores.accuracy == accuracy)
    assert np.isnan(measure(true, scene, PLAN, Says(own)).follows)


def test_the_interval_is_student_s_over_pictures():
    scores = [[Scores(value + apart, *[1] * 7) for apart in (-0.5, 0.5)] for value in (0.0, 1.0, 2.0)]
    mean, half = summary(scores)["accuracy"]
    assert mean == 1 and half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_a_difference_is_taken_picture_by_picture():
    low = [[Scores(value, *[1] * 7), Scores(value, *[1] * 7)] for value in (0.1, 0.4, 0.7)]
    high = [[Scores(value + 0.2, *[1] * 7), Scores(value + 0.3, *[1] * 7)] for value in (0.1, 0.4, 0.7)]
    mean, half = difference(high, low)
    assert mean == pytest.approx(0.25) and half < 1e-6 < summary(low)["accuracy"][1]


def test_pairs_name_rows():
    assert {name for pair in PAIRS for name in pair} <= {row.name for row in ROWS}
