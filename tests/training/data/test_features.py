import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import dinotile
from dinotile.dino.encode import EncodeSettings
from dinotile.files.writing import hold
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings, DegradationSettings

from ...dino.tiny import tiny_encoder
from ..pictures import colours, encoded, ramps, write_tar

PACKAGE = str(Path(dinotile.__file__).parents[1])
SETTINGS = EncodeSettings(side=56, layers="3")


@pytest.fixture
def encoder():
    return tiny_encoder("tiny-v2")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    (place / "sub").mkdir(parents=True)
    (place / "a.png").write_bytes(encoded(colours(40, 60, seed=1)))
    (place / "sub/b.c.jpg").write_bytes(encoded(ramps(48, 48), "JPEG"))
    return place


def opened(path, **settings):
    chosen = DataSettings(path=str(path), picture=32, tile=32, features="dinov2")
    return open_data(chosen, needs_features=("tiny-v2", "3"), **settings)


def draw(data, index):
    return data.get(index, generator=torch.Generator().manual_seed(0))


def computed(path, recipe, **options):
    """The only recipe's report."""
    (report,) = precompute(path, [recipe], **options)
    return report


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


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


def test_pictures_that_would_share_files_are_refused(folder, encoder):
    (folder / "a.jpg").write_bytes(encoded(colours(40, 40), "JPEG"))
    with pytest.raises(ValueError, match="a.jpg and a.png in .* would share feature files"):
        computed(folder, DinoRecipe(encoder, SETTINGS))


def test_a_read_only_place_is_one_sentence(folder, encoder):
    (folder / "a.dinov2_patches.npy").mkdir()
    with pytest.raises(ValueError, match="a.dinov2_patches.npy cannot be written"):
        computed(folder, DinoRecipe(encoder, SETTINGS))


@pytest.fixture
def tar(tmp_path):
    members = {"x/a.png": encoded(ramps(48, 48)), "x/a.txt": b"words", "x/alone.txt": b"no picture"}
    members |= {"x/b.jpg": encoded(colours(48, 48), "JPEG"), "x/bad.png": b"no picture"}
    return write_tar(tmp_path / "shard.tar", members)


def test_a_new_tar_has_everything_and_the_features(tar, folder, encoder, tmp_path):
    report = computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
    assert (report.computed, report.skipped) == (2, {"without a picture": 1, "unreadable picture": 1})
    with tarfile.open(tar) as old, tarfile.open(tmp_path / "new/shard.tar") as new:
        contents = {info.name: new.extractfile(info).read() for info in new}
        assert all(contents[info.name] == old.extractfile(info).read() for info in old)
    added = {f"x/{stem}.dinov2{end}" for stem in "ab" for end in ("_patches.npy", "_cls.npy", ".json")}
    assert added <= set(contents) and len(contents) == 5 + len(added)
    sample = draw(opened(tmp_path / "new/shard.tar", encoder=encoder.fingerprint), 0)
    (folder / "a.png").write_bytes(contents["x/a.png"])
    computed(folder, DinoRecipe(encoder, SETTINGS))
    assert torch.equal(sample.features.patches, draw(opened(folder), 0).features.patches)


def test_a_second_run_keeps_the_new_tars_features(tar, encoder, tmp_path):
    computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
    content = (tmp_path / "new/shard.tar").read_bytes()
    encoder.computed = 0
    report = computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
    assert (report.computed, report.kept, encoder.computed) == (0, 2, 0)
    assert (tmp_path / "new/shard.tar").read_bytes() == content
    other = computed(tar, DinoRecipe(tiny_encoder("tiny-v2", seed=1), SETTINGS), output=tmp_path / "new")
    assert (other.computed, other.kept) == (2, 0)


