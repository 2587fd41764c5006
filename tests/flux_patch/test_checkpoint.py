"""Adapter files of other versions, and tokens that are not projected twice."""

import json
import time
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from dinotile import demo
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter


def rewritten(path, change):
    """The file with another configuration in its header."""
    with safe_open(path, framework="pt") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    config = json.loads(metadata["config"])
    change(config, metadata)
    save_file(weights, path, metadata=metadata | {"config": json.dumps(config)})
    return path


@pytest.fixture
def file(adapter, tmp_path):
    save_adapter(adapter.module, tmp_path / "adapter.safetensors", trained=True)
    return tmp_path / "adapter.safetensors"


def test_a_file_names_its_family_and_its_sites(file, adapter):
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    config = json.loads(metadata["config"])
    assert metadata["version"] == "2" and config["geometry"]["family"] == "flux1"
    assert config["sites"] == ["double.0", "double.1", "single.0", "single.2"] == list(adapter.config.sites)


def test_version_1_loads_and_is_the_same_adapter(file, adapter):
    def older(config, metadata):
        metadata["version"] = "1"
        del config["sites"], config["geometry"]["family"]
        config |= {"double_sites": [0, 1], "single_sites": [0, 2]}

    loaded = load_adapter(rewritten(file, older))
    assert loaded.config == adapter.config and loaded.fingerprint == load_adapter(file).fingerprint


def test_the_shipped_adapter_is_of_version_1_and_loads():
    with safe_open(demo.ADAPTER, framework="pt") as opened:
        assert opened.metadata()["version"] == "1"
    loaded = load_adapter(demo.ADAPTER)
    assert loaded.trained and loaded.config.sites == ("double.0", "double.1", "double.2")


NEWER = {
    "registers": lambda config, metadata: config.update(registers=4),
    "axes": lambda config, metadata: config["geometry"].update(axes=4),
    "mechanism pixels": lambda config, metadata: config.update(mechanisms=["pixels"]),
    "model family flux3": lambda config, metadata: config["geometry"].update(family="flux3"),
    "adapter version 3": lambda config, metadata: metadata.update(version="3"),
}


@pytest.mark.parametrize("what", NEWER)
def test_what_this_version_does_not_know_is_of_a_newer_one(file, what):
    with pytest.raises(
        ValueError, match=rf"^adapter.safetensors was made by a newer DINOTile \(it has {what}\): update"
    ):
        load_adapter(rewritten(file, NEWER[what]))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"layers": [3]}, "layers .3. must be text"), ({"positions": [1]}, "positions .1. must be true or")],
)
def test_settings_of_other_types_are_refused(file, change, said):
    with pytest.raises(ValueError, match=said):
        load_adapter(rewritten(file, lambda config, metadata: config.update(change)))


ABSURD = {
    "grid": 10**9,
    "width": 2**31,
    "context_grid": 2**62,
    "context_hidden": 2**40,
    "dino_width": 2**31,
    "hidden": 10**400,
    "heads": 2**31,
    "double_blocks": 10**9,
    "single_blocks": 2**63,
    "context": 2**33,
    "vector": 2**33,
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_size_that_no_adapter_has_is_refused_before_anything_is_built(file, name):
    def change(config, metadata):
        (config if name in config else config["geometry"])[name] = ABSURD[name]

    begin = time.process_time()
    with pytest.raises(ValueError, match=f"^adapter.safetensors does not hold a whole .*{name} is 1?[0-9.]+, at most"):
        load_adapter(rewritten(file, change))
    assert time.process_time() - begin < 1


ODD = {
    "many sites": lambda config: config.update(sites=["double.0"] * 500),
    "long text": lambda config: config.update(grid="a" * 5000),
    "text that ends the terminal": lambda config: config.update(dino="\x1b[2J", grid=0),
    "half a character": lambda config: config.update({"\ud800": 1}),
    "sites that are none": lambda config: config.update(sites=3),
    "no geometry": lambda config: config.update(geometry=[1]),
    "heads of none": lambda config: config["geometry"].update(heads=0),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_odd_header_is_one_short_printable_sentence(file, change):
    with pytest.raises(ValueError, match="^(adapter.safetensors|grid)") as error:
        load_adapter(rewritten(file, lambda config, metadata: change(config)))
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    assert error.traceback[-1].frame.f_globals["__name__"].startswith("dinotile.")


@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "9" * 5000, "[" * 100_000, '{"geometry": 3}'])
def test_a_header_that_is_no_configuration_is_one_sentence(file, text):
    with safe_open(file, framework="pt") as opened:
        weights, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    save_file(weights, file, metadata=metadata | {"config": text})
    with pytest.raises(ValueError, match="^adapter.safetensors does not hold a whole DINOTile adapter"):
        load_adapter(file)


def test_weights_that_are_no_numbers_with_a_point_are_refused(file):
    with safe_open(file, framework="pt") as opened:
        weights, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    save_file(weights | {"null_cls": weights["null_cls"].int()}, file, metadata=metadata)
    with pytest.raises(ValueError, match="holds null_cls as torch.int32, needed are floating point weights"):
        load_adapter(file)


def test_a_loaded_adapter_is_saved_as_it_is(file, tmp_path):
    loaded = load_adapter(file)
    save_adapter(loaded, tmp_path / "again.safetensors")
    again = load_adapter(tmp_path / "again.safetensors")
    assert again.trained and again.fingerprint == loaded.fingerprint and again.config == loaded.config
    save_adapter(new_adapter(loaded.config), tmp_path / "new.safetensors")
    assert not load_adapter(tmp_path / "new.safetensors").trained


def test_tokens_are_not_projected_again_even_where_the_widths_are_equal(config, features):
    adapter = new_adapter(replace(config, width=config.dino_width))
    tokens = adapter.module.project(features)
    with pytest.raises(ValueError, match="project a picture's features once only"):
        adapter.module.project(tokens)
