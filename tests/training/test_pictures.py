"""What a training row gets of a picture, remembered or not."""

import pytest
import torch

from dinotile.training.cases import generator_for
from dinotile.training.data import open_data
from dinotile.training.pictures import Preparer

from .tiny import settings, tiny_host


@pytest.mark.parametrize("source", ["usual", "weak"])
def test_a_remembered_picture_has_the_features_of_the_source_that_was_asked_for(pictures, source):
    config = settings(pictures, data={"cache": 100})
    preparer = Preparer(tiny_host(), open_data(config.data, needs_features=None), config=config)

    def made(kind):
        fixed = generator_for(config.optimisation.seed, "remembered", 0, source == "weak")
        return preparer.prepare(0, source=kind, generator=fixed)

    found = preparer.get(0, source=source, generator=torch.Generator())
    assert found is preparer.get(0, source=source, generator=torch.Generator())
    other = {"usual": "weak", "weak": "usual"}[source]
    assert torch.equal(found.features.patches, made(source).features.patches)
    assert not torch.allclose(found.features.patches, made(other).features.patches)
    assert torch.equal(found.latents, made(other).latents)  # the picture itself is never degraded