def test_an_interrupted_tar_leaves_no_half_one(tar, encoder, tmp_path):
    def stop(name, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new", progress=stop)
    assert list((tmp_path / "new").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from dinotile.dino.encode import EncodeSettings
from dinotile.tests.dino.tiny import tiny_encoder
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute

def stop(name, done, total, note=""):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

settings = EncodeSettings(side=56, layers="3")
precompute(sys.argv[1], [DinoRecipe(tiny_encoder("tiny-v2"), settings)], output=Path(sys.argv[2]), progress=stop)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_run_that_was_killed_goes_on_and_leaves_nothing_behind(encoder, tmp_path):
    members = {f"x/{number}.png": encoded(colours(200, 200, seed=number)) for number in range(6)}
    tar, new = write_tar(tmp_path / "shard.tar", members), tmp_path / "new"
    killed = subprocess.run([sys.executable, "-c", KILLED, tar, new], env={**os.environ, "PYTHONPATH": PACKAGE})
    assert killed.returncode == -signal.SIGKILL
    (left,) = new.iterdir()
    assert left.name.startswith(".shard.tar.") and left.stat().st_size > 300_000
    shorter = left.with_name(".shard.tar.00000000.part")
    shorter.write_bytes(left.read_bytes()[:1000])
    report = computed(tar, DinoRecipe(encoder, SETTINGS), output=new)
    assert report.computed + report.kept == 6 and report.kept >= 3 and encoder.computed == report.computed
    assert [path.name for path in new.iterdir()] == ["shard.tar"]
    computed(tar, DinoRecipe(tiny_encoder("tiny-v2"), SETTINGS), output=tmp_path / "fresh")
    assert (new / "shard.tar").read_bytes() == (tmp_path / "fresh/shard.tar").read_bytes()


def test_what_another_run_is_writing_stays(tar, folder, encoder, tmp_path):
    (tmp_path / "new").mkdir()
    part, fresh, old = (
        tmp_path / "new/.shard.tar.0123abcd.part",
        folder / ".a.dinov2.json.0123abcd.part",
        folder / "sub" / ".b.dinov2.json.0123abcd.part",
    )
    for path in (part, fresh, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    (folder / ".notes.part").write_bytes(b"x")
    with part.open("rb") as file:
        hold(file)
        computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
        assert part.exists()
    computed(tar, DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
    assert not part.exists()
    computed(folder, DinoRecipe(encoder, SETTINGS))
    assert fresh.exists() and (folder / ".notes.part").exists() and not old.exists()


@pytest.mark.parametrize("members", [{}, {"a.txt": b"no picture"}])
def test_a_tar_without_a_picture_leaves_no_new_one(members, encoder, tmp_path):
    write_tar(tmp_path / "bare.tar", members)
    with pytest.raises(ValueError, match="no picture in .*bare.tar can be used"):
        precompute(tmp_path / "bare.tar", [DinoRecipe(encoder, SETTINGS)], output=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_output_must_suit_the_data(tar, folder, encoder, tmp_path):
    with pytest.raises(ValueError, match="give a folder for it with --output"):
        computed(tar, DinoRecipe(encoder, SETTINGS))
    with pytest.raises(ValueError, match="would replace the tar that is read"):
        computed(tar, DinoRecipe(encoder, SETTINGS), output=tar.parent)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / tar.name
    other.write_bytes(tar.read_bytes())
    with pytest.raises(ValueError, match="would replace the tar that is read"):  # the other of the two
        computed([tar, other], DinoRecipe(encoder, SETTINGS), output=other.parent)
    with pytest.raises(ValueError, match="several tars would be written to"):
        computed([tar, other], DinoRecipe(encoder, SETTINGS), output=tmp_path / "new")
    write_tar(other, {"x/foreign.png": encoded(ramps(48, 48))})
    content = other.read_bytes()
    with pytest.raises(
        ValueError, match="has no sample of .*shard.tar, but others .shard/x/foreign., so it is no earlier"
    ):
        computed(tar, DinoRecipe(encoder, SETTINGS), output=other.parent)
    assert other.read_bytes() == content
    with pytest.raises(ValueError, match="leave --output out"):
        computed(folder, DinoRecipe(encoder, SETTINGS), output=tar.parent)
