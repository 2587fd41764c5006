"""Tables: what a FlatDINO restores beside codes of its size, and what of classes is left in it."""

import json

import numpy as np
import pytest
import torch

from dinotile.dino.compress.checkpoint import LoadedFlat, fingerprint_of, save_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import new_flat
from dinotile.training.core.config import OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.flatdino.baselines import baselines, components
from dinotile.training.flatdino.evaluate import evaluate
from dinotile.training.flatdino.measure import Tally
from dinotile.training.flatdino.probe import classes_of, linear, nearest, probe

from ...near import assert_near
from .tiny import MAKER, opened, stored, trainer

CPU = torch.device("cpu")


def config(**changes) -> FlatConfig:
    values = {"dino": "dinov2-demo", "width": 128, "how": "4", "grid": (4, 4), "tokens": 2, "features": 8}
    return FlatConfig(**{**values, "encoder": "n", "decoder": "n", "half": True, **changes})


def untrained(**changes) -> LoadedFlat:
    model = new_flat(config(**changes)).eval().requires_grad_(False)
    return LoadedFlat(model, fingerprint_of(model))


def measured(found, true):
    tally = Tally()
    for one, other in zip(found.split(3), true.split(3), strict=True):
        tally.add(one, other)
    return tally.numbers()


def test_what_is_restored_exactly_counts_as_such_and_a_constant_explains_nothing():
    true = torch.randn(7, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    exact = measured(true, true)
    assert exact["cosine"] == pytest.approx(1) and exact["huber"] == 0 and exact["explained"] == 1
    mean = true.mean((0, 1, 2)).expand_as(true)
    assert measured(mean, true)["explained"] == pytest.approx(0, abs=1e-9)
    assert measured(-true, true)["cosine"] == pytest.approx(-1)
    assert measured(true + 3, true)["huber"] == pytest.approx(2.5)  # 3 - 1/2 where it is linear


def test_components_are_the_best_linear_code_whichever_way_they_are_found():
    world = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for rows in (20, 200):  # fewer and more than numbers
        x = 5 + torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)) @ world
        mean, axes = components(x, 3)
        assert_near((axes @ axes.T), torch.eye(3))
        assert torch.allclose((x - mean) @ axes.T @ axes + mean, x, atol=1e-3)
        mean, axes = components(x, 2)
        assert not torch.allclose((x - mean) @ axes.T @ axes + mean, x, atol=0.1)


def test_no_baseline_is_larger_than_the_flatdino_and_pictures_of_few_causes_are_restored_by_their_components():
    causes = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    x = torch.einsum("bc,chwd->bhwd", causes, torch.randn(5, 4, 4, 128, generator=torch.Generator().manual_seed(1)))
    found = baselines(config(), x)
    assert all(each.floats <= 16 and each.bits <= 256 for each in found)
    names = [each.name for each in found]
    assert names[0] == "PCA of pictures, 16" and "2 x 2 average, PCA of patches, 4" in names
    assert "4 x 4 average, 16 words of 1 bits" not in names and any("words" in name for name in names)
    assert torch.allclose(found[0].restore(x), x, atol=1e-2)
    quantised = baselines(config(levels=(8, 5, 5, 5), features=4, tokens=4), x)
    assert all(each.bits <= 40 for each in quantised) and quantised[0].floats == 2


def test_averages_restore_what_is_constant_and_words_what_there_are_few_of():
    x = torch.randn(6, 1, 1, 128, generator=torch.Generator().manual_seed(0)).expand(6, 4, 4, 128)
    by_name = {each.name: each for each in baselines(config(tokens=1, features=8), x)}
    averages = next(each for name, each in by_name.items() if name.startswith("4 x 4 average, PCA"))
    assert torch.allclose(averages.restore(x), x, atol=1e-2)
    words = next(each for name, each in by_name.items() if name.startswith("4 x 4 average, ") and "words" in name)
    assert float((words.restore(x) - x).abs().mean()) < 0.05


def test_the_table_ranks_a_trained_flatdino_above_an_untrained_one(tmp_path):
    data, held = opened(stored(tmp_path / "train", count=64)), opened(stored(tmp_path / "held", count=12, seed=5))
    run = trainer(data, tmp_path, name="fast-2-nn-8-hl-nokl", steps=150, ema=0.9)
    before = evaluate(untrained(), held, device=CPU)[0]
    fit(run, OutputSettings(folder="", tensorboard=False))
    run.task.model.eval().requires_grad_(False)
    scores = evaluate(LoadedFlat(run.task.model, "x"), held, fit=data, device=CPU)
    assert scores[0].name == "FlatDINO" and (scores[0].floats, scores[0].bits) == (16, 256)
    assert scores[0].explained > before.explained + 0.4 and scores[0].cosine > before.cosine + 0.3
    pictures = next(score for score in scores if score.name.startswith("PCA of pictures"))
    assert pictures.explained > 0.9, "four causes, sixteen components"


