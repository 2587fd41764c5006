import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image, TiffImagePlugin

from dinotile.files.containers import decoded, opened
from dinotile.files.kinds import FORMATS
from dinotile.files.pictures import load_picture
from dinotile.training.data.pictures import decode
from dinotile.training.data.sample import Unusable


def encoded(form, size=(20, 12), **options):
    content = io.BytesIO()
    Image.new("RGB", size, (200, 100, 50)).save(content, form, **options)
    return content.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_six_kinds_of_file_are_opened_whatever_their_name_is(tmp_path, form):
    (tmp_path / "picture.dat").write_bytes(encoded(form))
    assert load_picture(tmp_path / "picture.dat").pixels.shape == (1, 3, 12, 20)
    assert decode(encoded(form)).shape == (3, 12, 20)


@pytest.mark.parametrize("form", ["EPS", "PPM", "TGA", "ICO", "PCX", "SGI", "PDF", "JPEG2000", "DDS"])
def test_other_kinds_are_not_even_begun(tmp_path, form):
    (tmp_path / "picture.png").write_bytes(encoded(form, (32, 32)))
    with pytest.raises(ValueError, match="is not a readable picture.*none of PNG, JPEG, WEBP, TIFF, BMP, GIF"):
        load_picture(tmp_path / "picture.png")
    with pytest.raises(Unusable, match="unreadable picture"):
        decode(encoded(form, (32, 32)))


def claiming(width, height):
    """A PNG of that size with hardly any content."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + -(-width // 8))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["TIFF", "GIF"])
def test_no_kind_of_file_has_a_limit_of_pillows(tmp_path, monkeypatch, form):
    """As far below its number as a large scan is above it; TIFF looks at it again while it decodes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (tmp_path / "a").write_bytes(encoded(form, (30, 20), **({"save_all": True} if form == "GIF" else {})))
    assert load_picture(tmp_path / "a").pixels.shape == (1, 3, 20, 30)
    with opened(tmp_path / "a") as image, ThreadPoolExecutor(1) as other:
        assert Image.MAX_IMAGE_PIXELS == 100  # for all that others open meanwhile
        assert other.submit(load_picture, tmp_path / "a").result(timeout=30).pixels.shape == (1, 3, 20, 30)
        assert decoded(image).getpixel((0, 0)) is not None
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_file_that_claims_more_pixels_than_it_can_hold_is_refused_before_they_are_allocated(tmp_path):
    content = bytearray(encoded("JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match="too short for a JPEG of 20000 x 20000 px"):
        load_picture(tmp_path / "a.jpg")
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    side, data = 20_000, zlib.compress(bytes(3000))
    claims = {256: side, 257: side, 258: (8,) * 3, 259: 8, 262: 2, 273: 0, 277: 3, 278: side, 279: len(data)}
    for tag, value in claims.items():
        tags[tag] = value
    with (tmp_path / "a.tif").open("wb") as file:
        tags.save(file)
        file.write(data)
    with pytest.raises(ValueError, match="too short for a TIFF of 20000 x 20000 px"):
        load_picture(tmp_path / "a.tif")
    part = bytearray(encoded("TIFF"))
    at = part.index(struct.pack("<HHI", 257, 4, 1)) + 8  # its height
    part[at : at + 4] = struct.pack("<I", 10_000_000)
    (tmp_path / "part.tif").write_bytes(part)
    with pytest.raises(ValueError, match="20 x 12 px are there of 20 x 10000000 px"):
        load_picture(tmp_path / "part.tif")
    (tmp_path / "white.tif").write_bytes(encoded("TIFF", (3000, 2000), compression="tiff_adobe_deflate"))
    assert load_picture(tmp_path / "white.tif").pixels.shape == (1, 3, 2000, 3000)
    (tmp_path / "white.jpg").write_bytes(encoded("JPEG", (4000, 3000), quality=1, optimize=True, progressive=True))
    assert load_picture(tmp_path / "white.jpg").pixels.shape == (1, 3, 3000, 4000)


def test_pictures_over_pillows_limit_are_opened_up_to_ours(tmp_path):
    """Pillow refuses 179 megapixels and warns above 89; its number is the process' own and stays."""
    limit = Image.MAX_IMAGE_PIXELS
    large = tmp_path / "large.png"
    large.write_bytes(claiming(19_000, 10_000))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(large)
    with opened(large) as image:
        image.load()
        assert image.size == (19_000, 10_000)
    large.write_bytes(claiming(25_000, 20_001))
    words = "large.png: 25000 x 20001 px are 500.025 megapixels, 500 are allowed: raise --max-megapixels"
    with pytest.raises(ValueError, match=words):
        load_picture(large)
    with pytest.raises(Unusable, match="unreadable picture"):
        decode(large.read_bytes())
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_can_be_set(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(claiming(1100, 1000))
    assert load_picture(path, max_megapixels=1.1).pixels.shape == (1, 3, 1000, 1100)
    with pytest.raises(ValueError, match="1.1 megapixels, 1 are allowed"):
        load_picture(path, max_megapixels=1)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max megapixels .* must be above 0"):
            load_picture(path, max_megapixels=wrong)
