"""Trains everything that the semantics table needs: `python -m benchmarks.semantics.train --part all`.

Parts, in their order: `models` (the demo's VAE, encoder, FLUX and the VAE's decoder once more, which learn from photos
too; `python -m dinotile.demo.train` makes the same), `judge` (the texture classifier), `selftaught` (an encoder without
labels), `reader` (of flat sources, which says how much there is to know), `pictures` (a training folder of the world, as any
user's folder is), `adapters` (each variant of the table with `dinotile train`'s own trainer), `demo` (the default variant
becomes the demo's adapter), `controlnet` (of the demo's FLUX), `knowing` (another one, that learns on whole pictures), `forms`
(the encoder without labels and its adapter, which go on with shapes in many forms).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import run as demo_train
from dinotile.demo.train import world
from dinotile.demo.train.speed import autocast, half
from dinotile.files.fingerprints import fingerprint
from dinotile.files.pictures import to_image
from dinotile.training.adapter.config import TrainConfig, config_from
from dinotile.training.adapter.run import load_models
from dinotile.training.adapter.task import FILE, AdapterTask
from dinotile.training.core.loop import fit
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.pictures import open_data

from . import classifier, controlnet, forms, knowing, reader, selftaught
from .rows import DEFAULT, FORMS, SELFTAUGHT, trained
from .table import WORK, as_pixels, models

MINUTES = {"vae": 15.0, "dino": 6.0, "flux": 48.0, "decoder": 5.0}
JUDGE_MINUTES, SELFTAUGHT_MINUTES, READER_MINUTES = 4.0, 20.0, 6.0
CONTROLNET_MINUTES, KNOWING_MINUTES, FORMS_MINUTES = 8.0, 17.0, 8.0
PARTS = ("models", "judge", SELFTAUGHT, "reader", "pictures", "adapters", "demo", "controlnet", "knowing", FORMS)
PICTURES = 240
STEPS = 700
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {"conditions": {"dino_guidance": 2.0}},
    "guided": {"conditions": {"dino_guidance": 2.0}},
    "plain": {},
    "context": {"adapter": {"mechanisms": ["context"], "double_sites": [], "single_sites": []}},
    "vector": {"adapter": {"mechanisms": ["vector"], "double_sites": [], "single_sites": []}},
    "all": {"adapter": {"mechanisms": ["cross_attention", "context", "vector"]}},
    "all-blocks": {"adapter": {"single_sites": list(range(6))}},
    "single-blocks": {"adapter": {"double_sites": [], "single_sites": list(range(6))}},
    "grid-4": {"adapter": {"grid": 4}},
    "grid-16": {"adapter": {"grid": 16}},
    "no-positions": {"adapter": {"positions": False}},
    "flat": {"adapter": {"shared_tokens": str(demo.FLAT)}},
    "layer-1": {"model": {"layers": "1"}},
    "layer-2": {"model": {"layers": "2"}},
    "layer-4": {"model": {"layers": "4"}},
    SELFTAUGHT: {
        "model": {"dino": str(selftaught.FILE), "layers": "last"},
        "conditions": {"dino_guidance": 2.0},
    },
    FORMS: {
        "model": {"dino": str(WORK / f"{FORMS}.safetensors"), "layers": "last"},
        "adapter": {"warm_start": str(selftaught.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{FORMS}")},
        "conditions": {"dino_guidance": 2.0},
    },
}
LONG = (DEFAULT, SELFTAUGHT)  # variants that learn for twice as many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    known = [name for name in VARIANTS if name != FORMS]  # which has a part of its own
    parser.add_argument("--variants", nargs="*", default=known, choices=known)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each adapter; the long ones take twice as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="FLUX with torch.compile, which needs a C++ compiler")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts = PARTS if options.part == "all" else (options.part,)
    if "models" in parts:
        demo_train.train(MINUTES, seed=options.seed, compiled=options.compile)
    if "judge" in parts:
        classifier.train(minutes=JUDGE_MINUTES, seed=options.seed)
    if SELFTAUGHT in parts:
        selftaught.train(minutes=SELFTAUGHT_MINUTES, seed=options.seed)
    if "reader" in parts:
        reader.train(minutes=READER_MINUTES, seed=options.seed)
    if "pictures" in parts:
        write_pictures(WORK / "pictures", count=PICTURES, seed=options.seed)
    if "adapters" in parts:
        begin_work(WORK)
        encoded: dict[str, Tensor] = {}
        for name in options.variants:
            adapter = train_adapter(name, steps=options.steps, seed=options.seed, encoded=encoded)
            kept = WORK / "adapters" / f"{trained(name, options.seed)}.safetensors"
            shutil.copyfile(adapter, selftaught.ADAPTER if trained(name, options.seed) == SELFTAUGHT else kept)
    if "demo" in parts:
        shutil.copyfile(WORK / "adapters" / f"{DEFAULT}.safetensors", demo.ADAPTER)
    if "controlnet" in parts:
        controlnet.train(minutes=CONTROLNET_MINUTES, seed=options.seed)
    if "knowing" in parts:
        knowing.train(minutes=KNOWING_MINUTES, seed=options.seed)
    if FORMS in parts:
        draw = partial(forms.scene, spread="trained")
        begin_work(WORK)
        encoder = WORK / f"{FORMS}.safetensors"
        selftaught.train(minutes=FORMS_MINUTES, seed=options.seed, path=encoder, draw=draw, begin=selftaught.FILE)
        write_pictures(WORK / f"pictures-{FORMS}", count=PICTURES, seed=options.seed, draw=draw)
        adapter = train_adapter(FORMS, steps=options.steps, seed=options.seed, encoded={})
        shutil.copyfile(adapter, WORK / "adapters" / f"{FORMS}.safetensors")


def write_pictures(folder: Path, *, count: int, seed: int, draw: selftaught.Draw = world.scene) -> None:
    """A new folder with NAME.png, its flat source NAME.source.png and its text NAME.t5.npy and NAME.clip.npy, of `count`
    scenes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, 4))
    for index in range(count):
        scene, name = draw(rng), f"{index:04d}"
        to_image(as_pixels(scene.true())).save(folder / f"{name}.png")
        to_image(as_pixels(scene.source())).save(folder / f"{name}.source.png")
        textures = sorted({thing.texture for thing in scene.things})
        np.save(folder / f"{name}.t5.npy", world.caption(textures).astype(np.float16))
        np.save(folder / f"{name}.clip.npy", world.pooled_caption(textures).astype(np.float16))


