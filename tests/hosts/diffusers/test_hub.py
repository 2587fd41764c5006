"""What is said of a model that did not come from the hub. The hub's own client raises, against a server that answers as it."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download
from PIL import Image

from dinotile.cli.sentences import for_the_user
from dinotile.hosts.diffusers.load import load_controlnet, load_transformer, load_vae, read_geometry
from dinotile.hosts.diffusers.redux import load_teacher
from dinotile.hosts.diffusers.sources import dino_path, loading
from dinotile.hosts.diffusers.text import load_text_encoder

from ...tiny import picture
from .vaes import taesd_vae as taesd_vae

COMMIT = "0" * 40
INTERNALS = (
    "Error",
    "local_files_only",
    "snapshot",
    "http:",
    "urlopen",
    "HEAD",
    "revision",
    "config.json",
    "Traceback",
)


class Refusing(BaseHTTPRequestHandler):
    """Answers as the hub does on a repository that is gated, or that it does not show."""

    def do_HEAD(self) -> None:
        gated = "/gated/" in self.path
        self.send_response(403 if gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("X-Error-Message", "Access to this resource is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *values) -> None:
        pass


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def online(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def cached(tmp_path):
    """The folder of owner/name as it was downloaded."""
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def said(call, *arguments, **options) -> str:
    """The one line that the command line shows."""
    with pytest.raises(ValueError) as error:
        call(*arguments, **options)
    text = for_the_user(error.value)
    assert text is not None and "\n" not in text and len(text) < 600
    assert not [word for word in INTERNALS if word in text], text
    return text


def asked(hub: str, name: str, tmp_path) -> None:
    with loading(name):
        hf_hub_download(name, "config.json", endpoint=hub, cache_dir=tmp_path)


def redux(name: str) -> None:
    load_teacher(name, name)


def text(name: str) -> None:
    load_text_encoder(name, device="cpu", dtype=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("load", [load_transformer, load_vae, load_controlnet, dino_path, redux, text])
def test_offline_it_is_told_what_was_looked_for_where_and_what_to_do(offline, tmp_path, caplog, load):
    sentence = said(load, "black-forest-labs/FLUX.1-dev")
    assert sentence.startswith(
        f"black-forest-labs/FLUX.1-dev is not whole in {tmp_path / 'hub'}, and the Hugging Face hub is"
    )
    for part in (
        "HF_HUB_OFFLINE",
        "`hf download black-forest-labs/FLUX.1-dev`",
        "give a local file",
        "`hf auth login`",
    ):
        assert part in sentence
    assert "looking on" not in caplog.text


def test_a_hub_that_does_not_answer_is_told_so(online):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        nowhere = HfApi(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")

        def ask() -> None:
            with loading("owner/flux"):
                nowhere.model_info("owner/flux")

        sentence = said(ask)
    assert "the Hugging Face hub does not answer" in sentence and "`hf download owner/flux`" in sentence


def test_a_gated_model_is_told_to_need_its_licence_and_a_login(online, hub, tmp_path):
    sentence = said(asked, hub, "gated/FLUX.1-dev", tmp_path)
    assert sentence.startswith("gated/FLUX.1-dev is gated")
    assert "accept its licence on https://huggingface.co/gated/FLUX.1-dev, run `hf auth login`" in sentence


def test_a_name_that_the_hub_does_not_show_is_told_to_be_checked(online, hub, tmp_path):
    sentence = said(asked, hub, "nobody/FLUX.1-dve", tmp_path)
    assert sentence.startswith(
        "the Hugging Face hub shows no nobody/FLUX.1-dve: check the name (for example black-forest"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("upscale", "{photo}", "-o", "{folder}/out.png", "--variant", "dev"),
        ("upscale", "{photo}", "-o", "{folder}/out.png", "--dino", "owner/name", "--guide", "1"),
        ("upscale", "{photo}", "-o", "{folder}/out.png", "--controlnet", "owner/name"),
        ("upscale", "{photo}", "-o", "{folder}/out.png", "--redux", "owner/name"),
        ("features", "{folder}", "--dino", "owner/name"),
        ("features", "{folder}", "--text", "owner/name"),
        (
            "fit-redux",
            "{folder}",
            "--siglip",
            "owner/name",
            "--redux",
            "owner/name",
            "--dino",
            "owner/name",
            "-o",
            "{folder}/a",
        ),
        ("flatdino", "redundancy", "{folder}", "--dino", "owner/name", "-o", "{folder}/a.json"),
    ],
)
def test_every_command_says_it_in_one_line(offline, dinotile, tmp_path, arguments):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 48)).save(photo)
    code, out, err = dinotile(*(part.format(photo=photo, folder=tmp_path) for part in arguments))
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert "is not whole in" in err and "`hf download " in err and not [word for word in INTERNALS if word in err]


@pytest.mark.parametrize(
    ("kind", "name"), [("ChromaTransformer2DModel", "Chroma"), ("HunyuanVideoTransformer3DModel", "HunyuanVideo")]
)
def test_another_models_repository_is_refused_by_its_name_before_its_weights_are_asked_for(
    offline, tmp_path, kind, name
):
    folder = cached(tmp_path) / "transformer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": kind}))
    for load in (load_transformer, read_geometry):
        with pytest.raises(ValueError, match=f"owner/name holds {name}, needed is a FLUX.1 or FLUX.2 transformer"):
            load("owner/name")


@pytest.mark.parametrize("inner", ["", "vae"])
def test_a_vae_is_that_of_a_pipeline_or_all_that_is_in_its_repository(offline, tmp_path, taesd_vae, inner):
    taesd_vae.save_pretrained(cached(tmp_path) / inner)
    pixels = picture(32, 48)
    assert torch.equal(load_vae("owner/name").encode(pixels).latents, taesd_vae.encode(pixels).latents)


def test_a_repository_of_another_model_alone_is_refused(offline, tmp_path, taesd_vae):
    taesd_vae.save_pretrained(cached(tmp_path))
    sentence = said(load_transformer, "owner/name")
    assert sentence.startswith("owner/name is not whole in")
