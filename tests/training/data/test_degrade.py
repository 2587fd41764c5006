import pytest
import torch

from dinotile.training.data.degrade import degrade
from dinotile.training.data.settings import DegradationSettings

NONE = DegradationSettings(scale=(1, 1), blur=(0, 0), noise=(0, 0), jpeg=(100, 100), weak_scale=(8, 8))
TEXTURE = (torch.rand(1, 64, 48, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2).repeat(3, 1, 1)


def worse(*, seed=0, weak=False, **changes):
    settings = NONE.model_copy(update=changes)
    return degrade(TEXTURE, settings, generator=torch.Generator().manual_seed(seed), weak=weak)


def error(out):
    assert out.shape == TEXTURE.shape and 0 <= out.min() and out.max() <= 1
    return float((out - TEXTURE).square().mean().sqrt())


def test_nothing_asked_changes_next_to_nothing():
    assert error(worse()) < 0.01  # what JPEG does at quality 100


@pytest.mark.parametrize(
    ("name", "mild", "strong"),
    [("scale", 2, 8), ("blur", 0.5, 3), ("noise", 0.1, 0.4), ("jpeg", 80, 5)],
)
def test_each_part_acts_and_grows(name, mild, strong):
    nothing = error(worse())
    a, b = (error(worse(**{name: (value, value)})) for value in (mild, strong))
    assert nothing < a < b


def test_the_weak_case_takes_its_own_shrink_factor():
    assert torch.equal(worse(weak=True), worse(scale=(8, 8)))


def test_the_generator_decides_all():
    ranges = {"scale": (1, 4), "blur": (0, 2), "noise": (0, 0.05), "jpeg": (50, 95)}
    assert torch.equal(worse(seed=3, **ranges), worse(seed=3, **ranges))
    assert not torch.equal(worse(seed=3, **ranges), worse(seed=4, **ranges))
    before = TEXTURE.clone()
    worse(**ranges)
    assert torch.equal(before, TEXTURE)
