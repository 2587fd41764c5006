"""What is a hub name and what is a mistyped path; nothing here reaches the network."""

import json

import pytest

from dinotile.hosts.diffusers.sources import _say, dino_path, loading, local_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "models" / "flux").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("load", [local_path, dino_path])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models/flxu", "as folder models is here it is not looked for on the hub"),
        ("somebody/dino.safetensors", "there is no model somebody/dino.safetensors: give"),
        ("somebody/FLUX.SFT", "there is no model"),
        ("somebody/dinov2.pth", "there is no model"),
        ("somebody/dinov2.gguf", "there is no model"),
        ("somebody/config.json", "there is no model"),
        ("flux", "there is no model flux: give a .safetensors file, its folder or a hub name"),
        ("./models/flxu", "there is no model ./models/flxu: give"),
        ("~/models/flxu", "there is no model"),
        ("a/b/c", "there is no model"),
        ("../models", "there is no model"),
        ("somebody/" + "a" * 300, "there is no model"),
        ("a" * 5000, "there is no model aaa"),
        ("some\0body/x", r"there is no model some\\x00body/x"),
    ],
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(here, caplog, load, name, said):
    with pytest.raises(ValueError, match=said) as error:
        load(name)
    assert str(error.value).isprintable() and len(str(error.value)) < 400
    assert "hub for" not in caplog.text


@pytest.mark.parametrize("name", ["somebody/flux.1-dev", "timm/vit_small_patch14_reg4_dinov2.lvd142m"])
def test_a_hub_name_is_said_once_where_the_hub_is_asked(here, caplog, monkeypatch, name):
    assert local_path(name) is None
    with loading(name):
        assert not caplog.text  # offline
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    _say.cache_clear()
    for _ in range(2):
        with loading(name):
            pass
    assert caplog.text.count(f"looking on the Hugging Face hub for {name}") == 1


def test_what_exists_is_never_looked_for_elsewhere(here, caplog):
    assert local_path("models/flux") is not None and local_path(str(here)) is not None
    assert not caplog.text


def test_a_dino_in_shards_comes_from_the_hubs_cache(here):
    cached = here / "cache" / "models--owner--shards" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached.parents[1] / "refs").mkdir()
    (cached.parents[1] / "refs" / "main").write_text("abc")
    (cached.parents[1] / ".no_exist" / "abc").mkdir(parents=True)
    (cached.parents[1] / ".no_exist" / "abc" / "model.safetensors").touch()  # as the hub's client remembers it
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (cached / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    for name in names:
        (cached / name).touch()
    assert dino_path("owner/shards") == cached / names[0]
