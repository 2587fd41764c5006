"""Training in prompts of a real ComfyUI server."""

import json
import uuid
from pathlib import Path

import pytest
import websocket

from dinotile.flux_patch.checkpoint import load_adapter

from . import graphs, models
from .graphs import node, soft_picture


@pytest.fixture
def photos(base) -> Path:
    """A folder of two pictures in ComfyUI's input folder."""
    folder = base / "input" / f"photos-{uuid.uuid4().hex}"
    folder.mkdir()
    for number in range(2):
        soft_picture(64, 64).rotate(90 * number).save(folder / f"{number}.png")
    return folder


def training_prompt(folder: Path, **changed) -> graphs.Prompt:
    """Small settings."""
    settings = {
        "folder": folder.name,
        "filename_prefix": "http/trained",
        "steps": 3,
        "batch": 1,
        "learning_rate": 0.001,
        "picture": 64,
        "tile": 32,
        "layers": "2/3",
        "mechanisms": "cross_attention",
        "width": 16,
        "grid": 4,
        "highest_sigma": 1.0,
        "guidance": 1.0,
        "gradient_checkpointing": True,
        "remember": 0,
        "seed": 0,
    }
    links = {"model": ("flux", 0), "vae": ("vae", 0), "dino": ("dino", 0)}
    return {
        "flux": node("UNETLoader", unet_name=models.FLUX, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=models.VAE),
        "dino": node("DinoTile_LoadDino", dino_name=models.DINO),
        "train": node("DinoTile_TrainAdapter", **links | settings | changed),
    }


@pytest.fixture
def made(base):
    """The files that a prompt writes; they go away with the test."""
    folder = base / "models" / "model_patches" / "http"
    yield lambda: sorted(folder.glob("*.safetensors"))
    for path in folder.glob("*.safetensors"):
        path.unlink()


def test_a_training_runs_in_a_prompt_and_its_adapter_can_be_chosen(server, made, photos):
    result = server.run(training_prompt(photos))
    assert result.ok, result.error
    assert server.picture(result.outputs["train"]["images"][0]).size == (960, 480)
    (file,) = made()
    assert load_adapter(file).trained
    options = server.get("/object_info/DinoTile_LoadAdapter")["DinoTile_LoadAdapter"]["input"]["required"][
        "adapter_name"
    ]
    assert f"http/{file.name}" in json.dumps(options)


def test_an_interrupt_from_the_browser_saves_and_the_same_prompt_goes_on(server, base, made, photos):
    client = uuid.uuid4().hex
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=60)
    prompt, runs = training_prompt(photos, steps=60), base / "output" / "dinotile" / "training"
    before = set(runs.glob("*"))
    queued = server.queue(prompt, client_id=client)
    done = 0
    while done < 2:
        message = socket.recv()
        event = json.loads(message) if isinstance(message, str) else {"type": ""}
        if event["type"] == "progress" and event["data"]["node"] == "train":
            done += 1
    server.post("/interrupt", {})
    socket.close()
    result = server.wait(queued, limit=30)
    assert result.interrupted and not result.outputs
    (file,) = made()
    steps = load_adapter(file).config.provenance["steps"]
    assert 1 <= steps < 60
    (place,) = set(runs.glob("*")) - before
    assert server.run(prompt).ok
    assert len(made()) == 2 and not place.exists()


def test_a_training_runs_again_when_its_pictures_changed_or_its_adapter_is_gone_and_only_then(server, made, photos):
    prompt = training_prompt(photos, steps=1)

    def trained() -> bool:
        result = server.run(prompt)
        assert result.ok, result.error
        return "train" not in result.cached

    assert trained() and not trained()
    soft_picture(64, 64).rotate(45).save(photos / "0.png")
    assert trained() and not trained()
    soft_picture(64, 64).save(photos / "more.png")
    assert trained() and not trained()
    made()[-1].unlink()
    assert trained() and not trained()
    assert len(made()) == 3


def test_the_nodes_offer_the_folders_below_input_and_refuse_others_before_anything_runs(server, photos, tmp_path):
    for kind in ("DinoTile_TrainAdapter", "DinoTile_FitProjection"):
        assert photos.name in server.get(f"/object_info/{kind}")[kind]["input"]["required"]["folder"][1]["options"]
    prompt = training_prompt(photos)
    prompt["train"]["inputs"]["folder"] = str(tmp_path)
    errors = server.run(prompt).node_errors["train"][
        "errors"
    ]  # the host repeats it at all inputs that are looked at together
    assert [error["extra_info"]["input_name"] for error in errors] == ["folder", "picture", "tile"]
    (said,) = {error["details"].partition(" - ")[2] for error in errors}
    assert str(tmp_path) in said
