"""Features that a FlatDINO compressed: what is stored, that it comes back, and what it is refused for."""

import numpy as np
import pytest
import torch

from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.features import compress, restore, settings_for, to_stored
from dinotile.dino.compress.model import new_flat
from dinotile.training.data.availability import availability
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute
from dinotile.training.data.pictures import decode, open_data
from dinotile.training.data.settings import DataSettings

from ...dino.tiny import tiny_encoder
from ..pictures import colours, encoded, ramps, write_tar

GRID = (4, 4)
LEVELS = {"latents": (), "codes": (8, 5, 5, 5)}


@pytest.fixture
def encoder():
    return tiny_encoder("tiny-v2")


@pytest.fixture(params=LEVELS, ids=list(LEVELS))
def flat(request, tmp_path):
    levels = LEVELS[request.param]
    return written(tmp_path / "flat.safetensors", levels=levels, features=len(levels) or 6)


def written(path, *, seed=0, **changes):
    told = {"dino": "tiny-v2", "width": 64, "how": "3", "grid": GRID, "tokens": 5, "features": 6}
    save_flat(new_flat(FlatConfig(**{**told, "encoder": "p", "decoder": "p", **changes}), seed=seed), path)
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    (place / "a.png").write_bytes(encoded(colours(48, 48, seed=1)))
    (place / "b.png").write_bytes(encoded(ramps(60, 60)))
    (place / "wide.png").write_bytes(encoded(ramps(48, 96)))
    return place


def recipe(encoder, flat):
    loaded = load_flat(flat)
    return DinoRecipe(encoder, settings_for(loaded.config, encoder.spec), flat=loaded)


def opened(path, flat):
    chosen = DataSettings(path=str(path), picture=32, tile=32, features="dinov2", flat=str(flat))
    return open_data(chosen, needs_features=("tiny-v2", "3"))


def restored(encoder, flat, picture):
    """What training should see of a picture's file."""
    loaded = load_flat(flat)
    features = encoder.encode(decode(picture)[None], settings=settings_for(loaded.config, encoder.spec))
    return restore(loaded, compress(loaded, features))


def test_training_reads_back_what_the_flatdino_restores(folder, encoder, flat):
    (report,) = precompute(folder, [recipe(encoder, flat)])
    assert (report.computed, dict(report.skipped)) == (2, {"with 2 x 4 patches, not 4 x 4": 1})
    data = opened(folder, flat)
    for index, name in enumerate(("a.png", "b.png")):
        found = data.get(index, generator=torch.Generator().manual_seed(0)).features
        wanted = restored(encoder, flat, (folder / name).read_bytes())
        assert found.patches.shape == (1, *GRID, 64)
        torch.testing.assert_close(found.patches, wanted.patches, atol=5e-3, rtol=0)
        torch.testing.assert_close(found.cls, wanted.cls, atol=5e-3, rtol=0)
        assert (found.spec, found.how, found.image_size) == ("tiny-v2", "3", wanted.image_size)
    assert float((found.patches - wanted.patches.flip(1)).abs().max()) > 0.1  # of what another order would be


def test_latents_take_the_bytes_that_they_say_and_codes_a_number(folder, encoder, flat):
    precompute(folder, [recipe(encoder, flat)])
    stored = np.load(folder / "a.dinov2_flat.npy")
    if load_flat(flat).config.levels:
        assert (stored.dtype, stored.shape) == (np.uint8, (7,))  # 5 tokens of 1000 codes: 49.8 bits
    else:
        assert (stored.dtype, stored.shape) == (np.float16, (5, 6))
    assert not (folder / "a.dinov2_patches.npy").exists()


def test_compressed_features_replace_whole_ones_and_are_kept(folder, encoder, flat):
    loaded = load_flat(flat)
    whole = DinoRecipe(encoder, settings_for(loaded.config, encoder.spec))
    precompute(folder, [whole])
    assert (folder / "a.dinov2_patches.npy").exists()
    assert precompute(folder, [recipe(encoder, flat)])[0].computed == 2
    assert precompute(folder, [recipe(encoder, flat)])[0].kept == 2
    assert not (folder / "a.dinov2_patches.npy").exists() and (folder / "wide.dinov2_patches.npy").exists()
    assert precompute(folder, [whole])[0].computed == 2 and not (folder / "a.dinov2_flat.npy").exists()


