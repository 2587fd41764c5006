"""Adapter files of other versions, and tokens that are not projected twice."""

import json
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


@pytest.mark.parametrize("place", ["config", "geometry"])
def test_a_key_that_is_unknown_is_of_a_newer_version(file, place):
    def newer(config, metadata):
        (config if place == "config" else config["geometry"])["registers"] = 4

    with pytest.raises(ValueError, match=r"made by a newer DINOTile \(it has registers\): update this one"):
        load_adapter(rewritten(file, newer))


def test_a_newer_version_and_an_unknown_family_are_told(file):
    with pytest.raises(ValueError, match="adapter version 3, this DINOTile reads 1 to 2: update it"):
        load_adapter(rewritten(file, lambda config, metadata: metadata.update(version="3")))
    with pytest.raises(ValueError, match="family 'flux3' is unknown, known are flux1, flux2: update DINOTile"):
        load_adapter(
            rewritten(
                file, lambda config, metadata: (metadata.update(version="2"), config["geometry"].update(family="flux3"))
            )
        )


def test_tokens_are_not_projected_again_even_where_the_widths_are_equal(config, features):
    adapter = new_adapter(replace(config, width=config.dino_width))
    tokens = adapter.module.project(features)
    with pytest.raises(ValueError, match="project a picture's features once only"):
        adapter.module.project(tokens)
