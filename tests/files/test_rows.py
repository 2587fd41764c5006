"""Pictures read, resized and written by rows: the same as those that are there as a whole."""

import itertools
import json
import string

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.ImageCms import ImageCmsProfile, createProfile
from PIL.PngImagePlugin import PngImageFile, PngInfo

from dinotile.files import streams
from dinotile.files.deep import chunk
from dinotile.files.metadata import Metadata
from dinotile.files.pictures import Picture, load_picture, save_picture
from dinotile.files.pixels import resize_signed
from dinotile.files.resampling import applied, span
from dinotile.files.sources import open_picture, upright_size
from dinotile.files.streams import Form, written
from dinotile.files.writing import abandoned

HEIGHT, WIDTH = 50, 37
PARTS = ((20, 40), (0, 10), (30, 50), (5, 25))  # rows, forward and back


def pixels(channels=3, height=HEIGHT, width=WIDTH):
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(channels))


@pytest.mark.parametrize("size", [(100, 74), (77, 90), (20, 17), (50, 111), (1, 1)])
def test_a_part_of_a_resized_picture_is_that_part(size):
    source = pixels()
    for kind, whole in (
        ("cubic", resize_signed(source, height=size[0], width=size[1])),
        ("linear", F.interpolate(source, size=size, mode="bilinear", antialias=True)),
    ):
        top, left = size[0] // 3, size[1] // 4
        bottom, right = max(top + 1, size[0] * 2 // 3), max(left + 1, size[1] - 1)
        rows = span(top, bottom, side=size[0], source=HEIGHT, kind=kind)
        columns = span(left, right, side=size[1], source=WIDTH, kind=kind)
        part = applied(rows, columns, source[..., rows.first : rows.last, columns.first : columns.last],
                       top=rows.first, left=columns.first)  # fmt: skip
        assert (part - whole[..., top:bottom, left:right]).abs().max() < 1e-5


@pytest.mark.parametrize("big", [False, True], ids=["", "BigTIFF"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("grey,deep,clear", list(itertools.product([False, True], repeat=3)))
def test_a_file_written_by_rows_is_that_written_whole(tmp_path, monkeypatch, suffix, grey, deep, clear, big):
    if big:
        monkeypatch.setattr(streams, "BIG", 0)
    colours, alpha = pixels(), pixels(1) if clear else None
    said = Metadata(texts={"Title": "x"}, recipe='{"dinotile": "1"}', dpi=(300.0, 300.0))
    with written(tmp_path / f"a.{suffix}", Form(clear, grey, deep, said), height=HEIGHT, width=WIDTH) as write:
        for top in range(0, HEIGHT, 7):
            write(colours[..., top : top + 7, :], None if alpha is None else alpha[..., top : top + 7, :])
    save_picture(Picture(colours, alpha, None, grey, deep, said), tmp_path / f"b.{suffix}")
    found, whole = (load_picture(tmp_path / f"{name}.{suffix}") for name in "ab")
    assert torch.equal(found.pixels, whole.pixels) and found.deep == whole.deep
    assert (found.alpha is None) == (whole.alpha is None) and (not clear or torch.equal(found.alpha, whole.alpha))
    assert found.metadata.dpi == whole.metadata.dpi
    assert found.metadata.recipe == ("" if big and suffix == "tif" else whole.metadata.recipe)


@pytest.mark.parametrize("block,sizes", [(1, (1, 300)), (100, (1, 300)), (100, (900, 988)), (2**24, (900, 988))])
@pytest.mark.parametrize("suffix,deep", [("png", False), ("png", True), ("tif", False), ("tif", True), ("webp", False)])
def test_what_is_known_at_the_end_alone_stands_in_the_file_as_if_it_had_been_known(
    tmp_path, monkeypatch, suffix, deep, block, sizes
):
    monkeypatch.setattr(streams, "BLOCK", block)
    said = string.ascii_letters * 19  # which a PNG holds packed, and shorter, from 1000 on
    early, late = (Form(deep=deep, metadata=Metadata(recipe=json.dumps({"dinotile": said[:size]}))) for size in sizes)
    for name, form in (("a", early), ("b", late)):
        with written(tmp_path / f"{name}.{suffix}", form, height=HEIGHT, width=WIDTH) as write:
            write(pixels(), None)
            write.form = late
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    found = load_picture(tmp_path / f"a.{suffix}")
    assert found.metadata.recipe == late.metadata.recipe and (found.pixels - pixels()).abs().max() < 0.003


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("deep,clear", [(False, False), (True, True)])
def test_what_a_file_does_not_hold_is_said_as_of_one_written_whole(tmp_path, suffix, deep, clear):
    colours, alpha, path = pixels(), pixels(1) if clear else None, tmp_path / f"a.{suffix}"
    said = Metadata(texts={"Title": "x"}, recipe='{"dinotile": "1"}', dpi=(300.0, 300.0))
    note = save_picture(Picture(colours, alpha, None, False, deep, said), path)
    with written(path, Form(clear, False, deep, said), height=HEIGHT, width=WIDTH) as write:
        write(colours, alpha)
    assert write.note == (note or "") and bool(note) == (suffix != "png")


def test_transparency_of_which_there_is_none_is_not_missed_in_a_jpeg(tmp_path):
    with written(tmp_path / "a.jpg", Form(alpha=True), height=HEIGHT, width=WIDTH) as write:
        write(pixels(), pixels(1) * 0 + 1)
    assert write.note == ""


def test_a_tiff_of_more_than_four_gigabytes_says_what_it_does_not_hold(tmp_path):
    form, path = Form(metadata=Metadata(recipe='{"dinotile": "1"}', dpi=(300.0, 300.0))), tmp_path / "a.tif"
    assert form.lost(path, height=100, width=100) == ""
    said = "a.tif: a TIFF of this size does not hold the picture's recipe, which was left out"
    assert form.lost(path, height=40_000, width=40_000) == said


@pytest.mark.parametrize("suffix,damaged", [("png", Metadata(texts={"\u4e2d": "x"})), ("tif", Metadata(exif=b"none"))])
def test_what_a_source_says_that_cannot_be_written_costs_no_picture(tmp_path, suffix, damaged):
    path = tmp_path / f"a.{suffix}"
    with written(path, Form(metadata=damaged), height=HEIGHT, width=WIDTH) as write:
        write(pixels(), None)
    found = load_picture(path)
    assert (found.pixels - pixels()).abs().max() < 0.003
    assert not (found.metadata.texts or found.metadata.exif)
    assert "which was left out" in Form(metadata=damaged).lost(path, height=HEIGHT, width=WIDTH)


def test_what_a_killed_run_left_of_a_file_goes_when_the_next_one_begins_it(tmp_path):
    left = tmp_path / ".a.png.01234567.part"
    left.write_bytes(b"half")
    with written(tmp_path / "a.png", Form(), height=HEIGHT, width=WIDTH) as write:
        (own,) = tmp_path.iterdir()
        assert own != left and not abandoned(own)  # a second run lets it be
        write(pixels(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_file_whose_rows_do_not_come_is_as_it_was(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), written(path, Form(), height=HEIGHT, width=WIDTH) as write:
        write(pixels()[..., :10, :], None)
        raise RuntimeError
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "mode,by_rows", [(m, True) for m in ("RGB", "RGBA", "L", "LA", "P")] + [("1", False), ("I;16", False)]
)
def test_rows_of_a_file_are_those_of_the_whole_picture(tmp_path, mode, by_rows):
    soft = Image.fromarray((pixels(height=9, width=8)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    image = soft.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray((pixels(1)[0, 0].numpy() * 255).astype(np.uint8)))
    path = tmp_path / "a.png"
    image.save(path)
    found, whole = open_picture(path), load_picture(path)
    assert (found.read.file is not None) == by_rows and (found.height, found.width) == (HEIGHT, WIDTH)
    assert (found.form.grey, found.form.deep, found.form.alpha) == (whole.grey, whole.deep, whole.alpha is not None)
    for top, bottom in PARTS:
        assert torch.equal(found.rows(top, bottom), whole.pixels[..., top:bottom, :])
        if whole.alpha is not None:
            assert torch.equal(found.alpha(top, bottom), whole.alpha[..., top:bottom, :])


@pytest.mark.parametrize("damage", ["cut", "flipped", "row missing"])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "a.png"
    save_picture(Picture(pixels()), path)
    content = path.read_bytes()
    if damage == "row missing":
        save_picture(Picture(pixels()[..., 1:, :]), path)
        content = content[:33] + path.read_bytes()[33:]  # the head of a higher one
    path.write_bytes(
        {"cut": content[:-200], "flipped": content[:300] + bytes([content[300] ^ 1]) + content[301:]}.get(
            damage, content
        )
    )
    with pytest.raises(ValueError, match="not a readable picture") as said:
        open_picture(path).rows(0, HEIGHT)
    assert "\n" not in str(said.value)


def test_the_size_is_that_of_the_picture_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png", exif=exif)
    assert (
        upright_size(tmp_path / "a.png") == tuple(load_picture(tmp_path / "a.png").pixels.shape[-2:]) == (WIDTH, HEIGHT)
    )
    assert open_picture(tmp_path / "a.png").rows(0, WIDTH).shape == (1, 3, WIDTH, HEIGHT)


def turned_by(how: str, path) -> None:
    """A PNG that says in some place that it lies on its side, or has frames."""
    image, said, exif = (
        Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)),
        PngInfo(),
        Image.Exif(),
    )
    exif[0x0112] = 6
    if how == "XMP":
        said.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    if how == "raw profile":
        said.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}", zip=True)
    if how == "frames":
        image.save(path, save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])
        return
    image.save(path, pnginfo=said)
    if how == "EXIF behind the pixels":
        content = path.read_bytes()
        path.write_bytes(content[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[-12:])


@pytest.mark.parametrize("how", ["XMP", "raw profile", "EXIF behind the pixels", "frames"])
def test_what_stands_in_any_place_of_a_png_turns_it_by_rows_as_whole(tmp_path, how):
    path = tmp_path / "a.png"
    turned_by(how, path)
    found, whole = open_picture(path), load_picture(path)
    assert (found.height, found.width) == upright_size(path) == tuple(whole.pixels.shape[-2:])
    assert (found.height == WIDTH) == (how != "frames")
    assert torch.equal(found.rows(0, found.height), whole.pixels) and found.note == whole.note
    assert found.form.metadata.exif == whole.metadata.exif


def test_a_png_that_stands_upright_is_read_by_rows_and_no_pixel_is_decoded_before(tmp_path, monkeypatch):
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112], exif[0x0110] = 1, "camera"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif, dpi=(300, 300))
    sizes, load = [], PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda image: sizes.append(image.size) or load(image))
    found = open_picture(path)
    assert upright_size(path) == (HEIGHT, WIDTH) and set(sizes) == {(1, 1)}
    assert found.read.file is not None
    assert found.form.metadata.exif == load_picture(path).metadata.exif != b"" and found.form.metadata.dpi is not None


def test_a_profile_of_other_colours_is_left_out_and_told(tmp_path):
    path, profile = tmp_path / "a.png", ImageCmsProfile(createProfile("sRGB")).tobytes()
    Image.new("L", (WIDTH, HEIGHT)).save(path, icc_profile=profile)
    found = open_picture(path)
    assert found.form.metadata.icc == b"" and "a.png: its colour profile is of other colours" in found.note
