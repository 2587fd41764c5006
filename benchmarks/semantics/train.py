"""Trains everything that the semantics table needs: `python -m benchmarks.semantics.train --part all`.

Parts, in their order: `models` (the demo's VAE, encoder, FLUX and the VAE's decoder once more, which learn from photos
too; `python -m dinotile.demo.train` makes the same), `judge` (the texture classifier), `selftaught` (an encoder without
labels), `reader` (of flat sources, which says how much there is to know), `pictures` (a training folder of the world, as any
user's folder is), `adapters` (each variant of the table with `dinotile train`'s own trainer), `demo` (the default variant
becomes the demo's adapter), `controlnet` (of the demo's FLUX), `knowing` (another one, that learns on whole pictures),
`reference` (a FLUX with reference latents in its place), `forms` (the encoder without labels and its adapter, which go on with
shapes in many forms), `from-source` (the default adapter and the ControlNet go on with rows that begin at the source), `faint`
(FLUX and the default adapter go on with faint textures), `levels` (encoder, ControlNet and the adapter of `from-source` go on
with sources that show something of the textures).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import run as demo_train
from dinotile.demo.train import world
from dinotile.demo.train.dino import Shown
from dinotile.demo.train.speed import autocast
from dinotile.files.fingerprints import fingerprint
from dinotile.files.pictures import to_image
from dinotile.training.adapter.run import load_models
from dinotile.training.adapter.task import FILE, AdapterTask
from dinotile.training.core.loop import fit
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.pictures import open_data

from . import classifier, controlnet, faint, forms, knowing, levels, reader, reference, selftaught
from .rows import ALONE, DEFAULT, FAINT, FORMS, FROM_SOURCE, SELFTAUGHT, trained
from .rows import NETS as TRAINED_NETS
from .runs import NETS, SHIPPED_ADAPTERS, WORK, adapter_of, as_pixels
from .table import models
from .variants import BEGINNING, PICTURES, STEPS, VARIANTS, recipe

MINUTES = {"vae": 15.0, "dino": 6.0, "flux": 48.0, "decoder": 5.0}
JUDGE_MINUTES, SELFTAUGHT_MINUTES, READER_MINUTES = 4.0, 20.0, 6.0
CONTROLNET_MINUTES, KNOWING_MINUTES, FORMS_MINUTES = 8.0, 17.0, 8.0
FAINT_MINUTES = 18.0
REFERENCE_MINUTES = 25.0
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
            shutil.copyfile(adapter, SHIPPED_ADAPTERS.get(trained(name, options.seed), kept))
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
    elif name == FROM_SOURCE:
        path = NETS[FROM_SOURCE]
        controlnet.train(minutes=CONTROLNET_MINUTES, seed=seed, path=path, begin=controlnet.FILE, **BEGINNING)
    elif name == FAINT:
        draw = faint.scene
        faint.train(minutes=FAINT_MINUTES, seed=seed)
    else:
        shown = levels.mixed
        levels.train(minutes=LEVELS_MINUTES, seed=seed)
    write_pictures(WORK / f"pictures-{name}", count=PICTURES, seed=seed, draw=draw, shown=shown)
    shutil.copyfile(
        train_adapter(name, steps=steps, seed=seed, encoded={}), SHIPPED_ADAPTERS.get(name, adapter_of(name))
    )


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
        for made in ("adapters", FAINT, *(Path(net).parts[0] for net in TRAINED_NETS.values())):
            shutil.rmtree(folder / made, ignore_errors=True)
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


if __name__ == "__main__":
    main()
