import json
import tarfile

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from dinotile.cli.features import features
from dinotile.demo import DINO
from dinotile.dino.encode import EncodeSettings
from dinotile.hosts.diffusers.text import load_text_encoder
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings
from dinotile.training.data.text_recipe import TextRecipe

from ...dino.tiny import tiny_encoder
from ...tiny_text import save_text_pipeline
from ..pictures import colours, encoded, npy, write_tar

FLUX = {"t5_width": 4096, "clip_width": 768}
ENDINGS = ("t5.npy", "text.json", "clip.npy")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_text_pipeline(tmp_path_factory.mktemp("pipeline"), **FLUX)


@pytest.fixture(scope="module")
def recipe(pipeline):
    return TextRecipe(load_text_encoder(pipeline, device="cpu", dtype=torch.bfloat16), tokens=7)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    (place / "sub").mkdir(parents=True)
    for name, caption in (("a", "a red fox"), ("sub/b.c", "a blue fox")):
        (place / f"{name}.png").write_bytes(encoded(colours(40, 40)))
        (place / f"{name}.txt").write_text(f"{caption}\n", encoding="utf-8-sig" if name == "a" else "utf-8")
    return place


def computed(path, recipe, **options):
    """The only recipe's report as (computed, kept, skipped)."""
    (report,) = precompute(path, [recipe], **options)
    return report.computed, report.kept, dict(report.skipped)


def opened(path, **settings):
    return open_data(DataSettings(path=str(path), picture=32, tile=32, **settings), needs_features=None)


def draw(data, index):
    return data.get(index, generator=torch.Generator().manual_seed(0))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_text_beside_a_picture_is_its_captions(folder, recipe):
    assert computed(folder, recipe) == (2, 0, {})
    data = opened(folder)
    for index, (name, caption) in enumerate((("a", "a red fox"), ("sub/b.c", "a blue fox"))):
        context, pooled = np.load(folder / f"{name}.t5.npy"), np.load(folder / f"{name}.clip.npy")
        assert (context.shape, pooled.shape, context.dtype, pooled.dtype) == ((7, 4096), (768,), "float16", "float16")
        wanted = recipe.encoder.encode(caption, tokens=7)
        sample = draw(data, index)
        assert torch.equal(sample.context, wanted.context[0].half().float())
        assert torch.equal(sample.pooled, wanted.pooled[0].half().float())


def test_a_second_run_keeps_what_fits_and_encodes_the_rest(folder, recipe):
    computed(folder, recipe)
    before = files(folder)
    assert computed(folder, recipe) == (0, 2, {}) and files(folder) == before
    (folder / "a.clip.npy").unlink()
    assert computed(folder, recipe) == (1, 1, {})
    assert {path: content for path, (_, content) in files(folder).items()} == {p: c for p, (_, c) in before.items()}


def test_text_of_another_caption_length_or_model_is_made_anew(folder, recipe, pipeline):
    computed(folder, recipe)
    before = np.load(folder / "a.t5.npy")
    (folder / "a.txt").write_text("a green frog")
    assert computed(folder, recipe) == (1, 1, {})
    frog = np.load(folder / "a.t5.npy")
    assert not np.array_equal(frog, before)
    longer = TextRecipe(recipe.encoder, tokens=9)
    assert computed(folder, longer) == (2, 0, {}) and np.load(folder / "a.t5.npy").shape == (9, 4096)
    other = load_text_encoder(pipeline, device="cpu", dtype=torch.bfloat16)
    with torch.no_grad():
        other.pipeline.text_encoder_2.shared.weight.mul_(-1)
    assert computed(folder, TextRecipe(other, tokens=7)) == (2, 0, {})
    assert not np.array_equal(np.load(folder / "a.t5.npy"), frog)
    same = load_text_encoder(pipeline, device="cpu", dtype=torch.bfloat16)
    assert TextRecipe(same).fingerprint == recipe.fingerprint != TextRecipe(other).fingerprint


