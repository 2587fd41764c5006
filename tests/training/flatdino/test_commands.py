"""``dinotile flatdino``: whole runs from the command line."""

import pytest

from dinotile.dino.compress.checkpoint import load_flat
from dinotile.dino.compress.statistics import load_statistics
from dinotile.training.core.monitor import read_log

from .tiny import MAKER, NAME, stored

STORED = ("--features", "dinov2", "--encoder", MAKER, "--device", "cpu")
SMALL = ("--batch", "4", "--steps", "3", "--log-every", "1", "--validate-every", "3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("commands") / "data", count=12)


def test_train_then_statistics(data, tmp_path, dinotile):
    folder = tmp_path / "run"
    code, out, err = dinotile("flatdino", "train", NAME, data, *STORED, *SMALL, "-o", folder)
    assert (code, out.strip()) == (0, str(folder / "flat.safetensors")), err
    flat = load_flat(folder / "flat.safetensors")
    assert flat.config.tokens == 4 and flat.provenance["steps"] == 3 and flat.statistics.pictures == 11
    lines = read_log(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 3] and set(lines[-1]["validation"]) == {
        "cosine",
        "huber",
        "explained",
    }
    code, out, _ = dinotile(
        "flatdino", "compute-stats", folder / "flat.safetensors", data, *STORED, "-o", tmp_path / "s.safetensors"
    )
    assert code == 0 and out.strip().endswith("s.safetensors: of 12 pictures")
    assert load_statistics(tmp_path / "s.safetensors", flat=flat.fingerprint).pictures == 12
    other = ("--features", "dinov2", "--encoder", "dinov2-demo 2", "--device", "cpu")
    code, _, err = dinotile(
        "flatdino", "compute-stats", folder / "flat.safetensors", data, *other, "-o", tmp_path / "t.safetensors"
    )
    assert code == 2 and "the features are dinov2-demo layers 2" in err and "compresses dinov2-demo layers 4" in err
    assert not (tmp_path / "t.safetensors").exists()


def test_restoring_and_what_it_is_refused_for(data, tmp_path, dinotile, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin = ("flatdino", "train", NAME, data, *STORED, "--batch", "4")
    code, _, err = dinotile(*begin, "--restore", "default", "--steps", "2")
    assert code == 2 and "holds no checkpoint to restore" in err and err.count("\n") == 1
    code, out, err = dinotile(*begin, "--maybe-restore", "default", "--steps", "2")
    assert code == 0 and out.strip() == f"output/flatdino/{NAME}/flat.safetensors", err
    code, _, err = dinotile(*begin, "--steps", "2")
    assert code == 2 and "step-000002 of an earlier run: resume it, remove it" in err
    code, _, err = dinotile(*begin, "--restore", "default", "--steps", "4")
    assert code == 0, err
    assert load_flat(f"output/flatdino/{NAME}/flat.safetensors").provenance["steps"] == 4
    code, _, err = dinotile(*begin, "--restore", f"output/flatdino/{NAME}", "--steps", "5")
    assert code == 0 and load_flat(f"output/flatdino/{NAME}/flat.safetensors").provenance["steps"] == 5
    for options, said in (
        (("--restore", "default", "--maybe-restore", "default"), "are both given: leave one out"),
        (
            ("--restore", "elsewhere", "-o", "here"),
            "--output here and the run to go on with, elsewhere, are both given",
        ),
    ):
        code, _, err = dinotile(*begin, *options)
        assert code == 2 and said in err


@pytest.mark.parametrize(
    "options, said",
    [
        (("--batch", "0"), "training.batch is 0, needed is a whole number from 1 to 65536"),
        (("--precision", "int8"), "training.precision is 'int8', needed is 'no' or 'bf16' or 'fp16'"),
        (("--attention", "fast"), "training.attention is 'fast', needed is 'auto' or 'math'"),
        (("--dino", "x"), "--dino and --features are both given"),
        (("--fsdp", "0"), "training.fsdp is 0, needed is a whole number of at least 1"),
        (
            ("--fsdp", "2"),
            "--fsdp 2 spreads the model over 2 processes, and 1 was started: begin the command with torchrun",
        ),
        (("--ema", "1"), "training.ema is 1.0, needed is a number from 0 to below 1"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(data, tmp_path, dinotile, options, said):
    code, _, err = dinotile("flatdino", "train", NAME, data, *STORED, "-o", tmp_path / "run", *options)
    assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "run").exists()
