"""What people call models."""

import pytest

from dinotile.flux_patch.families import supported
from dinotile.flux_patch.names import called


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ZImage", "Z-Image"),
        ("ZImageTransformer2DModel", "Z-Image"),
        ("UNet2DConditionModel", "Stable Diffusion"),
        ("HunyuanVideoTransformer3DModel", "HunyuanVideo"),
        ("UNetModel", "a UNetModel"),
    ],
)
def test_a_hosts_class_is_called_as_people_call_it_or_by_its_own_name(kind, name):
    assert called(kind) == name


def test_the_families_of_adapters_are_named_in_one_list():
    assert supported().startswith("FLUX.1 (dev, ") and supported().endswith("), Chroma and Krea 2")
