"""Features that are computed beforehand, and how they are read back."""

import pytest
import torch

from dinotile.dino.encode import EncodeSettings
from dinotile.training.data.features import precompute
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings

from ...dino.tiny import tiny_encoder
from ..pictures import colours, encoded, ramps

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
