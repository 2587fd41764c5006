"""A FlatDINO's file, its statistics, and what they are refused for."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.statistics import Sums, load_statistics, save_statistics
from dinotile.files.weights import read_weights

from ...near import assert_near
from .tiny import GRID, patches, quantised, tiny_flat


def statistics_of(model, count=20):
    sums = Sums()
    for part in model.encode(patches(count)).split(6):
        sums.add(part)
    return sums.result()


@pytest.fixture
def file(tmp_path):
    model = tiny_flat(encoder_registers=2)
    save_flat(model, tmp_path / "flat.safetensors", statistics=statistics_of(model), provenance={"steps": 3})
    return tmp_path / "flat.safetensors"


@pytest.mark.parametrize(
    "model", [tiny_flat(encoder_registers=2, inner="2"), quantised(nested=True)], ids=["vae", "fsq"]
)
def test_a_file_gives_the_same_model_back(tmp_path, model):
    statistics = statistics_of(model)
    save_flat(model, tmp_path / "a.safetensors", statistics=statistics, provenance={"steps": 3})
    loaded = load_flat(tmp_path / "a.safetensors")
    assert loaded.config == model.config and loaded.provenance == {"steps": 3}
    latents = model.encode(patches())
    assert torch.equal(loaded.module.encode(patches()), latents)
    assert torch.equal(loaded.module.decode_layers(latents), model.decode_layers(latents))
    assert loaded.statistics.pictures == 20 and torch.equal(loaded.statistics.mean, statistics.mean)
    save_flat(model, tmp_path / "b.safetensors")
    again = load_flat(tmp_path / "b.safetensors")
    assert again.statistics is None and again.fingerprint == loaded.fingerprint, (
        "statistics do not change whose latents are"
    )


def test_the_fingerprint_tells_weights_apart(tmp_path):
    for seed in (0, 1):
        save_flat(tiny_flat(seed=seed), tmp_path / f"{seed}.safetensors")
    assert len({load_flat(tmp_path / f"{seed}.safetensors").fingerprint for seed in (0, 1)}) == 2


def test_statistics_of_parts_are_those_of_the_whole_and_scale_to_unit_variance():
    model = tiny_flat()
    latents, statistics = model.encode(patches(20)), statistics_of(model)
    assert_near(statistics.mean, latents.mean(0))
    assert_near(statistics.variance, latents.var(0, unbiased=False))
    scaled = statistics.scaled(latents)
    assert_near(scaled.mean(0), torch.zeros(4, 3))
    assert_near(scaled.std(0, unbiased=False), torch.ones(4, 3))
    assert_near(statistics.unscaled(scaled), latents)


def test_statistics_far_from_zero_stay_exact():
    sums = Sums()
    numbers = 1e4 + torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for part in numbers.split(7):
        sums.add(part)
    assert float(sums.result().variance) == pytest.approx(float(numbers.var(unbiased=False)), rel=1e-5)


def test_a_statistics_file_is_of_one_flatdino(tmp_path, file):
    loaded, path = load_flat(file), tmp_path / "stats.safetensors"
    save_statistics(loaded.statistics, path, flat=loaded.fingerprint)
    back = load_statistics(path, flat=loaded.fingerprint)
    assert torch.equal(back.variance, loaded.statistics.variance) and back.pictures == 20
    with pytest.raises(ValueError, match=f"another FlatDINO \\({loaded.fingerprint}, not 0123\\): make it anew with"):
        load_statistics(path, flat="0123")
    with pytest.raises(ValueError, match="flat.safetensors says dinotile_flatdino, needed are statistics"):
        load_statistics(file, flat=loaded.fingerprint)


def test_statistics_of_nothing_are_refused():
    sums = Sums()
    sums.add(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="statistics of 1 pictures say nothing, at least 2 are needed"):
        sums.result()
    with pytest.raises(ValueError, match="latents are not finite"):
        sums.add(torch.full((2, 4, 3), torch.nan))


@pytest.mark.parametrize(
    "changes, theirs",
    [
        ({"dino": "dinov3-base"}, "dinov3-base layers 4, 24 wide, 4 x 3 patches"),
        ({"how": "3"}, "tiny-v2 layers 3"),
        ({"width": 25}, "25 wide"),
        ({"grid": (3, 4)}, "3 x 4 patches"),
    ],
)
def test_features_of_another_dino_layer_width_or_grid_are_refused_with_both_sides_named(file, changes, theirs):
    config = load_flat(file).config
    given = {"dino": "tiny-v2", "how": "4", "width": 24, "grid": GRID}
    config.check(**given)
    with pytest.raises(ValueError, match="this FlatDINO compresses tiny-v2 layers 4, 24 wide, 4 x 3 patches") as told:
        config.check(**{**given, **changes}, name="a.png")
    assert theirs in str(told.value) and str(told.value).startswith("a.png are ")


def rewritten(file, *, tensors=None, **metadata):
    """The file with some of its metadata and tensors replaced."""
    known, before = read_weights(file)
    save_file({**known, **(tensors or {})}, file, metadata={**before, **metadata})
    return file


def test_files_that_are_none_or_damaged_are_refused_in_one_sentence(file):
    config = json.loads(read_weights(file)[1]["config"])
    cases = [
        ({"format": "other"}, "flat.safetensors is no FlatDINO \\(its header says other"),
        ({"version": "2"}, "made by a newer DINOTile \\(it has version 2\\)"),
        ({"config": "{"}, "does not hold a whole FlatDINO"),
        ({"config": json.dumps({**config, "shine": 1})}, "made by a newer DINOTile \\(it has shine\\)"),
        ({"config": json.dumps({**config, "tokens": 10**9})}, "cannot be used \\(tokens is 1000000000"),
        ({"config": json.dumps({**config, "tokens": 5})}, "does not fit its own header: decoder.positions"),
        ({"config": json.dumps({**config, "grid": 4})}, "has a damaged header"),
        ({"config": json.dumps({"dino": "x"})}, "has a damaged header"),
    ]
    content = file.read_bytes()
    for changes, said in cases:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said) as told:
            load_flat(rewritten(file, **changes))
        assert "\n" not in str(told.value)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="floating point"):
        load_flat(rewritten(file, tensors={"encoder.registers": torch.zeros(4, 64, dtype=torch.int64)}))
    file.write_bytes(content)
    with pytest.raises(ValueError, match="numbers that are not finite \\(encoder.registers\\)"):
        load_flat(rewritten(file, tensors={"encoder.registers": torch.full((4, 64), torch.nan)}))
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut short or damaged"):
        load_flat(file)


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/full's file system")
def test_what_cannot_be_written_leaves_the_older_file(tmp_path, file):
    before = load_file(file)
    with pytest.raises(ValueError, match="cannot be written"):
        save_flat(tiny_flat(), tmp_path / "gone" / "flat.safetensors")
    assert load_file(file).keys() == before.keys()
