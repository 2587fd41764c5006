import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dinotile.dino.feature_map import FeatureMap

from ..near import assert_near


def feature_map(patches: torch.Tensor) -> FeatureMap:
    return FeatureMap(patches=patches, cls=patches.mean(dim=(1, 2)), spec="tiny", layers="3", image_size=(480, 640))


def ramp(h: int, w: int) -> FeatureMap:
    """Every patch holds the place of its own centre: (y, x) as fractions of the picture."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return feature_map(torch.stack([y, x], dim=-1)[None])


def centres(box: tuple[float, float, float, float], grid: int) -> torch.Tensor:
    top, left, height, width = box
    steps = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(top + steps * height, left + steps * width, indexing="ij")
    return torch.stack([y, x], dim=-1)


@pytest.mark.parametrize("size", [(20, 30), (7, 74), (64, 64)])
@pytest.mark.parametrize("grid", [1, 5, 16, 40])
def test_features_come_back_at_their_places(size: tuple[int, int], grid: int):
    boxes = [(0.25, 0.25, 0.5, 0.5), (0.11, 0.52, 0.13, 0.37), (0.3, 0.1, 0.55, 0.02), (0.5, 0.5, 1e-3, 1e-3)]
    got = ramp(*size).sample(boxes, grid)
    assert got.shape == (1, 4, grid, grid, 2)
    want = torch.stack([centres(box, grid) for box in boxes])
    torch.testing.assert_close(got[0], want, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(0.2, 0.5), st.floats(0.2, 0.5), st.floats(0.01, 0.3), st.floats(0.01, 0.3)),
    st.integers(1, 24),
    st.tuples(st.integers(6, 40), st.integers(6, 40)),
)
def test_any_interior_box_comes_back_at_its_place(box, grid: int, size):
    torch.testing.assert_close(ramp(*size).sample([box], grid)[0, 0], centres(box, grid), atol=1e-5, rtol=0)


def test_the_whole_picture_on_its_own_grid_is_the_map_itself():
    features = feature_map(torch.randn(2, 9, 9, 5))
    torch.testing.assert_close(features.sample([(0, 0, 1, 1)], 9)[:, 0], features.patches, atol=1e-6, rtol=0)


def test_one_patch_is_that_patch():
    features = feature_map(torch.randn(1, 8, 10, 5))
    got = features.sample([(3 / 8, 7 / 10, 1 / 8, 1 / 10)], 1)
    torch.testing.assert_close(got[0, 0, 0, 0], features.patches[0, 3, 7], atol=1e-6, rtol=0)


def test_a_margin_widens_the_box_on_every_side():
    features = ramp(32, 48)
    got = features.sample([(0.4, 0.4, 0.2, 0.1)], 6, margin=0.5)
    torch.testing.assert_close(got, features.sample([(0.3, 0.35, 0.4, 0.2)], 6), atol=1e-6, rtol=0)


def test_beyond_the_picture_its_border_continues():
    features = feature_map(torch.randn(1, 6, 6, 3))
    got = features.sample([(-2, -2, 1, 1), (3, 0, 1, 1)], 4)
    torch.testing.assert_close(got[0, 0], features.patches[0, 0, 0].expand(4, 4, 3), atol=1e-6, rtol=0)
    bottom = features.sample([(5 / 6, 0, 1 / 6, 1)], 4)[0, 0, -1]
    torch.testing.assert_close(got[0, 1, 0], bottom, atol=1e-6, rtol=0)


def test_a_constant_stays_constant():
    features = feature_map(torch.full((2, 11, 13, 4), 0.3))
    got = features.sample([(0, 0, 1, 1), (-0.2, 0.9, 0.7, 0.7), (0.31, 0.17, 0.01, 0.5)], 7, margin=0.1)
    torch.testing.assert_close(got, torch.full_like(got, 0.3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 0.013])
def test_a_large_region_is_averaged_not_aliased(shift: float):
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    checkers = feature_map((((y + x) % 2) * 2.0 - 1)[None, :, :, None])
    box = (0.125 + shift, 0.125 + shift, 0.75, 0.75)  # 48 patches a side
    for grid, allowed in ((8, 1e-5), (12, 1e-5), (5, 0.02)):  # 6, 4, and 9.6 patches to a cell
        assert checkers.sample([box], grid).abs().max() <= allowed
    assert checkers.sample([(0.125, 0.125, 0.75, 0.75)], 48).abs().min() > 0.99  # one patch to a cell: kept


def test_the_mean_of_a_coarse_grid_is_the_mean_of_the_region():
    features = feature_map(torch.randn(1, 24, 36, 8))
    got = features.sample([(0.25, 0.25, 0.5, 0.5)], 3)  # cells of 4 x 6 whole patches
    want = features.patches[0, 6:18, 9:27].unflatten(0, (3, 4)).unflatten(2, (3, 6)).mean(dim=(1, 3))
    torch.testing.assert_close(got[0, 0], want, atol=1e-5, rtol=0)


def test_rows_of_a_batch_and_boxes_of_a_call_do_not_mix():
    features = feature_map(torch.randn(3, 10, 12, 4))
    boxes = [(0.1, 0.2, 0.3, 0.4), (0, 0, 1, 1)]
    together = features.sample(boxes, 5)
    for row in range(3):
        alone = feature_map(features.patches[row : row + 1])
        for number, box in enumerate(boxes):
            assert_near(together[row, number], alone.sample([box], 5)[0, 0])


def test_sampling_keeps_the_dtype_and_lets_gradients_through():
    patches = torch.randn(1, 6, 6, 3, requires_grad=True)
    feature_map(patches).sample([(0, 0, 1, 1)], 3).sum().backward()
    torch.testing.assert_close(patches.grad, torch.full_like(patches, 9 / 36))
    half = feature_map(patches.detach()).to("cpu", torch.bfloat16)
    assert half.sample([(0, 0, 1, 1)], 3).dtype == half.cls.dtype == torch.bfloat16


def test_other_features_of_the_same_picture():
    features = ramp(4, 6)
    other = features.with_patches(torch.zeros(1, 4, 6, 9), torch.zeros(1, 9))
    assert (other.patches.shape[-1], other.spec, other.layers, other.image_size) == (9, "tiny", "3", (480, 640))
    assert features.patches.shape[-1] == 2


@pytest.mark.parametrize(
    ("boxes", "grid", "said"),
    [
        ([(0, 0, 1, 1)], 0, "grid 0 must be at least 1"),
        ([], 4, "no boxes given"),
        ([(0, 0, 0, 1)], 4, "covers nothing"),
        ([(0, 0, 1, float("nan"))], 4, "covers nothing"),
    ],
)
def test_regions_that_cannot_be_sampled_are_refused(boxes, grid: int, said: str):
    with pytest.raises(ValueError, match=said):
        ramp(4, 4).sample(boxes, grid)
