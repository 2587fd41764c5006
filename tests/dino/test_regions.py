import pytest
import torch

from dinotile.dino.feature_map import FeatureMap
from dinotile.dino.regions import find_regions
from dinotile.dino.views import regions_picture

from .test_detail import features


def stripes(count, side=24):
    """[side, side] of 0..count - 1: vertical stripes, the first the widest."""
    edges = torch.linspace(0, 1, count + 1) ** 0.8 * side
    return (torch.arange(side)[None, :].expand(side, side) >= edges[1:-1, None, None]).sum(0)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_the_number_of_regions_is_found_and_each_is_one(count):
    truth = stripes(count)
    regions = find_regions(features(truth, noise=0.4))
    assert regions.count == count
    labels = regions.labels(*truth.shape)
    pairs = torch.stack([truth.flatten(), labels.flatten()]).unique(dim=1, return_counts=True)[1]
    assert pairs.topk(count).values.sum() / truth.numel() > 0.98  # but for the borders


def test_regions_are_the_same_in_every_run_and_by_size():
    found = features(stripes(4), noise=0.4)
    first, second = find_regions(found, k=4), find_regions(found, k=4)
    assert torch.equal(first.likeness, second.likeness)
    sizes = first.masks(24, 24).sum((1, 2))
    assert torch.equal(sizes, sizes.sort(descending=True).values)


def test_each_place_lies_in_one_region_at_any_size():
    masks = find_regions(features(stripes(3)), k=3).masks(50, 90)
    assert masks.shape == (3, 50, 90) and masks.sum(0).eq(1).all() and masks.unique().tolist() == [0, 1]


def test_a_given_number_is_kept_and_where_nothing_stands_apart_there_is_one():
    found = features(stripes(3), noise=0.3)
    assert [find_regions(found, k=k).count for k in (1, 2, 3)] == [1, 2, 3]
    nothing = torch.randn(1, 24, 24, 64, generator=torch.Generator().manual_seed(0))
    assert find_regions(FeatureMap(nothing, nothing.mean((1, 2)), "tiny-v2", "3", (64, 64))).count == 1
    assert find_regions(FeatureMap(torch.ones(1, 4, 4, 8), torch.ones(1, 8), "tiny-v2", "3", (64, 64))).count == 1


def test_specks_are_taken_away():
    truth = stripes(2)
    truth[5, 3] = truth[15, 20] = 2
    regions = find_regions(features(truth, noise=0.1), k=3)
    assert regions.count == 2


def test_what_cannot_be_divided_is_refused():
    found = features(stripes(2, side=3))
    with pytest.raises(ValueError, match="k 10 must be from 0 to 9, the number of patches"):
        find_regions(found, k=10)
    two = FeatureMap(found.patches.repeat(2, 1, 1, 1), found.cls.repeat(2, 1), "tiny-v2", "3", (64, 64))
    with pytest.raises(ValueError, match="features are of 2 pictures"):
        find_regions(two)


def test_the_picture_shows_regions_in_colours_of_their_own_and_the_image_through_them():
    regions = find_regions(features(stripes(3)), k=3)
    drawn = regions_picture(regions, height=96, width=120)
    assert drawn.shape == (96, 120, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    colours, counts = drawn.flatten(0, 1).unique(dim=0, return_counts=True)
    assert len(colours[counts > 800]) == 3  # and the numbers' white and black
    white = regions_picture(regions, height=96, width=120, image=torch.ones(96, 120, 3))
    assert white.mean() > drawn.mean() + 0.1
