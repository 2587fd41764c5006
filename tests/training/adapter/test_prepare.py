"""What a training row gets of a picture, remembered or not."""

import pytest
import torch

from dinotile.training.adapter.cases import generator_for
from dinotile.training.adapter.prepare import Preparer
from dinotile.training.data.pictures import open_data

from ..tiny import settings, tiny_host


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


@pytest.mark.parametrize("source", ["usual", "weak"])
def test_rows_begin_at_the_very_source_that_dino_saw(pictures, source):
    config = settings(pictures, conditions={"from_source": 1.0})
    preparer = Preparer(tiny_host(), open_data(config.data, needs_features=None), config=config)
    found = preparer.get(0, source=source, generator=torch.Generator())
    fixed = generator_for(config.optimisation.seed, "remembered", 0, source == "weak")
    sample = preparer.data.get(0, generator=fixed)
    seen = preparer.degraded(sample, weak=source == "weak", generator=fixed)
    assert torch.equal(found.features.patches, preparer.host.features(seen[None], preparer.encode_settings).patches)
    assert torch.equal(found.source, preparer.host.encode(seen[None])[0])


def test_without_such_rows_no_source_is_encoded(pictures):
    config = settings(pictures)
    preparer = Preparer(tiny_host(), open_data(config.data, needs_features=None), config=config)
    assert preparer.get(0, source="usual", generator=torch.Generator()).source is None
