"""What a training row gets of a picture, remembered or not."""

from dataclasses import replace

import pytest
import torch

from dinotile.training.core.random import generator_for

from ..tiny import settings, tiny_pictures


@pytest.mark.parametrize("source", ["usual", "weak"])
def test_a_remembered_picture_has_the_features_of_the_source_that_was_asked_for(pictures, source):
    config = settings(pictures, data={"cache": 100})
    encoder = tiny_pictures(config)

    def made(kind):
        fixed = generator_for(config.optimisation.seed, "remembered", 0, source == "weak")
        return encoder.encode(0, source=kind, generator=fixed)

    found = encoder.get(0, source=source, generator=torch.Generator())
    assert found is encoder.get(0, source=source, generator=torch.Generator())
    other = {"usual": "weak", "weak": "usual"}[source]
    assert torch.equal(found.features.patches, made(source).features.patches)
    assert not torch.allclose(found.features.patches, made(other).features.patches)
    assert torch.equal(found.latents, made(other).latents)  # the picture itself is never degraded


@pytest.mark.parametrize("source", ["usual", "weak"])
def test_rows_begin_at_the_very_source_that_dino_saw(pictures, source):
    config = settings(pictures, conditions={"from_source": 1.0})
    encoder = tiny_pictures(config)
    found = encoder.get(0, source=source, generator=torch.Generator())
    fixed = generator_for(config.optimisation.seed, "remembered", 0, source == "weak")
    sample = encoder.data.get(0, generator=fixed)
    seen = encoder.degraded(sample, weak=source == "weak", generator=fixed)
    assert torch.equal(found.features.patches, encoder.features(seen).patches)
    assert torch.equal(found.source, encoder.host.encode(seen[None])[0])


def test_without_such_rows_no_source_is_encoded(pictures):
    encoder = tiny_pictures(settings(pictures))
    assert encoder.get(0, source="usual", generator=torch.Generator()).source is None


def test_features_of_another_width_are_refused_with_the_sample_named(pictures):
    encoder = tiny_pictures(settings(pictures))
    sample = encoder.data.get(0, generator=torch.Generator())
    features = encoder.features(sample.pixels)
    narrow = replace(features, patches=features.patches[..., :6], cls=features.cls[:, :6])
    with pytest.raises(ValueError, match="^00.png brings features 6 wide, the adapter takes 64"):
        encoder.encoded(sample, narrow)