def test_the_mask_of_the_padding_is_kept_beside_the_text_and_read(folder, recipe):
    computed(folder, recipe)
    assert all(draw(opened(folder), index).mask is None for index in (0, 1))
    masked = TextRecipe(recipe.encoder, tokens=12, masked=True)
    assert computed(folder, masked) == (2, 0, {}) and computed(folder, masked) == (0, 2, {})
    words = len(recipe.encoder.pipeline.tokenizer_2("a red fox").input_ids)
    assert np.load(folder / "a.t5_mask.npy").shape == (12,)
    sample = draw(opened(folder), 0)
    assert sample.mask.tolist() == [True] * words + [False] * (12 - words) and words < 12
    (folder / "a.t5_mask.npy").write_bytes(npy(np.ones(5)))
    data = opened(folder)
    assert draw(data, 0) is None and dict(data.skipped) == {"with a t5_mask.npy that does not fit its t5.npy": 1}
    (folder / "a.t5_mask.npy").unlink()
    data = opened(folder)
    assert draw(data, 0) is None and dict(data.skipped) == {"without t5_mask.npy": 1}
    assert computed(folder, masked) == (1, 1, {})
    assert computed(folder, TextRecipe(recipe.encoder, tokens=12)) == (2, 0, {})
    assert draw(opened(folder), 0).mask is None  # the file of the earlier text stays, and counts no more


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "without a caption"),
        (b"", "with an empty caption"),
        (b"\xef\xbb\xbf \r\n", "with an empty caption"),
        ("caf\xe9".encode("latin-1"), "with a caption that is not UTF-8"),
        ("fox".encode("utf-16"), "with a caption that is not UTF-8"),
    ],
)
def test_a_picture_without_a_usable_caption_gets_no_text(folder, recipe, content, reason):
    (folder / "a.txt").unlink()
    if content is not None:
        (folder / "a.txt").write_bytes(content)
    assert computed(folder, recipe) == (1, 0, {reason: 1})
    assert not any((folder / f"a.{ending}").exists() for ending in ENDINGS)
    assert draw(opened(folder), 0).context is None
    for path in (folder / "sub").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=f"no picture in .* can be used .text: 1 {reason}"):
        computed(folder, recipe)


def test_arrays_that_the_data_brings_stay(folder, recipe):
    own, vector = npy(np.ones((3, 4096), np.float16)), npy(np.ones(768, np.float16))
    for name, content in (("a.t5.npy", own), ("a.clip.npy", vector), ("sub/b.c.t5.npy", own)):
        (folder / name).write_bytes(content)
    assert computed(folder, recipe) == (1, 1, {})
    assert (folder / "a.t5.npy").read_bytes() == (folder / "sub/b.c.t5.npy").read_bytes() == own
    assert (folder / "a.clip.npy").read_bytes() == vector != (folder / "sub/b.c.clip.npy").read_bytes()
    assert not list(folder.rglob("*.json")) and computed(folder, recipe) == (0, 2, {})


def test_text_stays_where_its_caption_was_removed(folder, recipe):
    computed(folder, recipe)
    (folder / "a.txt").unlink()
    assert computed(folder, recipe) == (0, 2, {}) and draw(opened(folder), 0).context is not None


def test_unfinished_text_and_text_of_another_caption_are_not_trained_on(folder, recipe):
    computed(folder, recipe)
    (folder / "a.clip.npy").unlink()
    (folder / "sub/b.c.txt").write_text("a green frog")
    with pytest.raises(
        ValueError, match=r"none of the 2 samples .*: 1 without clip\.npy, 1 with text of another caption;"
    ):
        opened(folder)
    (folder / "sub/b.c.text.json").write_text("[]")
    with pytest.raises(ValueError, match=r": 1 without clip\.npy, 1 with a damaged text\.json;"):
        opened(folder)
    assert computed(folder, recipe) == (2, 0, {}) and draw(opened(folder), 1) is not None


def test_an_interrupted_replacement_is_never_taken_for_whole(folder, recipe):
    computed(folder, recipe)
    (folder / "a.txt").write_text("a green frog")
    (folder / "a.t5.npy").unlink()
    (folder / "a.t5.npy").mkdir()
    with pytest.raises(ValueError, match="a.t5.npy cannot be written"):
        computed(folder, recipe)
    assert not (folder / "a.clip.npy").exists() and not list(folder.rglob("*.part"))
    (folder / "a.t5.npy").rmdir()
    assert computed(folder, recipe) == (1, 1, {})


@pytest.fixture
def tar(tmp_path):
    members = {"x/a.png": encoded(colours(40, 40)), "x/a.txt": b"a red fox", "x/alone.txt": b"no picture"}
    members |= {"x/b.jpg": encoded(colours(40, 40), "JPEG"), "x/own.png": encoded(colours(40, 40, seed=1))}
    members |= {"x/own.txt": b"words", "x/own.t5.npy": npy(np.ones((3, 4096), np.float16))}
    return write_tar(tmp_path / "shard.tar", members)


