"""What a picture file says beside 8-bit colours goes along, or its loss is said."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin

from dinotile.files import deep
from dinotile.files.pictures import Picture, load_picture, save_picture

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def numbers(pixels):
    """[C, H, W] in 0..1 as the file's own numbers [H, W, C]."""
    return (pixels[0] * 65535).round().permute(1, 2, 0).numpy().astype(int)


def camera():
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright] = "Maker", "Somebody"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.LensModel: "A lens", ExifTags.Base.ExifImageWidth: 30}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif


@pytest.fixture
def full(tmp_path):
    """A 30 x 20 PNG, turned, with all that is kept."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "A cat")
    info.add_itxt("workflow", '{"caf\u00e9": 1}')
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    options = {"icc_profile": PROFILE, "dpi": (300, 150), "exif": camera(), "pnginfo": info}
    Image.new("RGB", (30, 20), "red").save(tmp_path / "full.png", **options)
    return tmp_path / "full.png"


@pytest.mark.parametrize(
    "ending,lost",
    [("png", ""), ("jpg", "PNG text"), ("webp", "dpi, PNG text"), ("tif", "XMP, PNG text")],
)
def test_metadata_is_kept_or_its_loss_is_said(full, tmp_path, ending, lost):
    note = save_picture(load_picture(full), tmp_path / f"out.{ending}")
    form = {"jpg": "JPEG", "tif": "TIFF", "webp": "WEBP"}.get(ending)
    assert note == (f"out.{ending}: {form} does not hold the picture's {lost}, which was left out" if lost else None)
    with Image.open(tmp_path / f"out.{ending}") as image:
        image.load()
        exif = image.getexif()
        assert image.size == (20, 30) and ExifTags.Base.Orientation not in exif
        assert (exif[ExifTags.Base.Make], exif[ExifTags.Base.Copyright]) == ("Maker", "Somebody")
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        assert inner[ExifTags.Base.LensModel] == "A lens" and ExifTags.Base.ExifImageWidth not in inner
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[2] == (1.0, 2.0, 3.0)
        assert image.info["icc_profile"] == PROFILE
        if "dpi" not in lost:
            assert [round(float(side)) for side in image.info["dpi"]] == [300, 150]
        if not lost:
            assert image.text["Title"] == "A cat" and image.text["workflow"] == '{"caf\u00e9": 1}'
        if "XMP" not in lost:
            assert XMP in bytes(image.info["xmp"])


def test_a_picture_without_metadata_gets_none_and_no_note(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for ending in ("png", "jpg", "webp", "tif"):
        assert save_picture(load_picture(tmp_path / "a.png"), tmp_path / f"out.{ending}") is None
    with Image.open(tmp_path / "out.png") as image:
        assert not image.info and not len(image.getexif())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_stay_16_bits(tmp_path, channels, ending):
    array = noise(9, 13, channels)
    (tmp_path / "a.png").write_bytes(deep.png(array))
    picture = load_picture(tmp_path / "a.png")
    colours = array[..., : 1 if channels < 3 else 3]
    assert (numbers(picture.pixels) == colours).all()
    assert picture.deep and picture.grey == (channels < 3)
    assert save_picture(picture, tmp_path / f"b.{ending}") is None
    again = load_picture(tmp_path / f"b.{ending}")
    assert again.deep and (again.pixels - picture.pixels).abs().max() < 0.6 / 65535
    assert (again.alpha is None) == (channels in (1, 3))
    if channels in (2, 4):
        assert (numbers(again.alpha)[..., 0] == array[..., -1]).all()


def test_turned_16_bit_pictures_and_their_metadata_go_along(tmp_path):
    array = noise(6, 10, 3)
    for ending, written in (
        ("png", deep.png(array, exif=camera().tobytes())),
        ("tif", deep.tiff(array, dpi=(240, 240))),
    ):
        (tmp_path / f"a.{ending}").write_bytes(written)
    turned = load_picture(tmp_path / "a.png")
    assert turned.pixels.shape == (1, 3, 10, 6)
    assert (numbers(turned.pixels)[0, -1] == array[0, 0]).all()
    (tmp_path / "turned.tif").write_bytes(deep.tiff(array, exif=camera().tobytes()))
    assert torch.equal(load_picture(tmp_path / "turned.tif").pixels, turned.pixels)
    assert save_picture(turned, tmp_path / "b.tif") is None
    with Image.open(tmp_path / "b.tif") as image:
        assert image.getexif()[ExifTags.Base.Make] == "Maker"
    assert save_picture(load_picture(tmp_path / "a.tif"), tmp_path / "c.png") is None
    with Image.open(tmp_path / "c.png") as image:
        assert round(image.info["dpi"][0]) == 240


def tiff_of(path, array, *, packed, **more):
    """A TIFF [H, W, C] that is not of Pillow's or ours. more: tags, such as t284 = 2 for colours apart."""
    height, width, channels = array.shape
    shown = array.transpose(2, 0, 1) if more.get("t284") == 2 else array[None]
    strips = [strip.astype(f"<u{array.itemsize}").tobytes() for strip in shown]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    lengths, bits = tuple(map(len, strips)), (8 * array.itemsize,) * channels
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    known = {
        256: width,
        257: height,
        258: bits,
        259: 8 if packed else 1,
        262: min(channels, 2),
        277: channels,
        278: height,
    }
    for tag, value in (known | {int(name[1:]): value for name, value in more.items()}).items():
        tags[tag] = value
    tags[273], tags[279] = tuple(sum(lengths[:number]) for number in range(len(lengths))), lengths
    with path.open("wb") as file:
        tags.save(file)
        file.write(b"".join(strips))
    return path


