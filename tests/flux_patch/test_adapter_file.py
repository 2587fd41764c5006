"""An adapter's file and its configuration: whole, refused in a sentence, or as it was."""

import dataclasses

import pytest
import torch

from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter


def test_a_file_brings_back_the_same_adapter(adapter, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(adapter.module, path, trained=True)
    loaded = load_adapter(path)
    assert loaded.config == adapter.config and loaded.trained
    assert all(
        torch.equal(a, b)
        for a, b in zip(adapter.module.state_dict().values(), loaded.module.state_dict().values(), strict=True)
    )
    assert loaded.fingerprint == load_adapter(path).fingerprint != new_adapter(adapter.config).fingerprint
    assert loaded.idle == frozenset()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.safetensors"]


def test_a_failed_save_leaves_the_old_file(adapter, tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_adapter(adapter.module, path, trained=True)
    before = path.read_bytes()
    broken = new_adapter(adapter.config)
    broken.config.provenance["note"] = {1, 2}  # no JSON
    with pytest.raises(TypeError):
        save_adapter(broken.module, path, trained=True)
    broken.config.provenance.clear()
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def damaged(path, kind):
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "pickle":
        torch.save({"a": torch.ones(2)}, path)
    elif kind == "foreign":
        from safetensors.torch import save_file

        save_file({"weight": torch.ones(2)}, path)
    elif kind == "lacking":
        from safetensors import safe_open
        from safetensors.torch import save_file

        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys() if name != "null_cls"}
            save_file(weights, path, metadata=file.metadata())
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cut short or damaged"),
        ("pickle", "is a pickle"),
        ("foreign", "no DINOTile adapter"),
        ("lacking", "does not fit its own header: it lacks null_cls"),
        ("missing", "there is no file"),
    ],
)
def test_a_bad_file_gets_one_sentence(adapter, tmp_path, kind, message):
    path = tmp_path / "adapter.safetensors"
    save_adapter(adapter.module, path, trained=True)
    damaged(path, kind)
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mechanisms": ("magic",)}, "mechanism 'magic' must be one of"),
        ({"mechanisms": ()}, "does nothing"),
        (
            {"sites": ("double.2",)},
            "sites double.2 must be different blocks of double.0 to double.1 and single.0 to single.2",
        ),
        ({"sites": ("single.1", "single.1")}, "sites single.1, single.1 must be different"),
        ({"mechanisms": ("vector",)}, "sites need cross_attention"),
        ({"normalisation": "none"}, "normalisation 'none' is unknown"),
        ({"grid": 0}, "grid 0 must be a whole number of at least 1"),
        ({"width": "x"}, "width 'x' must be a whole number"),
        ({"context_grid": 5}, "context_grid 5 must be at most grid 4"),
    ],
)
def test_impossible_configs_are_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)
