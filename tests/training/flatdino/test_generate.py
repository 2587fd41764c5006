"""A generator learns where the latents of each class lie."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dinotile.dino.compress.checkpoint import save_flat
from dinotile.dino.compress.flow import sample
from dinotile.dino.compress.statistics import Sums
from dinotile.training.core.config import OptimisationSettings, OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.trainer import Trainer
from dinotile.training.flatdino.generate import GeneratorTask, LatentSet, encode_all

from ..tiny import largest_difference, weights
from .test_evaluate import CPU, labelled, untrained
from .tiny import MAKER, opened

CENTRES = torch.tensor([-2.0, 2.0])


def latents_of_two_classes(count=200):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    latents = CENTRES[labels][:, None, None] + 0.3 * torch.randn(count, 2, 8, generator=generator)
    return LatentSet(latents, [f"{number}" for number in range(count)], labels, ("low", "high"))


def trainer(folder, *, steps, data=None, **changes):
    data, sums = data or latents_of_two_classes(), Sums()
    sums.add(data.latents)
    values = {
        "steps": steps,
        "batch": 32,
        "learning_rate": 2e-3,
        "warmup": 5,
        "ema": 0.9,
        "clip": 1.0,
        "weight_decay": 0.0,
    }
    settings = OptimisationSettings(**{**values, **changes})
    path = folder / "generator.safetensors"
    task = GeneratorTask(untrained(), data, settings, size="n", statistics=sums.result(), path=path, device=CPU)
    return Trainer(task, settings, least=1.0)


def test_samples_of_a_class_lie_where_its_latents_do(tmp_path):
    run = trainer(tmp_path, steps=250)
    before = run.task.validate()
    fit(run, OutputSettings(folder="", tensorboard=False))
    after = run.task.validate()
    assert all(after[level] < before[level] for level in before) and after["sigma 0.5"] < 0.5 * before["sigma 0.5"]
    noise = torch.randn(40, 2, 8, generator=torch.Generator().manual_seed(1))
    model = run.task.model.eval()
    for label, centre in enumerate(CENTRES.tolist()):
        found = sample(model, run.task.statistics, labels=torch.full((40,), label), noise=noise, steps=20)
        assert float(found.mean()) == pytest.approx(centre, abs=0.5) and float(found.std()) < 1.5


def test_an_interrupted_generator_goes_on_exactly(tmp_path):
    whole, first, second = (trainer(tmp_path, steps=6) for _ in range(3))
    fit(whole, OutputSettings(folder="", tensorboard=False))
    fit(first, OutputSettings(folder=str(tmp_path), tensorboard=False), should_stop=lambda: first.done == 2)
    fit(second, OutputSettings(folder=str(tmp_path), tensorboard=False))
    assert (first.done, second.done) == (3, 6) and largest_difference(weights(second), weights(whole)) <= 1e-6


def test_a_generator_does_not_go_on_with_other_statistics(tmp_path):
    first, second = (trainer(tmp_path, steps=6) for _ in range(2))
    fit(first, OutputSettings(folder=str(tmp_path), tensorboard=False), should_stop=lambda: first.done == 2)
    second.task.statistics = replace(second.task.statistics, mean=second.task.statistics.mean + 1)
    with pytest.raises(ValueError, match="differs in statistics"):
        fit(second, OutputSettings(folder=str(tmp_path), tensorboard=False))


def test_a_tenth_of_the_rows_has_no_class_and_levels_follow_the_shift(tmp_path):
    task = trainer(tmp_path, steps=1).task
    rows = task.rows(range(1000), step=0, total=1000)
    share = sum(row.label == task.model.no_class for row in rows) / 1000
    assert share == pytest.approx(0.1, abs=0.03)
    for row in rows[:50]:
        assert row.label in (int(task.data.labels[int(row.name)]), task.model.no_class)
    mean = sum(row.sigma for row in rows) / 1000
    assert task.shift == pytest.approx(0.0625) and mean < 0.3, "few numbers need little noise"


def test_the_commands_train_and_draw(tmp_path, dinotile):
    data, flat = labelled(tmp_path / "data", seed=1), tmp_path / "flat.safetensors"
    save_flat(untrained().module, flat)
    told = (
        "--features",
        "dinov2",
        "--encoder",
        MAKER,
        "--device",
        "cpu",
        "--size",
        "n",
        "--batch",
        4,
        "--log-every",
        1,
    )
    run = ("flatdino", "train-generator", flat, data, *told, "--classes", "-o", tmp_path / "run")
    code, out, err = dinotile(*run, "--steps", 3)
    made = tmp_path / "run" / "generator.safetensors"
    assert code == 0 and out.strip() == str(made), err
    draw = ("flatdino", "sample", flat, made, "--device", "cpu", "--steps", 2, "--count", 3)
    code, out, err = dinotile(*draw, "-o", tmp_path / "a.png", "--label", "dog", "--guidance", 2)
    assert code == 0 and out.strip().endswith("a.png: 3 of dog"), err
    dinotile(*draw, "-o", tmp_path / "b.png", "--seed", 1)
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape == (64, 3 * 64, 3) and not np.array_equal(first, second)
    for options, said in (
        (("--label", "cow"), "the class 'cow' is unknown to this generator, it knows cat, dog"),
        (("--guidance", 2), "guidance 2 acts with a class only"),
        (("--count", 0), "count 0 must be from 1 to 64"),
    ):
        code, _, err = dinotile(*draw, "-o", tmp_path / "c.png", *options)
        assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "c.png").exists()
    save_flat(untrained(tokens=3).module, tmp_path / "other.safetensors")
    code, _, err = dinotile(
        "flatdino", "sample", tmp_path / "other.safetensors", made, "--device", "cpu", "-o", tmp_path / "c.png"
    )
    assert code == 2 and "makes latents of another FlatDINO" in err
    code, _, err = dinotile(*run[:2], tmp_path / "other.safetensors", *run[3:], "--steps", 3)
    assert code == 2 and "differs in generator" in err


def test_all_latents_of_the_data_have_their_class(tmp_path):
    data, flat = opened(labelled(tmp_path, seed=1)), untrained()
    found = encode_all(flat, data, classes=True, device=CPU)
    assert found.classes == ("cat", "dog") and found.latents.shape == (24, 2, 8)
    assert [found.classes[label] for label in found.labels] == [name.partition("/")[0] for name in found.names]
    assert encode_all(flat, data, classes=False, device=CPU).classes == ()


def test_a_class_without_a_picture_that_can_be_used_is_refused(tmp_path):
    for path in (labelled(tmp_path, seed=1) / "dog").glob("*_patches.npy"):
        np.save(path, np.full((16, 128), np.nan, np.float16))
    with pytest.raises(ValueError, match=r"no picture of the class dog can be used \(12 with damaged features\)"):
        encode_all(untrained(), opened(tmp_path), classes=True, device=CPU)
    assert len(encode_all(untrained(), opened(tmp_path), classes=False, device=CPU).names) == 12
