import os

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.files.pictures import Picture, load_picture, save_picture
from dinotile.files.writing import check_picture_output

from ..limits import closed, largest_file
from ..tiny import picture


def saved(path, array):
    Image.fromarray(array).save(path)
    return path


def test_grey_16_bit_keeps_its_precision(tmp_path):
    ramp = np.arange(1000, 1256, dtype=np.uint16).reshape(16, 16)
    loaded = load_picture(saved(tmp_path / "a.png", ramp))
    assert loaded.pixels.shape == (1, 3, 16, 16)
    assert torch.allclose(loaded.pixels[0, 1] * 65535, torch.from_numpy(ramp.astype(np.float32)), atol=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    white = Image.new("RGB", (5, 4), "white").convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    white.save(path)
    loaded = load_picture(path)
    assert loaded.pixels.shape == (1, 3, 4, 5) and loaded.alpha is None
    assert loaded.pixels.min() > 0.98


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_alpha_is_kept_apart(tmp_path, kind):
    image = Image.new("RGBA", (6, 4), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 3, 4))
    if kind == "palette":
        image = image.quantize(4)
    elif kind == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "a.png")
    loaded = load_picture(tmp_path / "a.png")
    assert loaded.pixels.shape == (1, 3, 4, 6)
    assert loaded.alpha[0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_an_opaque_alpha_channel_is_none(tmp_path):
    Image.new("RGBA", (6, 4), (255, 0, 0, 255)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").alpha is None


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_picture(tmp_path / "a.jpg").pixels.shape == (1, 3, 30, 20)


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    for name, words in [
        ("missing.png", "does not exist"),
        ("", "is a folder"),
        ("empty.png", "0 bytes"),
        ("text.png", "not a readable picture .*: give a whole PNG, JPEG, WEBP, TIFF, BMP or GIF file"),
        ("cut.png", "not a readable picture"),
        ("nan.tiff", "NaN"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            load_picture(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_picture_that_may_not_be_read_is_refused_in_one_sentence(tmp_path):
    with closed(tmp_path), pytest.raises(ValueError, match="a.png may not be read: change its permissions"):
        load_picture(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff"])
def test_a_lossless_file_brings_pixels_and_alpha_back(tmp_path, suffix):
    pixels = (picture(7, 9) * 255).round() / 255
    alpha = (torch.rand(1, 1, 7, 9) * 254).round() / 255
    save_picture(Picture(pixels, alpha.clamp(min=1 / 255)), tmp_path / f"a{suffix}")
    loaded = load_picture(tmp_path / f"a{suffix}")
    assert (loaded.pixels - pixels).abs().max() < 1e-6
    assert (loaded.alpha - alpha.clamp(min=1 / 255)).abs().max() < 1e-6


def test_jpeg_puts_transparency_on_white_and_says_so(tmp_path):
    note = save_picture(Picture(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)), tmp_path / "a.jpg")
    assert "JPEG has no transparency" in note
    assert load_picture(tmp_path / "a.jpg").pixels.min() > 0.98


def test_the_colour_profile_survives(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", icc_profile=profile)
    save_picture(load_picture(tmp_path / "a.png"), tmp_path / "b.jpg")
    assert load_picture(tmp_path / "b.jpg").icc == profile


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("size", [0, 2000])
def test_a_disk_that_is_full_in_the_middle_is_one_sentence_and_keeps_what_was_there(tmp_path, kind, size):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b"before")
    with largest_file(size), pytest.raises(ValueError, match=f"a.{kind} cannot be written .File too large."):
        save_picture(Picture(torch.rand(1, 3, 64, 64)), path)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"before"


def test_outputs_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, size, words in [
        (tmp_path / "a.gif", 1, "ends in .gif"),
        (tmp_path / "a", 1, "ends in nothing"),
        (tmp_path / "no" / "a.png", 1, "does not exist"),
        (tmp_path / "file" / "a.png", 1, "does not exist"),
        (tmp_path / "a.webp", 20000, "does not fit in a .webp"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_picture_output(path, height=size, width=size)
    assert os.listdir(tmp_path) == ["file"]
