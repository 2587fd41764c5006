"""The encoder without labels: what it is shown, what it is told, and what it is asked."""

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")

from benchmarks.semantics import runs, selftaught  # noqa: E402
from dinotile.demo.train import world  # noqa: E402


@pytest.fixture(scope="module")
def pairs():
    return selftaught.Pairs(seed=0)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(selftaught, "COUNTS", dict.fromkeys(selftaught.COUNTS, 3))


def test_the_small_drawing_is_the_source():
    for seed in range(4):
        scene = world.scene(np.random.default_rng(seed))
        planes = selftaught.drawn(scene, range(len(scene.things)))
        assert (
            planes[:3] - runs.as_pixels(scene.source())[0]
        ).abs().mean() < 4e-3  # outlines are softened in another way
        found = planes[3] != selftaught.NOBODY
        true = torch.from_numpy(scene.labels() != world.GROUND)[2::4, 2::4]
        assert (found & true).sum() / (found | true).sum() > 0.97


def test_objects_are_seen_again_elsewhere_in_other_company_and_colours():
    rng = np.random.default_rng(5)
    first = selftaught.numbered([world.scene(rng) for _ in range(6)])
    second = selftaught.again(first, rng)
    seen = [{number: thing for scene, numbers in scenes for number, thing in zip(numbers, scene.things, strict=True)}
            for scenes in (first, second)]  # fmt: skip
    assert seen[0].keys() == seen[1].keys() == set(range(len(seen[0])))
    for number, before in seen[0].items():
        after = seen[1][number]
        assert after.shape == before.shape
        assert before.colour != after.colour and (before.top, before.left) != (after.top, after.left)
    assert {tuple(sorted(numbers)) for _, numbers in first} != {tuple(sorted(numbers)) for _, numbers in second}


def test_both_views_number_the_same_objects(pairs):
    torch.manual_seed(0)
    for side in selftaught.COUNTS:
        pixels, numbers = pairs.batch(side)
        assert pixels.shape == (2, 3, 3, side, side) and numbers.shape == (2, 3, (side // selftaught.PATCH) ** 2)
        first, second = (set(each.flatten().tolist()) - {selftaught.NOBODY} for each in numbers)
        assert len(first & second) >= 4 and not torch.equal(*pixels)


def test_the_loss_falls_only_where_patches_find_their_own_object():
    numbers = torch.arange(20).repeat_interleave(6).view(1, 5, 24).repeat(2, 1, 1)  # five pictures of four objects
    own = torch.eye(20)[torch.arange(20).repeat_interleave(6)].view(1, 5, 24, 20).repeat(2, 1, 1, 1)
    torch.manual_seed(0)
    found, lost = selftaught.contrast(own, numbers), selftaught.contrast(own[..., :1] + 1e-6, numbers)
    wrong = selftaught.contrast(torch.stack([own[0], own[0].roll(6, dims=1)]), numbers)
    assert found < 0.01 < lost < wrong
    assert lost == pytest.approx(np.log(20), rel=1e-4)  # all alike: a guess among twenty objects


def test_training_moves_the_encoder_and_writes_what_the_table_loads(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(selftaught, "READ", 1)
    path = tmp_path / "encoder.safetensors"
    selftaught.train(minutes=0.02, seed=0, path=path)
    torch.manual_seed(0)
    fresh = selftaught.Learner().encoder
    trained = selftaught.load(path)
    moved = [(ours - theirs).abs().max() for ours, theirs in zip(trained.parameters(), fresh.parameters(), strict=True)]
    assert max(moved) > 1e-2


def test_the_encoder_without_labels_reads_kinds_and_a_random_one_does_not():
    torch.manual_seed(0)
    taught = selftaught.readout(selftaught.load(), blocks=(4,), scenes=6)[4]
    guessed = selftaught.readout(selftaught.Learner().encoder.eval(), blocks=(4,), scenes=6)[4]
    assert taught > 0.9 > 0.5 > guessed
