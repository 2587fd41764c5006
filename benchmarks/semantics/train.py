"""Trains everything that the semantics table needs: `python -m benchmarks.semantics.train --part all`.

Parts, in their order: `models` (the demo's VAE, encoder, FLUX and the VAE's decoder once more, which learn from photos
too; `python -m dinotile.demo.train` makes the same), `judge` (the texture classifier), `selftaught` (an encoder without
labels), `reader` (of flat sources, which says how much there is to know), `pictures` (a training folder of the world, as any
user's folder is), `adapters` (each variant of the table with `dinotile train`'s own trainer), `demo` (the default variant
becomes the demo's adapter), `controlnet` (of the demo's FLUX), `knowing` (another one, that learns on whole pictures),
`reference` (a FLUX with reference latents in its place), `forms` (the encoder without labels and its adapter, which go on with
shapes in many forms), `faint` (FLUX, judge and adapter go on with faint textures), `levels` (encoder, ControlNet and adapter go
on with sources that show something of the textures).
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
from dinotile.demo.train.dino import Shown
from dinotile.demo.train.speed import autocast, half
from dinotile.files.fingerprints import fingerprint
from dinotile.files.pictures import to_image
from dinotile.training.adapter.config import TrainConfig, config_from
from dinotile.training.adapter.run import load_models
from dinotile.training.adapter.task import FILE, AdapterTask
from dinotile.training.core.loop import fit
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.pictures import open_data

from . import classifier, controlnet, faint, forms, knowing, levels, reader, reference, selftaught
from .rows import ALONE, DEFAULT, FAINT, FORMS, FROM_SOURCE, LEVELS, SELFTAUGHT, trained
from .runs import NETS, WORK, adapter_of, as_pixels
from .table import models

MINUTES = {"vae": 15.0, "dino": 6.0, "flux": 48.0, "decoder": 5.0}
JUDGE_MINUTES, SELFTAUGHT_MINUTES, READER_MINUTES = 4.0, 20.0, 6.0
CONTROLNET_MINUTES, KNOWING_MINUTES, FORMS_MINUTES = 8.0, 17.0, 8.0
FAINT_MINUTES = (18.0, 4.0)  # FLUX and the judge
REFERENCE_MINUTES = 15.0
LEVELS_MINUTES = (6.0, 5.0)  # the encoder and the ControlNet
PARTS = (
    "models",
    "judge",
    SELFTAUGHT,
    "reader",
    "pictures",
    "adapters",
    "demo",
    "controlnet",
    "knowing",
    "reference",
    *ALONE,
)
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
    "all-tokens": {"adapter": {"mechanisms": ["context"], "context_grid": 14, "double_sites": [], "single_sites": []}},
    "shares": {"conditions": {"none": 0.1, "text": 0.3, "dino": 0.05, "both": 0.55}},  # of the source documents
    FROM_SOURCE: {
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "conditions": {"dino_guidance": 2.0, "from_source": 0.6, "start": (0.3, 0.9)},
    },
    "layer-1": {"model": {"layers": "1"}},
    "layer-2": {"model": {"layers": "2"}},
    "layer-4": {"model": {"layers": "4"}},
    SELFTAUGHT: {
        "model": {"dino": str(selftaught.FILE), "layers": "last"},
        "conditions": {"dino_guidance": 2.0},
    },
    LEVELS: {
        "model": {"dino": str(levels.ENCODER)},
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{LEVELS}")},
        "conditions": {"dino_guidance": 2.0},
    },
    FAINT: {
        "model": {"model_path": str(faint.FLUX)},
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{FAINT}")},
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
    known = [name for name in VARIANTS if name not in ALONE]  # which have parts of their own
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
            kept = adapter_of(trained(name, options.seed))
            shutil.copyfile(adapter, selftaught.ADAPTER if trained(name, options.seed) == SELFTAUGHT else kept)
    if "demo" in parts:
        shutil.copyfile(adapter_of(DEFAULT), demo.ADAPTER)
    if "controlnet" in parts:
        controlnet.train(minutes=CONTROLNET_MINUTES, seed=options.seed)
    if "knowing" in parts:
        knowing.train(minutes=KNOWING_MINUTES, seed=options.seed)
    if "reference" in parts:
        begin_work(WORK)
        reference.train(minutes=REFERENCE_MINUTES, seed=options.seed, folder=NETS["reference"].parent)
    for name in ALONE:
        if name in parts:
            begin_work(WORK)
            train_alone(name, steps=options.steps, seed=options.seed)


def train_alone(name: str, *, steps: int, seed: int) -> None:
    """What a variant of ALONE needs beside its adapter, its pictures, and the adapter."""
    draw: selftaught.Draw = world.scene
    shown = controlnet.flat_source
    if name == FORMS:
        draw, encoder = partial(forms.scene, spread="trained"), WORK / f"{FORMS}.safetensors"
        selftaught.train(minutes=FORMS_MINUTES, seed=seed, path=encoder, draw=draw, begin=selftaught.FILE)
    elif name == FAINT:
        draw = faint.scene
        faint.train(minutes=FAINT_MINUTES, seed=seed)
    else:
        shown = levels.mixed
        levels.train(minutes=LEVELS_MINUTES, seed=seed)
    write_pictures(WORK / f"pictures-{name}", count=PICTURES, seed=seed, draw=draw, shown=shown)
    shutil.copyfile(train_adapter(name, steps=steps, seed=seed, encoded={}), adapter_of(name))


def write_pictures(
    folder: Path,
    *,
    count: int,
    seed: int,
    draw: selftaught.Draw = world.scene,
    shown: Shown = controlnet.flat_source,
) -> None:
    """A new folder with NAME.png, its source NAME.source.png and its text NAME.t5.npy and NAME.clip.npy, of `count`
    scenes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, 4))
    for index in range(count):
        scene, name = draw(rng), f"{index:04d}"
        to_image(as_pixels(scene.true())).save(folder / f"{name}.png")
        to_image(as_pixels(shown(scene, index))).save(folder / f"{name}.source.png")
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
