import json

import numpy as np
import pytest
import torch

from dinotile.dino.encode import EncodeSettings
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings, DegradationSettings

from ...dino.tiny import tiny_encoder
from ..pictures import colours, encoded, ramps
from .precomputed import SETTINGS, computed, draw, files, opened
from .precomputed import encoder as encoder
from .precomputed import folder as folder


def test_the_features_beside_a_picture_are_the_encoders(folder, encoder):
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.kept, report.skipped) == (2, 0, {})
    data = opened(folder, encoder=encoder.fingerprint)
    assert data.names == ["a.png", "sub/b.c.jpg"]
    plain = open_data(DataSettings(path=str(folder), picture=48, tile=48, flip=False), needs_features=None)
    wanted = encoder.encode(draw(plain, 1).pixels[None], settings=SETTINGS)  # the whole picture, it is square
    found = draw(data, 1).features
    assert torch.allclose(found.patches, wanted.patches, atol=2e-3)  # kept with half precision
    assert torch.allclose(found.cls, wanted.cls, atol=2e-3)
    assert (found.spec, found.layers, found.image_size) == (wanted.spec, wanted.layers, wanted.image_size)
    about = json.loads((folder / "a.dinov2.json").read_text())
    assert (about["spec"], about["layers"], about["image_size"]) == ("tiny-v2", "3", [40, 60])
    assert np.load(folder / "a.dinov2_patches.npy").shape == (3, 4, 64)


def test_a_second_run_keeps_what_fits_and_computes_the_rest(folder, encoder):
    computed(folder, DinoRecipe(encoder, SETTINGS))
    before = files(folder)
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.kept) == (0, 2) and files(folder) == before
    (folder / "a.dinov2_cls.npy").unlink()
    (folder / "sub/b.c.jpg").write_bytes(encoded(colours(48, 48, seed=7), "JPEG"))
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.kept) == (2, 0)
    assert draw(opened(folder), 1) is not None


@pytest.mark.parametrize(
    "recipe",
    [
        DinoRecipe(tiny_encoder("tiny-v2", seed=1), SETTINGS),
        DinoRecipe(tiny_encoder("tiny-v2"), EncodeSettings(side=56, layers="2")),
        DinoRecipe(tiny_encoder("tiny-v2"), EncodeSettings(side=84, layers="3")),
        DinoRecipe(tiny_encoder("tiny-v2"), EncodeSettings(side=56, layers="3", crops=2)),
        DinoRecipe(tiny_encoder("tiny-v2"), SETTINGS, DegradationSettings()),
        DinoRecipe(tiny_encoder("tiny-v2"), SETTINGS, DegradationSettings(), seed=1),
    ],
)
def test_features_made_otherwise_are_computed_anew(folder, encoder, recipe):
    computed(folder, DinoRecipe(encoder, SETTINGS, DegradationSettings() if recipe.seed else None))
    before = np.load(folder / "a.dinov2_patches.npy")
    report = computed(folder, recipe)
    assert (report.computed, report.kept) == (2, 0)
    assert not np.array_equal(np.load(folder / "a.dinov2_patches.npy"), before)


def test_degraded_features_are_the_same_in_every_run(folder, encoder):
    recipe = DinoRecipe(encoder, SETTINGS, DegradationSettings(noise=(0.05, 0.05)), seed=3)
    computed(folder, recipe)
    before = files(folder)
    for path in folder.rglob("*.json"):
        path.unlink()
    assert computed(folder, recipe).computed == 2
    assert {path: content for path, (_, content) in files(folder).items()} == {p: c for p, (_, c) in before.items()}


def test_every_picture_is_degraded_in_its_own_way(folder, encoder):
    for name in ("one.png", "other.png"):
        (folder / name).write_bytes(encoded(ramps(48, 48)))
    computed(folder, DinoRecipe(encoder, SETTINGS, DegradationSettings()))
    one, other = (np.load(folder / f"{name}.dinov2_patches.npy") for name in ("one", "other"))
    assert not np.array_equal(one, other)


def test_an_old_json_never_vouches_for_new_arrays(folder, encoder):
    computed(folder, DinoRecipe(encoder, SETTINGS))
    (folder / "a.dinov2_cls.npy").unlink()
    (folder / "a.dinov2_cls.npy").mkdir()
    with pytest.raises(ValueError, match="cannot be written"):
        computed(folder, DinoRecipe(tiny_encoder("tiny-v2", seed=1), SETTINGS))
    assert (folder / "a.dinov2_patches.npy").exists() and not (folder / "a.dinov2.json").exists()


def test_two_encoders_features_lie_side_by_side(folder, encoder):
    computed(folder, DinoRecipe(encoder, SETTINGS))
    computed(folder, DinoRecipe(tiny_encoder("tiny-v3"), EncodeSettings(side=64, layers="2")))
    assert draw(opened(folder), 0).features.spec == "tiny-v2"
    chosen = DataSettings(path=str(folder), picture=32, tile=32, features="dinov3")
    assert draw(open_data(chosen, needs_features=("tiny-v3", "2")), 0).features.spec == "tiny-v3"


@pytest.mark.parametrize("scales", ["averaged", "apart"])
def test_features_with_crops_are_for_adapters_with_crops(folder, encoder, scales):
    settings = EncodeSettings(side=56, layers="3", crops=2, scales=scales)
    computed(folder, DinoRecipe(encoder, settings))
    with pytest.raises(ValueError, match=f"a.png has features of tiny-v2 layers 3 crops 2 {scales} .* layers 3 "):
        draw(opened(folder), 0)
    chosen = DataSettings(path=str(folder), picture=32, tile=32, features="dinov2")
    found = draw(open_data(chosen, needs_features=("tiny-v2", settings.how(encoder.spec))), 0).features
    assert found.how == f"3 crops 2 {scales}" and found.patches.shape[-1] == settings.width(encoder.spec)


def test_an_interrupted_run_leaves_whole_files_and_goes_on(folder, encoder):
    def stop(name, done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed(folder, DinoRecipe(encoder, SETTINGS), progress=stop)
    assert not list(folder.rglob("*.part"))
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.kept) == (1, 1)


def test_bad_pictures_are_counted_and_nothing_but_bad_ones_is_refused(folder, encoder, tmp_path):
    (folder / "bad.png").write_bytes(b"no picture")
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.skipped) == (2, {"unreadable picture": 1})
    assert not list(folder.glob("bad.d*"))
    (tmp_path / "only").mkdir()
    (tmp_path / "only/bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no picture in .*1 unreadable picture"):
        computed(tmp_path / "only", DinoRecipe(encoder, SETTINGS))


def test_a_link_to_nowhere_is_counted(folder, encoder):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    report = computed(folder, DinoRecipe(encoder, SETTINGS))
    assert (report.computed, report.skipped) == (2, {"unreadable file": 1})


def test_pictures_that_would_share_files_are_refused_before_any_is_made(folder, encoder):
    (folder / "a.jpg").write_bytes(encoded(colours(40, 40), "JPEG"))
    first = folder.with_name("first")
    first.mkdir()
    (first / "c.png").write_bytes(encoded(colours(40, 40)))
    before = files(folder.parent)
    with pytest.raises(ValueError, match="a.jpg and a.png in .* would share feature files"):
        computed([first, folder], DinoRecipe(encoder, SETTINGS))
    assert files(folder.parent) == before


def test_a_read_only_place_is_one_sentence(folder, encoder):
    (folder / "a.dinov2_patches.npy").mkdir()
    with pytest.raises(ValueError, match="a.dinov2_patches.npy cannot be written"):
        computed(folder, DinoRecipe(encoder, SETTINGS))
