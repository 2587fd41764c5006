import io
import struct
import zlib

import pytest
from PIL import Image

from dinotile.files.containers import FORMATS, opened
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
