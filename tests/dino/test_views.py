import pytest
import torch

from dinotile.dino.feature_map import FeatureMap
from dinotile.dino.views import pca_picture


def feature_map(patches: torch.Tensor) -> FeatureMap:
    return FeatureMap(patches=patches, cls=patches[:, 0, 0], spec="tiny", layers="3", image_size=(80, 120))


def test_the_first_colour_is_the_strongest_direction():
    along = torch.linspace(-1, 1, 12).expand(8, 12)
    direction = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(3)), dim=0)
    noise = torch.randn(1, 8, 12, 16, generator=torch.Generator().manual_seed(4)) * 0.01
    picture = pca_picture(feature_map(along[None, :, :, None] * direction + noise), height=8, width=12)
    red = picture[0, :, :, 0]
    assert picture.shape == (1, 8, 12, 3) and 0 <= picture.min() and picture.max() <= 1
    correlation = torch.corrcoef(torch.stack([red.flatten(), along.flatten()]))[0, 1]
    assert correlation.abs() > 0.98
    assert correlation.sign() == direction[direction.abs().argmax()].sign()  # the sign is a rule, not luck


def test_the_picture_has_the_size_asked_for_and_is_the_same_every_time():
    features = feature_map(torch.randn(2, 5, 7, 32))
    picture = pca_picture(features, height=50, width=71)
    assert picture.shape == (2, 50, 71, 3)
    assert torch.equal(picture, pca_picture(features, height=50, width=71))


@pytest.mark.parametrize("patches", [torch.full((1, 4, 4, 8), 0.7), torch.randn(1, 1, 1, 8)])
def test_a_map_without_structure_is_grey(patches: torch.Tensor):
    torch.testing.assert_close(
        pca_picture(feature_map(patches), height=6, width=6), torch.full((1, 6, 6, 3), 0.5), atol=1e-6, rtol=0
    )