def begin_work(folder: Path) -> None:
    """A folder for what is trained beside the models as they are; what was trained beside others is removed."""
    about, note = json.dumps(models(), indent=1) + "\n", folder / "models.json"
    if not note.exists() or note.read_text() != about:
        shutil.rmtree(folder / "adapters", ignore_errors=True)
        (folder / "adapters").mkdir(parents=True)
        note.write_text(about)


def train_adapter(name: str, *, steps: int, seed: int, encoded: dict[str, Tensor]) -> Path:
    """The path of the trained adapter of a variant, from step 0. encoded: latents that the variants share."""
    shutil.rmtree(WORK / "runs" / trained(name, seed), ignore_errors=True)
    config = recipe(name, steps=steps, seed=seed)
    host, encoder = load_models(config.model, config.adapter, device=torch.device("cpu"), seed=seed)
    host.encode = partial(_latents, host.encode, encoded)
    data, path = open_data(config.data, needs_features=None), Path(config.output.folder, FILE)
    task = AdapterTask(host, encoder, data, config, path=path)
    fit(Trainer(task, config.optimisation), config.output, config=config.model_dump())
    return path


def _latents(encode: Callable[[Tensor], Tensor], encoded: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """``encode(pixels)``, once for all variants: encoding takes longer than training."""
    key = fingerprint(pixels.numpy().tobytes())
    if key not in encoded:
        with autocast():
            encoded[key] = encode(pixels).float()
    return encoded[key]


def recipe(name: str, *, steps: int, seed: int) -> TrainConfig:
    """What `dinotile train` is told for a variant. Those of LONG learn for twice ``steps``."""
    steps *= 2 if name in LONG else 1
    values: dict[str, Any] = {
        "model": {"variant": "demo", "layers": "2/3"},
        "adapter": {"width": 64, "grid": 8, "context_grid": 2, "double_sites": [0, 1, 2], "single_sites": []},
        "data": {
            "path": str(WORK / "pictures"),
            "picture": world.SIDE,
            "tile": 128,
            "cache": PICTURES,
            "windows": 4,
            "flip": False,  # a mirror makes rain of grass
        },
        "conditions": {"none": 0.1, "text": 0.1, "dino": 0.7, "both": 0.1, "weak": 0.0},
        "optimisation": {
            "steps": steps,
            "batch": 32,
            "learning_rate": 3e-3,
            "warmup": 30,
            "ema": 0.99,
            "seed": seed,
            "precision": "bf16" if half() else "no",
        },
        "output": {"folder": str(WORK / "runs" / trained(name, seed)), "save_every": steps, "tensorboard": False},
    }
    for section, changes in VARIANTS[name].items():
        values[section].update(changes)
    return config_from(values)


if __name__ == "__main__":
    main()