def test_nested_tokens_have_a_row_for_each_number_of_them(tmp_path):
    data = opened(stored(tmp_path, count=6))
    flat = untrained(levels=(8, 5, 5, 5), features=4, tokens=5, nested=True)
    rows = evaluate(flat, data, device=CPU)
    assert [score.name for score in rows] == [f"FlatDINO, {keep} of 5 tokens" for keep in (1, 2, 4, 5)]
    assert (
        rows[0].bits == pytest.approx(rows[-1].bits / 5) and rows[0].codes is None and 0 < rows[-1].codes <= 30 / 1000
    )


def labelled(folder, *, seed):
    """Two classes whose patches differ, and noise."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(("cat", "dog")):
        stored(folder / name, count=12, seed=seed)
        for path in sorted((folder / name).glob("*_patches.npy")):
            signal = np.random.default_rng(number).standard_normal(128)
            np.save(path, (signal + rng.standard_normal((16, 128))).astype(np.float16))
    return folder


def test_a_class_that_patches_show_is_found_and_shuffled_labels_are_not(tmp_path):
    train, test = (opened(labelled(tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    assert classes_of(train) == ["cat", "dog"]
    found = {each.name: each for each in probe(untrained(), train, test, device=CPU)}
    assert list(found) == ["DINO, mean", "latents", "latents, mean", "restored, mean"]
    assert found["DINO, mean"].linear == 1 and found["DINO, mean"].knn[10] == 1
    assert (found["latents"].width, found["latents, mean"].width) == (16, 8)
    rng = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(400, 8, generator=rng), torch.randint(2, (400,), generator=rng)
    assert abs(nearest(noise[:200], labels[:200], noise[200:], labels[200:], 20) - 0.5) < 0.15
    assert abs(linear(noise[:200], labels[:200], noise[200:], labels[200:]) - 0.5) < 0.15


def test_nearer_neighbours_count_more():
    known = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels, asked = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.2]])
    assert nearest(known, labels, asked, torch.tensor([0]), 3) == 1


def test_what_cannot_be_probed_is_one_sentence(tmp_path):
    single = opened(stored(tmp_path / "one" / "cat", count=3).parent)
    with pytest.raises(ValueError, match=r"there is one class \(cat\), at least 2 are needed"):
        classes_of(single)
    stored(tmp_path / "one" / "dog", count=1)
    with pytest.raises(ValueError, match="the class dog has one picture, at least 2 are needed"):
        classes_of(opened(tmp_path / "one"))
    known = opened(labelled(tmp_path / "two", seed=1))
    broken = labelled(tmp_path / "broken", seed=1)
    for path in (broken / "dog").glob("*_patches.npy"):
        np.save(path, np.full((16, 128), np.nan, np.float16))
    with pytest.raises(ValueError, match=r"no picture of the class dog can be used \(12 with damaged features\)"):
        probe(untrained(), opened(broken), known, device=CPU)
    with pytest.raises(ValueError, match="the class cow has no picture to learn from"):
        probe(untrained(), known, opened(stored(tmp_path / "three" / "cow", count=2).parent), device=CPU)
    with pytest.raises(ValueError, match="this FlatDINO compresses dinov2-base"):
        evaluate(untrained(dino="dinov2-base"), known, device=CPU)
    stored(tmp_path / "few", count=1)
    with pytest.raises(ValueError, match="1 pictures to fit the baselines to are too few"):
        evaluate(untrained(), known, fit=opened(tmp_path / "few"), device=CPU)


def test_the_commands_print_tables_and_write_them(tmp_path, dinotile):
    flat = untrained()
    save_flat(flat.module, tmp_path / "flat.safetensors")
    train, test = (labelled(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    told = ("--features", "dinov2", "--encoder", MAKER, "--device", "cpu")
    code, out, err = dinotile(
        "flatdino", "evaluate", tmp_path / "flat.safetensors", test, "--fit", train, *told, "-o", tmp_path / "e.json"
    )
    assert code == 0 and out.splitlines()[1].startswith("FlatDINO") and "2 x 2 average, PCA of patches" in out, err
    rows = json.loads((tmp_path / "e.json").read_text())
    assert rows[0]["name"] == "FlatDINO" and len(rows) == len(out.splitlines()) - 1
    code, out, err = dinotile("flatdino", "probe", tmp_path / "flat.safetensors", train, test, *told)
    assert code == 0 and "DINO, mean" in out and "100.0%" in out and "10-NN" in out, err
    code, _, err = dinotile(
        "flatdino", "evaluate", tmp_path / "flat.safetensors", test, *told, "-o", tmp_path / "e.json"
    )
    assert code == 2 and "e.json exists already" in err
