"""Noise by place as ComfyUI's samplers ask for it."""

import pytest
import torch

from dinotile.hosts.comfy.noise import PlacedNoise
from dinotile.tiling.noise import placed_noise
from dinotile.tiling.plan import Box


def drawn(*shape, seed=3, dtype=torch.float32):
    return PlacedNoise(seed).generate_noise({"samples": torch.zeros(shape, dtype=dtype), "batch_index": [4, 5]})


def test_every_part_has_the_noise_of_a_tile_in_its_place_and_all_pictures_have_the_same():
    noise = drawn(2, 16, 40, 70)
    assert noise.shape == (2, 16, 40, 70) and torch.equal(noise[0], noise[1])
    box = Box(8, 36, 24, 30)
    tile = placed_noise(box, channels=16, seed=3)
    assert torch.equal(noise[0, :, box.top : box.bottom, box.left : box.right], tile)
    assert not torch.equal(drawn(2, 16, 40, 70, seed=4), noise)


def test_a_picture_that_is_cut_off_keeps_its_noise():
    assert torch.equal(drawn(1, 4, 96, 64)[..., :32, :33], drawn(1, 4, 32, 33))


def test_latents_of_one_frame_and_of_another_type_are_noised_alike_and_videos_refused():
    framed = drawn(1, 16, 1, 8, 9, dtype=torch.float16)
    assert framed.shape == (1, 16, 1, 8, 9) and torch.equal(framed[:, :, 0], drawn(1, 16, 8, 9).half())
    with pytest.raises(ValueError, match="the latent holds 5 frames of a video"):
        drawn(1, 16, 5, 8, 9)
