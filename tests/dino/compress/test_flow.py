"""Latents out of noise, and the files of what makes them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dinotile.dino.compress.dit import DitConfig, new_dit
from dinotile.dino.compress.flow import noisy, sample, shift_of, shifted
from dinotile.dino.compress.generator import load_generator, save_generator
from dinotile.dino.compress.statistics import Statistics
from dinotile.files.weights import read_weights

from ...near import assert_near

PLAIN = Statistics(torch.zeros(3, 2), torch.ones(3, 2), 10)


def dit(**changes):
    return new_dit(DitConfig(**{"flat": "abc", "tokens": 3, "features": 2, "size": "n", **changes}))


class Exact:
    """The velocity of latents that are Gaussian with a mean and a deviation for each class, as it can be computed."""

    no_class = 2

    def __init__(self, *, means=(-2.0, 3.0, 0.0), deviation=0.5):
        self.config, self.means, self.deviation = (
            DitConfig("abc", 3, 2, "n", ("a", "b")),
            torch.tensor(means),
            deviation,
        )

    def __call__(self, x, sigma, labels):
        at, mean = sigma[:, None, None], self.means[labels][:, None, None]
        rest = (x - (1 - at) * mean) / ((1 - at) ** 2 * self.deviation**2 + at**2)
        return at * rest - (mean + (1 - at) * self.deviation**2 * rest)


def test_levels_are_shifted_as_the_paper_says():
    sigma = torch.linspace(0, 1, 11)
    for shift in (0.3, 1.0, 2.5):
        t = 1 - sigma  # of the clean data, as the paper counts
        assert_near(1 - shifted(sigma, shift), t / (shift - (shift - 1) * t))
    assert shift_of(32, 128) == 1 and shift_of(128, 128) == 2


def test_the_velocity_leads_from_latents_to_noise():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 3, 2, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.25, 1.0])
    x, velocity = noisy(latents, noise, sigma)
    assert_near(x[1], noise[1])
    assert_near(x - sigma[:, None, None] * velocity, latents)


def test_samples_of_a_known_velocity_have_its_mean_and_deviation():
    noise = torch.randn(400, 3, 2, generator=torch.Generator().manual_seed(0))
    for label, mean in ((0, -2.0), (1, 3.0)):
        found = sample(Exact(), PLAIN, labels=torch.full((400,), label), noise=noise, steps=100)
        assert float(found.mean()) == pytest.approx(mean, abs=0.06) and float(found.std()) == pytest.approx(
            0.5, abs=0.05
        )
    scaled = Statistics(torch.full((3, 2), 7.0), torch.full((3, 2), 4.0), 10)
    found = sample(Exact(), scaled, labels=torch.ones(400, dtype=torch.long), noise=noise, steps=100)
    assert float(found.mean()) == pytest.approx(7 + 2 * 3, abs=0.1)


def test_guidance_moves_further_from_what_no_class_would_be():
    noise = torch.randn(200, 3, 2, generator=torch.Generator().manual_seed(0))
    means = [
        float(sample(Exact(), PLAIN, labels=torch.ones(200, dtype=torch.long), noise=noise, guidance=g).mean())
        for g in (1, 2, 3)
    ]
    assert means[0] < means[1] - 0.5 and means[1] < means[2] - 0.5


def test_a_fresh_network_does_nothing_and_a_moved_one_knows_level_class_and_place():
    model = dit(classes=("a", "b"))
    x, labels, sigma = torch.randn(2, 3, 2), torch.tensor([0, 1]), torch.tensor([0.2, 0.8])
    assert not bool(model(x, sigma, labels).any())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        plain = model(x, sigma, labels)
        assert not torch.allclose(model(x, sigma + 0.1, labels), plain, atol=1e-4)
        assert not torch.allclose(model(x, sigma, labels.flip(0)), plain, atol=1e-4)
        assert not torch.allclose(model(x.flip(1), sigma, labels).flip(1), plain, atol=1e-4)


def test_a_generator_file_is_for_one_flatdino(tmp_path):
    path, model = tmp_path / "generator.safetensors", dit(classes=("cat", "dog"))
    save_generator(model, path, statistics=PLAIN)
    made = load_generator(path, flat="abc")
    assert made.module.config == model.config and made.statistics.pictures == 10
    assert torch.equal(made.module.positions, model.positions)
    assert made.labels("dog", 2).tolist() == [1, 1] and made.labels("", 1).tolist() == [2]
    with pytest.raises(ValueError, match="the class 'cow' is unknown to this generator, it knows cat, dog"):
        made.labels("cow", 1)
    with pytest.raises(ValueError, match=r"makes latents of another FlatDINO \(abc, not xyz\)"):
        load_generator(path, flat="xyz")
    tensors, about = read_weights(path)
    config = json.loads(about["config"])
    for changes, said in (
        ({"format": "other"}, "generator.safetensors says other, needed is a generator of latents"),
        ({"config": json.dumps({**config, "size": "x"})}, "does not hold a whole generator"),
        ({"config": json.dumps({**config, "size": "t"})}, "does not fit its own header"),
    ):
        save_file(tensors, path, metadata={**about, **changes})
        with pytest.raises(ValueError, match=said):
            load_generator(path, flat="abc")
    with pytest.raises(ValueError, match="steps 0 must be at least 1"):
        sample(model, PLAIN, labels=torch.zeros(1, dtype=torch.long), noise=torch.zeros(1, 3, 2), steps=0)
