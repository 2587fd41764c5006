"""An upscaler that several threads use makes one picture after the other."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dinotile.upscaling.rows import Pixels
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, denoise=0.7)
PICTURES = [picture(40, 48, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def flux():
    return tiny_flux()


@pytest.fixture
def upscaler(flux):
    return Upscaler(flux, tiny_vae(), dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux))


def test_threads_that_share_a_flux_get_the_pictures_that_one_thread_gets(flux, upscaler):
    def rows(pixels):
        made = []
        upscaler.upscale_tiles(Pixels(pixels), SETTINGS, write=made.append)
        return torch.cat(made, dim=2)

    other = Upscaler(flux, tiny_vae(), text=upscaler.text)
    ways = [
        lambda pixels: upscaler.upscale(pixels, SETTINGS)[0],
        lambda pixels: other.upscale(pixels, SETTINGS)[0],
        rows,
    ]
    jobs = [(way, pixels) for pixels in PICTURES for way in ways]
    alone = [way(pixels) for way, pixels in jobs]
    with ThreadPoolExecutor(len(jobs)) as threads:
        together = list(threads.map(lambda job: job[0](job[1]), jobs))
    for one, many in zip(alone, together, strict=True):
        assert torch.equal(one, many)


def test_a_callback_of_a_picture_cannot_begin_another_and_leaves_the_upscaler_as_it_was(upscaler):
    before, _ = upscaler.upscale(PICTURES[0], SETTINGS)

    def again(*told):
        upscaler.upscale(PICTURES[1], SETTINGS)

    for begin in (
        lambda: upscaler.upscale(PICTURES[0], SETTINGS, progress=again),
        lambda: upscaler.upscale_tiles(Pixels(PICTURES[0]), SETTINGS, write=again),
    ):
        with pytest.raises(
            ValueError, match="^this FLUX is at work on a picture, whose callback asked for another one"
        ):
            begin()
    with ThreadPoolExecutor(1) as thread:
        assert torch.equal(thread.submit(upscaler.upscale, PICTURES[0], SETTINGS).result()[0], before)
