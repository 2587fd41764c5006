"""Small picture files, and tars of them written by hand."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from dinotile.files.fingerprints import fingerprint
from dinotile.training.data.side_files import FeatureInfo, pack


def colours(height, width, seed=0):
    """Random pixels as an 8-bit image: every crop of it is different."""
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(array)


def ramps(height, width):
    """Red grows downwards and green to the right: a pixel's colour says where it lies."""
    array = np.zeros((height, width, 3), dtype=np.uint8)
    array[..., 0] = (np.arange(height) * 255 / (height - 1))[:, None]
    array[..., 1] = np.arange(width) * 255 / (width - 1)
    return Image.fromarray(array)


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path, members):
    """A tar of {member name: bytes}."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def feature_members(features, picture, *, encoder="weights", **changes):
    """{ending: bytes} of features of a picture file, as `dinotile features` writes them."""
    info = FeatureInfo(
        spec=features.spec,
        layers=features.layers,
        encoder=encoder,
        picture=fingerprint(picture),
        image_size=features.image_size,
    )
    files = pack(features.patches[0], features.cls[0], info, family=features.spec.partition("-")[0])
    for ending, content in files.items():
        if ending.endswith(".json"):
            files[ending] = json.dumps({**json.loads(content), **changes}).encode()
    return files
