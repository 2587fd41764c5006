"""How much patches repeat their neighbours, and how many dimensions they fill."""

import numpy as np
import pytest
import torch

from dinotile.training.flatdino.redundancy import redundancy, two_nearest

from .tiny import MAKER, opened, stored


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_points_of_a_subspace_have_its_dimension(dimension):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1500, dimension, generator=generator) @ torch.randn(dimension, 40, generator=generator)
    assert two_nearest(points) == pytest.approx(dimension, rel=0.15)


def test_equal_points_have_none():
    assert two_nearest(torch.ones(5, 3)) == 0


def written(folder, make):
    stored(folder, count=12)
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("*_patches.npy")):
        np.save(path, make(rng).astype(np.float16))
    return opened(folder)


def test_noise_has_no_neighbours_and_smooth_patches_do(tmp_path):
    noise = redundancy(written(tmp_path / "noise", lambda rng: rng.standard_normal((16, 128))))
    assert (noise.pictures, noise.width, len(noise.alike)) == (12, 128, 3)
    assert all(abs(value) < 0.05 for value in noise.alike) and noise.components[1] > 60

    def smooth(rng):
        first, second = rng.standard_normal((2, 128))
        share = np.repeat(np.linspace(0, 1, 4), 4)[:, None]
        return (1 - share) * first + share * second

    found = redundancy(written(tmp_path / "smooth", smooth))
    assert found.alike[0] > 0.8 and found.alike == sorted(found.alike, reverse=True)
    assert found.components[2] <= 24, "twelve pictures of two directions each"
    assert found.effective < noise.effective and found.components == sorted(found.components)


def test_the_command_prints_it_and_one_picture_is_refused(tmp_path, dinotile):
    told = ("--features", "dinov2", "--encoder", MAKER, "--device", "cpu")
    code, out, err = dinotile(
        "flatdino", "redundancy", stored(tmp_path / "some", count=4), *told, "-o", tmp_path / "r.json"
    )
    assert code == 0 and "4 pictures, patches 128 wide" in out and "intrinsic dimension: " in out, err
    assert '"alike"' in (tmp_path / "r.json").read_text()
    code, _, err = dinotile("flatdino", "redundancy", stored(tmp_path / "one", count=1), *told)
    assert code == 2 and "1 pictures can be used, at least 2 are needed" in err
