"""Features beside the pictures of a tar, in a new one."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import dinotile
from dinotile.files.writing import hold
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute

from ...dino.tiny import tiny_encoder
from ..pictures import colours, encoded, ramps, write_tar
from .precomputed import SETTINGS, computed, draw, opened
from .precomputed import encoder as encoder
from .precomputed import folder as folder

PACKAGE = str(Path(dinotile.__file__).parents[1])


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
