from pathlib import Path

import pytest
from safetensors.torch import save_file

from dinotile.flux_patch.checkpoint import save_adapter
from dinotile.training.adapter.config import config_from
from dinotile.training.adapter.dry_run import dry_run
from dinotile.training.adapter.run import train
from dinotile.training.core.state import FILES

from ...tiny import tiny_vae2
from ..tiny import picture_folder, tiny_host, write_models


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models whose FLUX has a configuration and no weights, so that whoever loads it fails, pictures, and paths of every kind."""
    place = tmp_path_factory.mktemp("ahead")
    models = write_models(place / "models")
    for weights in (place / "models" / "transformer").glob("*.safetensors"):
        weights.unlink()
    picture_folder(place / "data", count=4)
    (place / "a.png").write_bytes(b"a file")
    (place / "done").mkdir()
    (place / "done" / "adapter.safetensors").write_bytes(b"of somebody")
    (place / "begun" / "step-000500").mkdir(parents=True)
    tiny_vae2().save_pretrained(place / "vae2")
    save_adapter(tiny_host(width=32).adapter.module, place / "wide.safetensors", trained=True)
    save_file({}, place / "nothing.safetensors")
    return place, models


def config_with(place, key="", value=None, **sections):
    """Small settings for the models, but for the value of one key, as in "output.folder", or for values of sections."""
    values = {
        "model": place[1],
        "adapter": {"width": 16, "grid": 4},
        "data": {"path": "data", "picture": 64, "tile": 32},
        "output": {"folder": "run"},
    }
    section, _, name = key.partition(".")
    changes = {**sections, section: {name: value}} if key else sections
    return config_from({**values, **{name: {**values[name], **change} for name, change in changes.items()}})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.vae_path", "nope.safetensors", "there is no model nope.safetensors"),
        ("model.vae_path", "models/dino.safetensors", "dino.safetensors is no VAE that is known here"),
        ("model.vae_path", "vae2", "latent channels, FLUX.1 needs"),
        ("adapter.warm_start", "nope.safetensors", "there is no file nope.safetensors"),
        ("adapter.warm_start", "data", "there is no file data/adapter.safetensors"),
        ("adapter.warm_start", "wide.safetensors", "choose the sizes of that file"),
        ("adapter.warm_start", "nothing.safetensors", "holds nothing, no parameter of this adapter"),
        ("data.path", "", "data.path is empty"),
        ("data.path", "nowhere", "there is no data at nowhere"),
        ("data.encoded", "a.png", "a.png is a file"),
        ("output.folder", "", "output.folder is empty"),
        ("output.folder", "a.png", "a.png is a file"),
        ("output.folder", "a.png/run", "folder a.png/run cannot be made (a.png is a file)"),
        ("output.folder", "done", "done/adapter.safetensors is there already"),
        ("output.folder", "begun", "begun holds step-000500, no whole checkpoint"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_by_the_dry_run_and_before_flux_is_loaded(
    place, monkeypatch, key, value, said
):
    folder = place[0]
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    config = config_with(place, key, value)
    for begin in (dry_run, train):
        with pytest.raises(ValueError) as told:
            begin(config)
        assert said in str(told.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("folder", "data"), [("data/run", "data"), ("data", ["d*"]), ("run", "run/samples")])
def test_sample_pictures_never_join_the_data(place, monkeypatch, folder, data):
    monkeypatch.chdir(place[0])
    Path("run/samples").mkdir(parents=True, exist_ok=True)
    config = config_with(place, data={"path": data}, output={"folder": folder, "sample_every": 2})
    for begin in (dry_run, train):
        with pytest.raises(
            ValueError, match=f"pictures in {folder}/samples would be samples of the data in .*: choose another"
        ):
            begin(config)


def test_a_run_without_sample_pictures_may_lie_in_its_data(place, monkeypatch):
    monkeypatch.chdir(place[0])
    assert dry_run(config_with(place, "output.folder", "data/run")).samples == 4


def test_a_dry_run_knows_the_run_that_it_would_go_on_with_and_without_resume_refuses_it(place, monkeypatch):
    monkeypatch.chdir(place[0])
    for name in FILES:
        Path("going", "step-000500").mkdir(parents=True, exist_ok=True)
        Path("going", "step-000500", name).touch()
    config = config_with(place, "output.folder", "going")
    assert dry_run(config).begun == 500
    with pytest.raises(ValueError, match="going holds step-000500 of an earlier run: resume it"):
        dry_run(config, resume=False)
