"""3,000 damaged files: each is read, or refused in one sentence of this package, in little time and memory."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dinotile.cli.lists import find_listed
from dinotile.cli.remote.workflow import read_workflow
from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.dit import DitConfig, new_dit
from dinotile.dino.compress.generator import load_generator, save_generator
from dinotile.dino.compress.pixels import PixelConfig, load_pixels, new_pixels, save_pixels
from dinotile.dino.compress.statistics import Statistics, load_statistics, save_statistics
from dinotile.dino.feature_map import FeatureMap
from dinotile.dino.load import load_dino
from dinotile.dino.specs import SPECS
from dinotile.files.pictures import Picture, load_picture, save_picture
from dinotile.flux_patch.checkpoint import load_adapter, save_adapter
from dinotile.hosts.diffusers.load import load_transformer, load_vae, read_geometry
from dinotile.training.adapter.config import load_config
from dinotile.training.data.pictures import open_data
from dinotile.training.data.settings import DataSettings

from ..dino.compress.tiny import tiny_flat
from ..dino.tiny import TINY, meta_state, timm_state
from ..tiny import picture, tiny_adapter, tiny_flux, tiny_kl
from ..training.pictures import colours, encoded, feature_members, npy, write_tar
from .memory import peak, restart_peak
from .mutate import as_json, as_safetensors, as_yaml, damaged

SEED = os.environ.get("DINOTILE_FUZZ_SEED", "0")  # another one damages otherwise
SECONDS = 5  # for a file, on a busy machine
MEMORY = 1  # GiB more than before
ROOT = Path(__file__).parents[2]


LINE = {"source": "a.png", "output": "b.png", "seed": 7, "denoise": 0.5, "prompt": "a cat"}
NAMES = (
    "adapter",
    "DINO",
    "DINO of timm",
    "DINO's index",
    "FLUX",
    "FLUX's header",
    "FLUX's config",
    "VAE",
    "VAE's config",
)
NAMES += ("FlatDINO", "latents' statistics", "generator of latents", "decoder to pixels")
NAMES += ("npy", "text's npy", "json", "tar", "png", "jpeg", "yaml", "workflow", "list")


@dataclass
class Kind:
    """How many files of a kind are damaged how, and what reads one."""

    count: int
    damage: Callable[[Random], bytes]
    name: str
    read: Callable[[Path], object]


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """The sentence, else what was read where that is text; everything but a ValueError of this package is raised."""
    try:
        found = read(path)
        return found if isinstance(found, str) else ""
    except ValueError as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        assert trace is not None and trace.tb_frame.f_globals["__name__"].startswith("dinotile."), repr(error)
        return str(error) or "nothing was said"


@pytest.fixture
def in_time():
    """A hang ends in a TimeoutError."""
    if not hasattr(signal, "SIGALRM"):
        return lambda seconds: None

    def late(number, frame):
        raise TimeoutError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def safetensors(tensors: dict[str, torch.Tensor]) -> Callable[[Random], bytes]:
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return lambda rng: as_safetensors(content, rng)


def read_data(place: Path) -> str:
    """Every sample of a data set, as training reads it; what was skipped."""
    settings = DataSettings(path=str(place), picture=32, tile=32, features="dinov2", encoder="")
    data = open_data(settings, needs_features=("dinov2-base", "8"), encoder="weights")
    for index in range(len(data)):
        data.get(index, generator=torch.Generator().manual_seed(0))
    return str(data.skipped)


def sample() -> dict[str, bytes]:
    """The members of a small sample, by ending."""
    content = encoded(colours(40, 40))
    features = FeatureMap(torch.ones(1, 4, 4, 6), torch.ones(1, 6), "dinov2-base", "8", (40, 40))
    return {
        "png": content,
        "txt": b"words",
        "t5.npy": npy(np.ones((3, 8), np.float16)),
        "clip.npy": npy(np.ones(4, np.float16)),
        **feature_members(features, content),
    }


def beside(folder: Path) -> Callable[[Path], str]:
    """Reads the data set of a whole sample and one of which a member is damaged."""
    members = sample()
    for name, content in members.items():
        (folder / f"whole.{name}").write_bytes(content)
        (folder / f"other.{name}").write_bytes(content)
    return lambda path: read_data(path.parent)


def configured(folder: Path, model) -> Callable[[Random], bytes]:
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    return lambda rng: as_json(config, rng)


def in_bytes(content: bytes, *, head: int = 512) -> Callable[[Random], bytes]:
    return lambda rng: damaged(content, rng, head=head)


def kinds(folder: Path) -> dict[str, Kind]:
    adapter, png, jpeg = folder / "whole.safetensors", folder / "whole.png", folder / "whole.jpg"
    save_adapter(tiny_adapter(tiny_flux()), adapter)
    for path in (png, jpeg):
        save_picture(Picture(picture(24, 32)), path)
    tar = write_tar(folder / "whole.tar", {f"a.{name}": content for name, content in sample().items()}).read_bytes()
    flat, statistics, generator, pixels = latents_files(folder)
    yaml = (ROOT / "tests" / "fuzz" / "config.yaml").read_text()
    workflow = json.loads((ROOT / "workflows" / "api" / "demo.json").read_text())
    dino, timm = meta_state(TINY["tiny-v3"]), timm_state(meta_state(TINY["tiny-v2-reg"]), TINY["tiny-v2-reg"])
    members = sample()
    index = {"weight_map": {name: f"{name[0]}.safetensors" for name in ("a.b", "b.c", "c.d")}}
    places = {name: folder / name for name in ("npy", "json", "flux", "vae", "index", "t5")}
    for place in places.values():
        place.mkdir()
    info = json.loads(members["dinov2.json"])
    one = "model.safetensors"
    return {
        "adapter": Kind(440, lambda rng: as_safetensors(adapter.read_bytes(), rng), one, load_adapter),
        "DINO": Kind(250, safetensors(dino), one, load_dino),
        "DINO of timm": Kind(150, safetensors(timm), one, load_dino),
        "DINO's index": Kind(100, lambda rng: as_json(index, rng), "index/model.safetensors.index.json", load_parent),
        "FLUX": Kind(150, safetensors(tiny_flux().state_dict()), one, load_transformer),
        "FLUX's header": Kind(100, safetensors(tiny_flux().state_dict()), one, read_geometry),
        "FLUX's config": Kind(150, configured(places["flux"], tiny_flux()), "flux/config.json", flux_of_parent),
        "VAE": Kind(120, safetensors(tiny_kl().state_dict()), one, load_vae),
        "VAE's config": Kind(100, configured(places["vae"], tiny_kl()), "vae/config.json", vae_of_parent),
        "FlatDINO": Kind(60, lambda rng: as_safetensors(flat, rng), one, load_flat),
        "latents' statistics": Kind(
            20, lambda rng: as_safetensors(statistics, rng), one, partial(load_statistics, flat="abc")
        ),
        "generator of latents": Kind(
            40, lambda rng: as_safetensors(generator, rng), one, partial(load_generator, flat="abc")
        ),
        "decoder to pixels": Kind(40, lambda rng: as_safetensors(pixels, rng), one, partial(load_pixels, flat="abc")),
        "npy": Kind(
            200,
            in_bytes(members["dinov2_patches.npy"], head=128),
            "npy/other.dinov2_patches.npy",
            beside(places["npy"]),
        ),
        "text's npy": Kind(100, in_bytes(members["t5.npy"], head=128), "t5/other.t5.npy", beside(places["t5"])),
        "json": Kind(150, lambda rng: as_json(info, rng), "json/other.dinov2.json", beside(places["json"])),
        "tar": Kind(230, in_bytes(tar, head=2048), "a.tar", read_data),
        "png": Kind(150, in_bytes(png.read_bytes(), head=64), "a.png", load_picture),
        "jpeg": Kind(100, in_bytes(jpeg.read_bytes(), head=700), "a.jpg", load_picture),
        "yaml": Kind(290, lambda rng: as_yaml(yaml, rng), "a.yaml", load_config),
        "workflow": Kind(100, lambda rng: as_json(workflow, rng), "a.json", read_workflow),
        "list": Kind(100, lambda rng: as_json(LINE, rng) + b"\n", "a.jsonl", lambda path: find_listed([str(path)])),
    }


def latents_files(folder: Path) -> list[bytes]:
    """A FlatDINO, statistics of its latents, a generator of such, and a decoder to pixels."""
    known = Statistics(torch.zeros(4, 3), torch.ones(4, 3), 5)
    paths = [folder / f"{name}.safetensors" for name in ("flat", "statistics", "generator", "pixels")]
    save_flat(tiny_flat(encoder_registers=1), paths[0], statistics=known)
    save_statistics(known, paths[1], flat="abc")
    save_generator(new_dit(DitConfig("abc", 4, 3, "n", ("cat", "dog"))), paths[2], statistics=known)
    save_pixels(new_pixels(PixelConfig("abc", (2, 2), 8, 4, "p")), paths[3])
    return [path.read_bytes() for path in paths]


def load_parent(path: Path) -> object:
    return load_dino(path.parent)


def flux_of_parent(path: Path) -> object:
    return load_transformer(path.parent)


def vae_of_parent(path: Path) -> object:
    return load_vae(path.parent)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    return folder, kinds(folder)


def test_there_are_3140(made):
    assert sum(kind.count for kind in made[1].values()) == 3140 and tuple(made[1]) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_one_sentence(name, made, in_time, monkeypatch):
    for spec in TINY.values():
        monkeypatch.setitem(SPECS, spec.name, spec)
    folder, every = made
    kind, said = every[name], set()
    before = restart_peak()
    for number in range(kind.count):
        path = folder / kind.name
        path.write_bytes(kind.damage(Random(f"{name} {number} {SEED}")))
        in_time(SECONDS)
        begin = time.process_time()
        sentence = outcome(kind.read, path)
        in_time(0)
        assert time.process_time() - begin < SECONDS, number
        assert sentence.isprintable() and len(sentence) < 1000, (number, sentence)
        said.add(sentence)
    assert peak() - before < MEMORY
    assert len(said) > 1, "the damage does not reach what is read"