def test_a_new_tar_has_everything_and_the_text(tar, folder, recipe, tmp_path):
    skipped = {"without a picture": 1, "without a caption": 1}
    assert computed(tar, recipe, output=tmp_path / "new") == (2, 0, skipped)
    with tarfile.open(tar) as old, tarfile.open(tmp_path / "new/shard.tar") as new:
        contents = {info.name: new.extractfile(info).read() for info in new}
        assert all(contents[info.name] == old.extractfile(info).read() for info in old)
        added = {*(f"x/a.{ending}" for ending in ENDINGS), "x/own.clip.npy"}
        assert set(contents) - set(old.getnames()) == added
    computed(folder, recipe)
    assert torch.equal(draw(opened(tmp_path / "new/shard.tar"), 0).context, draw(opened(folder), 0).context)
    before = (tmp_path / "new/shard.tar").read_bytes()
    assert computed(tar, recipe, output=tmp_path / "new") == (0, 2, skipped)
    assert (tmp_path / "new/shard.tar").read_bytes() == before


def test_a_changed_caption_in_a_tar_is_encoded_anew(tar, recipe, tmp_path):
    computed(tar, recipe, output=tmp_path / "new")
    write_tar(tar, {"x/a.png": encoded(colours(40, 40)), "x/a.txt": b"a green frog"})
    assert computed(tar, recipe, output=tmp_path / "new") == (1, 0, {})
    assert draw(opened(tmp_path / "new/shard.tar"), 0) is not None


def test_a_tar_with_older_text_is_made_anew_once(tar, recipe, tmp_path):
    computed(tar, recipe, output=tmp_path / "old")
    longer, skipped = TextRecipe(recipe.encoder, tokens=9), {"without a picture": 1, "without a caption": 1}
    assert computed(tmp_path / "old/shard.tar", longer, output=tmp_path / "new") == (1, 1, skipped)
    assert computed(tmp_path / "old/shard.tar", longer, output=tmp_path / "new") == (0, 2, skipped)
    assert draw(opened(tmp_path / "new/shard.tar"), 0).context.shape == (9, 4096)


def test_features_and_text_are_made_in_one_pass(tar, recipe, tmp_path):
    dino = DinoRecipe(tiny_encoder("tiny-v2"), EncodeSettings(side=56, layers="3"))
    reports = precompute(tar, [dino, recipe], output=tmp_path / "new")
    assert [(report.name, report.computed, report.skipped.total()) for report in reports] == [
        ("dinov2", 3, 1),
        ("text", 2, 2),
    ]
    sample = draw(opened(tmp_path / "new/shard.tar", features="dinov2"), 0)
    assert sample.features is not None and sample.context is not None and sample.pooled is not None


def test_only_fluxs_own_encoders_and_lengths_are_taken(recipe, tmp_path):
    narrow = save_text_pipeline(tmp_path)
    with pytest.raises(ValueError, match=r"32 \(T5\) and 16 \(CLIP\) wide, FLUX.1 takes 4096 and 768"):
        TextRecipe(load_text_encoder(narrow, device="cpu", dtype=torch.bfloat16))
    for tokens in (0, 513):
        with pytest.raises(ValueError, match=f"{tokens} text tokens .* 1 to 512"):
            TextRecipe(recipe.encoder, tokens=tokens)


def test_the_command_makes_features_text_or_both(folder, pipeline, tmp_path):
    app = typer.Typer()
    app.command()(features)

    def run(*options):
        return CliRunner().invoke(app, [str(folder), "--device", "cpu", *options])

    assert "give --dino, --text or both" in str(run().exception)
    assert "brings no text encoders" in str(run("--text", str(tmp_path)).exception)
    (folder / "sub/b.c.txt").unlink()
    result = run("--text", str(pipeline))
    assert result.output.splitlines()[-1] == "text: 1 computed, 0 kept, 1 skipped (1 without a caption)"
    assert np.load(folder / "a.t5.npy").shape == (256, 4096) and not list(folder.rglob("*.dinov2*"))
    result = run("--text", str(pipeline), "--text-tokens", "5", "--dino", str(DINO), "--side", "56")
    assert result.output.splitlines()[-2:] == [
        "dinov2: 2 computed, 0 kept, 0 skipped",
        "text: 1 computed, 0 kept, 1 skipped (1 without a caption)",
    ]
    assert json.loads((folder / "a.text.json").read_text())["tokens"] == 5