def test_new_tars_hold_them_in_place_of_whole_ones(tmp_path, encoder, flat):
    members = {f"{name}.png": encoded(colours(48, 48, seed=seed)) for seed, name in enumerate("ab")}
    loaded = load_flat(flat)
    for source, target, made in (
        (tmp_path / "one", tmp_path / "two", DinoRecipe(encoder, settings_for(loaded.config, encoder.spec))),
        (tmp_path / "two", tmp_path / "three", recipe(encoder, flat)),
        (tmp_path / "two", tmp_path / "three", recipe(encoder, flat)),  # again, where all is kept
    ):
        source.mkdir(exist_ok=True)
        if source.name == "one":
            write_tar(source / "s.tar", members)
        precompute(source / "s.tar", [made], output=target)
    data = opened(tmp_path / "three" / "s.tar", flat)
    assert set(data.entries[0].members) == {"png", "dinov2_flat.npy", "dinov2_cls.npy", "dinov2.json"}
    found = data.get(0, generator=torch.Generator().manual_seed(0)).features
    torch.testing.assert_close(found.patches, restored(encoder, flat, members["a.png"]).patches, atol=5e-3, rtol=0)


def test_another_flatdino_and_none_are_refused_with_both_named(folder, encoder, flat, tmp_path):
    precompute(folder, [recipe(encoder, flat)])
    config = load_flat(flat).config
    other = written(tmp_path / "other.safetensors", seed=1, levels=config.levels, features=config.features)
    mine, theirs = load_flat(flat).fingerprint, load_flat(other).fingerprint
    with pytest.raises(
        ValueError, match=f"a.png has features that FlatDINO {mine} compressed, data.flat is {theirs}: "
    ):
        opened(folder, other)
    with pytest.raises(ValueError, match=f"FlatDINO {mine} compressed, data.flat is empty: name its file in data.flat"):
        opened(folder, "")
    precompute(folder, [DinoRecipe(encoder, settings_for(config, encoder.spec))])
    with pytest.raises(
        ValueError, match=f"are not compressed, data.flat is {mine}: run `dinotile features --compress`"
    ):
        opened(folder, flat)
    found = availability(folder)
    assert (found.samples, found.compressed) == (3, 0)


def test_a_flatdino_of_another_dino_or_layer_is_refused_before_any_work(encoder, tmp_path):
    other = load_flat(written(tmp_path / "other.safetensors", dino="dinov2-demo"))
    with pytest.raises(ValueError, match="the features are tiny-v2 layers 3, .* compresses dinov2-demo layers 3"):
        settings_for(other.config, encoder.spec)
    flat = load_flat(written(tmp_path / "flat.safetensors"))
    wrong = settings_for(load_flat(written(tmp_path / "two.safetensors", how="2")).config, encoder.spec)
    with pytest.raises(ValueError, match="the features are tiny-v2 layers 2, .* compresses tiny-v2 layers 3"):
        DinoRecipe(encoder, wrong, flat=flat)


@pytest.mark.parametrize("damage", [np.zeros((2, 2), np.float16), np.full((5, 6), np.nan, np.float16), b"nothing"])
def test_damaged_latents_are_left_out(folder, encoder, tmp_path, damage):
    flat = written(tmp_path / "flat.safetensors")
    precompute(folder, [recipe(encoder, flat)])
    target = folder / "a.dinov2_flat.npy"
    target.write_bytes(damage) if isinstance(damage, bytes) else np.save(target, damage)
    data = opened(folder, flat)
    assert data.get(0, generator=torch.Generator().manual_seed(0)) is None
    assert data.get(1, generator=torch.Generator().manual_seed(0)) is not None
    assert data.skipped["with damaged features"] == 1


def test_more_codes_than_there_are_is_damage(folder, encoder, tmp_path):
    flat = written(tmp_path / "flat.safetensors", levels=(8, 5, 5, 5), features=4)
    precompute(folder, [recipe(encoder, flat)])
    np.save(folder / "a.dinov2_flat.npy", np.full(7, 255, np.uint8))
    data = opened(folder, flat)
    assert data.get(0, generator=torch.Generator().manual_seed(0)) is None


def test_latents_beyond_half_precision_are_refused_and_not_stored_as_infinity(tmp_path):
    flat = load_flat(written(tmp_path / "flat.safetensors"))
    with pytest.raises(ValueError, match="latents reach 70000, half precision holds up to 65504"):
        to_stored(flat, torch.full((flat.config.tokens, flat.config.features), 7e4))
