"""A tiny FLUX.1 Redux, an encoder, and pictures to fit one to the other."""

import pytest

from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers.redux import load_teacher

from ...dino.tiny import tiny_encoder
from ...tiny import picture, redux_files, tiny_flux
from ..pictures import encoded


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return redux_files(tmp_path_factory.mktemp("redux"))


@pytest.fixture(scope="module")
def teacher(models):
    return load_teacher(models, models)


@pytest.fixture(scope="module")
def geometry():
    return geometry_of(tiny_flux())


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder("tiny-v2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of smooth colours."""
    from dinotile.files.pictures import to_image

    place = tmp_path_factory.mktemp("pictures")
    for number in range(40):
        (place / f"{number:02}.png").write_bytes(encoded(to_image(picture(56, 56, seed=number))))
    return place
