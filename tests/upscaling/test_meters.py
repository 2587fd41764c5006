"""Planted faults in a real photo, as the meters see them with the demo's DINO."""

from itertools import pairwise

import pytest
import torch

from dinotile.demo import DINO
from dinotile.dino.load import load_dino
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.canvas import cut
from dinotile.tiling.seams import measure_seams
from dinotile.upscaling.meters import FidelityMeter, by_tile, describe_fidelity, describe_seams, measure_fidelity

from ..tiny import picture

skimage = pytest.importorskip("skimage")

SIZE = 288, 448
PLAN = plan_tiles(*SIZE, tile=128, overlap=32, fit="exact")


def photo(name):
    pixels = torch.from_numpy(getattr(skimage.data, name)()).movedim(2, 0)[None] / 255
    return resize(pixels[..., :298, :448] if name == "chelsea" else pixels, height=SIZE[0], width=SIZE[1])


@pytest.fixture(scope="module")
def cat():
    return photo("chelsea")


@pytest.fixture(scope="module")
def meter(cat):
    small = resize(cat, height=SIZE[0] // 2, width=SIZE[1] // 2)
    return FidelityMeter(load_dino(DINO), small, resize(small, height=SIZE[0], width=SIZE[1]))


def exchanged(pixels, share):
    """Two tiles, each mixed with the other."""
    out, (one, other) = pixels.clone(), (PLAN.boxes[1], PLAN.boxes[-2])
    for here, there in ((one, other), (other, one)):
        cut(out, here).lerp_(cut(pixels, there), share)
    return out, {1, PLAN.count - 2}


def hue_shifted(pixels, share):
    """A tile mixed with itself in other channels: light and shapes stay."""
    out, number = pixels.clone(), 6
    cut(out, PLAN.boxes[number]).lerp_(cut(pixels, PLAN.boxes[number]).roll(1, 1), share)
    return out, {number}


def pasted(pixels, share):
    """A patch of another photo in the middle of a tile; share: of its sides."""
    out, number = pixels.clone(), 5
    box, other = PLAN.boxes[number], photo("coffee")
    height, width = (round(side * share) for side in (box.height, box.width))
    top, left = box.top + (box.height - height) // 2, box.left + (box.width - width) // 2
    region = (..., slice(top, top + height), slice(left, left + width))
    out[region] = other[region]
    return out, {number}


@pytest.mark.parametrize("fault", [exchanged, hue_shifted, pasted])
def test_a_fault_lowers_fidelity_the_more_the_larger_it_is_and_shows_in_its_own_tiles(fault, cat, meter):
    found = []
    for share in (0.0, 0.35, 0.7, 1.0):
        broken, numbers = fault(cat, share)
        fidelity = meter(broken)
        tiles = by_tile(fidelity, PLAN, size=SIZE)
        lost = (tiles.plain - tiles.result)[0]
        found.append([fidelity.summary()["score"], fidelity.summary()["worst"], -float(lost[sorted(numbers)].mean())])
        if share == 1:
            assert set(lost.topk(len(numbers)).indices.tolist()) == numbers
    assert all(after < before for first, second in pairwise(found) for before, after in zip(first, second, strict=True))


def test_the_faults_are_ranked(cat, meter):
    """None, a tile in other colours, a tile of another photo, two tiles that changed places; the README has these figures."""
    broken = [cat, *(fault(cat, 1.0)[0] for fault in (hue_shifted, pasted, exchanged))]
    assert [meter(pixels).summary()["score"] for pixels in broken] == pytest.approx([1, 0.936, 0.844, 0.791], abs=0.02)
    assert [meter(pixels).summary()["worst"] for pixels in broken] == pytest.approx([1, 0.57, 0.10, 0.20], abs=0.05)


def test_a_hard_seam_in_a_photo_is_read_in_its_height_and_place(cat):
    """In levels of 8 bits: seen from 2, and growing."""
    found = []
    for level in (0, 2, 5, 10, 25):
        broken = cat.clone()
        cut(broken, PLAN.boxes[5]).add_(level / 255)
        seams = measure_seams(broken, PLAN, source=cat)
        found.append((seams.summary()["score"], seams.summary()["step"]))
        if level:
            (worst,) = seams.worst(1)
            box = PLAN.boxes[5]
            assert worst.at in ((box.top, box.bottom) if worst.between == "rows" else (box.left, box.right))
            assert 255 * worst.step == pytest.approx(level, rel=0.35)
    assert found[0] == (0, 0) and found == sorted(found)
    assert "a step of 2" in describe_seams(seams) and f"x {worst.at}" in describe_seams(seams).replace("y ", "x ")


def test_a_true_result_is_as_good_as_plain_enlargement_or_better(cat, meter):
    found = meter(cat)
    assert found.summary()["score"] > 0.95 and found.summary()["plain_score"] > 0.95
    assert torch.equal(found.plain, meter.plain) and meter(torch.rand(1, 3, *SIZE)).summary()["score"] < 0.5
    assert describe_fidelity(found).startswith(f"fidelity {found.summary()['score']:.3f}, worst patches ")


def test_each_picture_is_measured_against_its_own_source_and_only_sources_are_remembered(cat):
    encoder = load_dino(DINO)
    pair = torch.cat([cat, cat.flip(3)])
    both = measure_fidelity(encoder, pair, resize(pair, height=72, width=112))
    assert encoder.computed == len(encoder.cache) == 2
    for number in (0, 1):
        alone = measure_fidelity(encoder, pair[number, None], resize(pair, height=72, width=112)[number, None])
        assert (alone.result[0] - both.result[number]).abs().max() < 1e-4
    swapped = measure_fidelity(encoder, pair.flip(0), resize(pair, height=72, width=112))
    assert swapped.summary()["score"] < both.summary()["score"] - 0.2 and encoder.computed == 2


@pytest.mark.parametrize(("source", "result"), [((33, 47), (50, 70)), ((1, 1), (2, 2)), ((300, 20), (30, 2))])
def test_any_size_and_scale_is_measured(source, result):
    encoder = load_dino(DINO)
    found = measure_fidelity(encoder, picture(*result), picture(*source))
    assert found.result.shape == found.plain.shape and found.result.isfinite().all()


@pytest.mark.parametrize(
    ("result", "source", "words"),
    [
        (picture(64, 96), picture(32, 32), r"results \(1 of 96 x 64 px\) and sources \(1 of 32 x 32 px\) differ"),
        (picture(64, 96, batch=2), picture(32, 48), r"results \(2 of 96 x 64 px\) and sources \(1 of 48 x 32 px\)"),
        (torch.full((1, 3, 64, 96), float("nan")), picture(32, 48), "NaN"),
        (picture(64, 96), torch.zeros(1, 4, 32, 48), "3, H, W"),
    ],
)
def test_pictures_that_cannot_be_compared_are_refused(result, source, words):
    encoder = load_dino(DINO)
    with pytest.raises(ValueError, match=words):
        measure_fidelity(encoder, result, source)
    assert encoder.computed == 0