def test_16_bits_of_any_layout_in_a_file_are_read(tmp_path):
    """What libtiff unpacks, and a colour that stands for nothing."""
    array = noise(40, 31, 3)
    assert (numbers(load_picture(tiff_of(tmp_path / "a.tif", array, packed=True)).pixels) == array).all()
    content = deep.png(array)
    clear = b"tRNS" + array[0, 0].astype(">u2").tobytes()
    at = content.index(b"IDAT") - 4
    chunk = struct.pack(">I", 6) + clear + struct.pack(">I", zlib.crc32(clear))
    (tmp_path / "clear.png").write_bytes(content[:at] + chunk + content[at:])
    alpha = load_picture(tmp_path / "clear.png").alpha
    assert alpha[0, 0, 0, 0] == 0 and alpha.sum() == 40 * 31 - 1


@pytest.mark.parametrize("packed", [False, True])
def test_16_bits_that_pillow_would_misread_are_refused_and_8_bits_are_not(tmp_path, packed):
    for channels, more in ((3, {"t284": 2}), (4, {"t284": 2, "t338": 2}), (1, {"t262": 0})):
        array = noise(40, 31, channels)
        path = tiff_of(tmp_path / "a.tif", array, packed=packed, **more)
        with pytest.raises(ValueError, match="a.tif: its 16 bits for a colour .*: save it as"):
            load_picture(path)
        low = (array >> 8).astype(np.uint8)
        read = load_picture(tiff_of(path, low, packed=packed, **more)).pixels * 255
        meant = 255 - low if "t262" in more else low
        assert (numbers(read / 65535)[..., :channels] == meant[..., :3]).all()


def test_less_than_16_bits_in_the_file_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(deep.png(noise(8, 8, 3)))
    note = save_picture(load_picture(tmp_path / "a.png"), tmp_path / "b.jpg")
    assert note == "b.jpg: JPEG has 8 bits for a colour, the picture had more; write a .png to keep them"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "F"])
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_grey_stays_grey(tmp_path, mode, ending):
    path = tmp_path / ("a.tif" if mode == "F" else "a.png")
    Image.new(mode, (6, 5), {"F": 0.5, "LA": (99, 120), "I;16": 30000}.get(mode, 1)).save(path)
    picture = load_picture(path)
    assert picture.grey
    coloured = Picture(**{**vars(picture), "pixels": picture.pixels * torch.tensor([1.0, 0.5, 0.2])[:, None, None]})
    save_picture(coloured, tmp_path / f"b.{ending}")
    with Image.open(tmp_path / f"b.{ending}") as image:
        deep_grey = mode in ("I;16", "F") and ending != "jpg"
        assert image.mode == ("I;16" if deep_grey else "LA" if mode == "LA" and ending != "jpg" else "L")


def test_pages_frames_and_foreign_profiles_are_said(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        picture = load_picture(tmp_path / name)
        assert f"{name}: of its pages or frames the first was taken" in picture.note
        assert picture.pixels[0, 0].min() > 0.9
    assert "the first was taken" in save_picture(picture, tmp_path / "out.png")
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.jpg", icc_profile=PROFILE)
    assert "its colour profile is for CMYK" in load_picture(tmp_path / "cmyk.jpg").note


def test_damaged_metadata_does_not_cost_the_picture(tmp_path):
    content, notes = bytearray(), set()
    with Image.new("RGB", (8, 8)) as image:
        image.save(tmp_path / "a.jpg", exif=camera(), dpi=(300, 300))
    content += (tmp_path / "a.jpg").read_bytes()
    start = content.index(b"Exif\0\0")
    for seed in range(60):
        broken = bytearray(content)
        rng = np.random.default_rng(seed)
        for place in rng.integers(start + 6, start + 180, 6):
            broken[place] = rng.integers(256)
        (tmp_path / "b.jpg").write_bytes(broken)
        try:
            picture = load_picture(tmp_path / "b.jpg")
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        notes.add(save_picture(picture, tmp_path / "c.png"))
    assert None in notes and any("b.jpg: a part of it is damaged and was left out (" in str(note) for note in notes)
