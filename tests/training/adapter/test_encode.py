"""What a training row gets of a picture, remembered or not."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinotile.training.adapter.encode import EncodedFolder
from dinotile.training.adapter.run import kept_pictures
from dinotile.training.adapter.step import draw_rows
from dinotile.training.core.random import generator_for

from ..pictures import colours
from ..tiny import settings, tiny_pictures, tiny_trainer


@pytest.mark.parametrize("source", ["usual", "weak"])
def test_a_remembered_picture_has_the_features_of_the_source_that_was_asked_for(pictures, source):
    config = settings(pictures, data={"cache": 100})
    encoder = tiny_pictures(config)

    def made(kind):
        fixed = generator_for(config.optimisation.seed, "remembered", "00.png", source == "weak")
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
    fixed = generator_for(config.optimisation.seed, "remembered", "00.png", source == "weak")
    sample = encoder.data.get(0, generator=fixed)
    seen = encoder.degraded(sample, weak=source == "weak", generator=fixed)
    assert torch.equal(found.features.patches, encoder.features(seen).patches)
    assert torch.equal(found.source, encoder.host.encode(seen[None])[0])


def test_without_such_rows_no_source_is_encoded(pictures):
    encoder = tiny_pictures(settings(pictures))
    assert encoder.get(0, source="usual", generator=torch.Generator()).source is None


def test_a_training_says_nothing_of_single_pictures(pictures, caplog):
    encoder = tiny_pictures(settings(pictures))
    with caplog.at_level("INFO", logger="dinotile"):
        assert encoder.get(0, source="usual", generator=torch.Generator()).features is not None
    assert not [each for each in caplog.records if each.name.startswith("dinotile")]


def test_features_of_another_width_are_refused_with_the_sample_named(pictures):
    encoder = tiny_pictures(settings(pictures))
    sample = encoder.data.get(0, generator=torch.Generator())
    features = encoder.features(sample.pixels)
    narrow = replace(features, patches=features.patches[..., :6], cls=features.cls[:, :6])
    with pytest.raises(ValueError, match="^00.png brings features 6 wide, the adapter takes 64"):
        encoder.encoded(sample, narrow)


def kept_rows(folder, config):
    """Rows of all pictures, and how many pictures were decoded for them."""
    pictures = tiny_pictures(config)
    pictures.kept = EncodedFolder(folder, made_by="the same")
    get, decoded = pictures.data.get, []
    pictures.data.get = lambda index, **how: decoded.append(index) or get(index, **how)
    rows = draw_rows(pictures, range(12), step=0, first=0, count=12)
    return rows, len(decoded)


@pytest.mark.parametrize("from_source", [0, 1])
def test_pictures_that_were_kept_are_not_decoded_again_and_give_the_same_rows(pictures, tmp_path, from_source):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    for number in range(6):
        np.save(folder / f"{number:02d}.t5.npy", np.full((9, 32), number, np.float16))
        np.save(folder / f"{number:02d}.t5_mask.npy", np.array([1] * 5 + [0] * 4, np.float16))
    config = settings(folder, data={"cache": 0}, conditions={"from_source": from_source})
    (first, decoded), (again, none) = (kept_rows(tmp_path / "kept", config) for _ in range(2))
    assert decoded >= 10 and none == 0
    for slot, row in first.items():
        other = again[slot]
        assert (row.picture, row.kept, row.sigma, row.box) == (other.picture, other.kept, other.sigma, other.box)
        same = [(row.clean, other.clean), (row.noise, other.noise), (row.text.context, other.text.context)]
        if row.features is not None:
            same += [(row.features.patches, other.features.patches), (row.features.cls, other.features.cls)]
            assert row.features.how == other.features.how and row.features.image_size == other.features.image_size
        assert all(torch.equal(*pair) for pair in same)
        assert (row.text.mask is None) == (other.text.mask is None)
    colours(64, 64).save(folder / "00.png")
    assert kept_rows(tmp_path / "kept", config)[1] in (1, 2)


def test_damaged_files_are_made_anew_and_what_killed_runs_left_is_removed(pictures, tmp_path, caplog):
    config = settings(pictures, data={"cache": 0})
    first, count = kept_rows(tmp_path, config)
    places = sorted(tmp_path.iterdir())
    for path, size in zip(places, (0, 5, 200, 1000), strict=False):
        path.write_bytes(path.read_bytes()[:size])
    left = tmp_path / f".{places[0].name}.0123abcd.part"
    left.touch()
    os.utime(left, (0, 0))
    again, decoded = kept_rows(tmp_path, config)
    assert len(places) == count > 4 == decoded and sorted(tmp_path.iterdir()) == places
    assert all(torch.equal(row.clean, again[slot].clean) for slot, row in first.items())
    assert f"{places[0]} is damaged: its picture is encoded again" in caplog.text


def test_pictures_that_are_added_leave_those_that_were_kept_as_they_are(pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    config = settings(folder, data={"cache": 0}, conditions={"weak": 0})
    assert kept_rows(tmp_path / "kept", config)[1] == 12
    colours(64, 64).save(folder / "0.png")  # the first from now on
    assert kept_rows(tmp_path / "kept", config)[1] == 1


def test_pictures_of_other_models_or_settings_are_encoded_for_themselves(pictures, tmp_path):
    made = set()
    for picture, seed, from_source in ((48, 0, 0), (64, 0, 0), (48, 1, 0), (48, 0, 0.5)):
        config = settings(
            pictures,
            data={"encoded": str(tmp_path), "picture": picture},
            optimisation={"seed": seed},
            conditions={"from_source": from_source},
        )
        trainer = tiny_trainer(config)
        kept = kept_pictures(config, trainer.task.host, trainer.task.pictures.encoder)
        made.add(json.dumps(kept.made_by))
    with torch.no_grad():
        next(trainer.task.host.vae.parameters()).add_(1)
    made.add(json.dumps(kept_pictures(config, trainer.task.host, trainer.task.pictures.encoder).made_by))
    assert len(made) == 5
