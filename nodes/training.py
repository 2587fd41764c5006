"""The node that trains an adapter through FLUX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..dino.encode import DinoEncoder, EncodeSettings
from ..files.fingerprints import fingerprint
from ..files.pictures import from_image
from ..flux_patch.adapter import LoadedAdapter
from ..flux_patch.checkpoint import new_adapter
from ..flux_patch.families import FLUX1
from ..hosts.comfy.adapter import load_host_adapter
from ..hosts.comfy.folders import (
    adapter_name,
    adapter_path,
    note_written,
    picture_folder,
    training_folder,
)
from ..hosts.comfy.host import compute_dtype
from ..hosts.comfy.images import to_host
from ..hosts.comfy.model import flux_geometry
from ..hosts.comfy.progress import HostProgress, Interrupted, only_interrupts
from ..hosts.comfy.training import TrainingHost, check_plain, gradients, models_fingerprint
from ..hosts.precision import check_bfloat16
from . import sockets
from .adapter import adapter_inputs, chosen_mechanisms
from .learning import CATEGORY, LearningNode
from .sockets import SEED, number, patches_file, pictures, problem

if TYPE_CHECKING:
    from PIL import Image

    from ..training.adapter.config import TrainConfig

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # by what the host computes in
SAVE_EVERY = 500  # steps
START = 0.2, 0.6  # levels at which rows begin at their source, up to the highest that is trained
POINTS = 1000  # of the loss curve
PICTURE, TILE = (16, 8192), (0, 4096)  # px, at least and at most


class TrainAdapter(LearningNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_TrainAdapter",
            display_name="Train DINO Adapter",
            category=CATEGORY,
            description="Trains an adapter on a folder of pictures; FLUX, its VAE and DINO stay as they are. "
            "Interrupting keeps what was trained so far.",
            search_aliases=["dino training", "train flux adapter", "finetune"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="FLUX.1, FLUX.2, Chroma or Krea 2, not compiled and not tiled. It must fit into GPU memory whole.",
                ),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                sockets.Dino.Input("dino", tooltip="The DINO model that the adapter will need."),
                pictures("Usual: thousands of pictures of at least the picture size."),
                patches_file("dinotile/trained"),
                number(
                    "steps",
                    (10_000, 1, 10_000_000),
                    "Optimiser steps. Usual: 10000; a few hundred to try a folder out.",
                ),
                number("batch", (1, 1, 1024), "Tiles per step; memory grows with it. Usual: 1 to 8."),
                number(
                    "learning_rate",
                    (1e-4, 0.0, 1.0, 1e-6),
                    "Peak step size of AdamW, after a warm-up; it falls to a tenth. Usual: 0.0001.",
                    round=1e-7,
                ),
                number(
                    "picture",
                    (1024, *PICTURE, FLUX1.token),
                    "Side in px of the square that is cut from each picture and that DINO sees. Usual: 1024.",
                ),
                number(
                    "tile",
                    (512, *TILE, FLUX1.token),
                    "Side in px of the part that FLUX learns on, 0: the whole square. Smaller pictures are left "
                    "out. Usual: 512.",
                ),
                *adapter_inputs(mechanisms="How DINO enters FLUX, as in New DINO Adapter. Usual: cross_attention."),
                number(
                    "highest_sigma",
                    (1.0, 0.01, 1.0, 0.01),
                    "Highest noise level trained on, 1 is pure noise. Usual: 1; for low denoise only, the level "
                    "at which your upscaling starts.",
                ),
                number(
                    "guidance",
                    (1.0, 0.0, 100.0, 0.1),
                    "FLUX guidance while training, for dev. Usual: 1; schnell ignores it.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    tooltip="Computes blocks twice instead of keeping them: far less memory, about a third more time. "
                    "Usual: on; off for small models.",
                ),
                number(
                    "remember",
                    (0, 0, 1_000_000),
                    "Pictures whose latents and features are kept in memory, each with one cut: faster for small "
                    "folders. Usual: 0, a new cut every time.",
                ),
                number("seed", SEED, "Seed of everything random: weights, pictures, cuts, noise. Usual: 0."),
                sockets.Adapter.Input(
                    "adapter",
                    optional=True,
                    tooltip="An adapter to continue from, or a new one with sites of your own. Its layers, mechanisms, width, "
                    "grids, crops and scales then count, not those of this node.",
                ),
                number(
                    "dino_guidance",
                    (1.0, 1.0, 10.0, 0.1),
                    "Guidance by DINO that the adapter learns to bring along, so that sampling has most of it without "
                    "cfg; cfg multiplies it. Above 1 a step evaluates FLUX once more. Usual: 1 (none) to 3.",
                    optional=True,
                ),
                *sockets.encoding(),
                number(
                    "from_source",
                    (0.5, 0.0, 1.0, 0.05),
                    "Share of the tiles that begin as an upscaling does, at the poor copy that DINO sees, with noise, so that "
                    "DINO learns to act at a low denoise too. Usual: 0.5.",
                    optional=True,
                ),
            ],
            outputs=[
                sockets.Adapter.Output(display_name="adapter", tooltip="The trained adapter, as it was saved."),
                io.Image.Output(display_name="loss", tooltip="The loss of every step and its running mean."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, folder, picture, tile) -> bool | str:
        cut = problem(check_cut, picture, tile)
        return super().validate_inputs(folder) if cut is True else cut

    @classmethod
    def execute(
        cls, model, vae, dino, folder, filename_prefix, steps, batch, learning_rate, picture, tile, layers, mechanisms,
        width, grid, highest_sigma, guidance, gradient_checkpointing, remember, seed, adapter=None, dino_guidance=1.0,
        context_grid=4, crops=1, scales="averaged", from_source=0.5,
    ) -> io.NodeOutput:  # fmt: skip
        from ..training.adapter.config import AdapterSettings, config_from
        from ..training.adapter.start import config_of, copied

        check_cut(picture, tile)
        check_plain(model)
        path = adapter_path(filename_prefix, below="models/model_patches")
        dtype = str(compute_dtype(model)).removeprefix("torch.")
        if dtype == "bfloat16":
            check_bfloat16(model.load_device, setting="this FLUX", instead="start ComfyUI with --fp16-unet")
        config = config_from(
            {
                "model": {"dtype": dtype, "guidance": guidance, "gradient_checkpointing": gradient_checkpointing},
                "data": {"path": picture_folder(folder), "picture": picture, "tile": tile, "cache": remember},
                "conditions": {
                    "dino_guidance": dino_guidance,
                    "from_source": from_source,
                    "start": tuple(max(0.05, min(level, highest_sigma)) for level in START),
                },
                "optimisation": {
                    "steps": steps,
                    "batch": batch,
                    "learning_rate": learning_rate,
                    "warmup": min(200, steps // 10),
                    "seed": seed,
                    "sigma": (0.0, highest_sigma),
                    "precision": PRECISIONS[dtype],
                },
            }
        )
        geometry = flux_geometry(model)
        if adapter is None:
            settings = AdapterSettings(
                mechanisms=chosen_mechanisms(mechanisms, geometry), width=width, grid=grid, context_grid=context_grid
            )
            encode = EncodeSettings(layers=layers, crops=crops, scales=scales)
            start = new_adapter(config_of(settings, dino.spec, geometry, encode=encode), seed=seed)
        else:
            adapter.adapter.module.check_geometry(geometry)
            adapter.adapter.module.check_dino(dino.spec, adapter.adapter.config.encode)
            start = copied(adapter.adapter)
        curve = to_host(from_image(train(model, vae, dino, start, config=config, path=path)).pixels.movedim(1, -1))
        note_written(filename_prefix, path)
        return io.NodeOutput(load_host_adapter(adapter_name(path)), curve, ui=ui.PreviewImage(curve, cls=cls))


def check_cut(picture: int, tile: int) -> None:
    for name, value, (least, most) in (("picture", picture, PICTURE), ("tile", tile, TILE)):
        if not least <= value <= most or value % FLUX1.token:
            raise ValueError(f"{name} {value} must be from {least} to {most} px in multiples of {FLUX1.token}")
    if tile > picture:
        raise ValueError(f"tile {tile} is larger than picture {picture}: lower the tile or raise the picture")


def train(
    model: Any, vae: Any, dino: DinoEncoder, start: LoadedAdapter, *, config: TrainConfig, path: Path
) -> Image.Image:
    """Train ``start`` to the last step, write it to ``path``, and draw the loss.

    A run that was cut short goes on where it stopped, when it is asked for with exactly the same models, settings and
    pictures: until its end its checkpoints lie in ComfyUI's output folder. Every ``SAVE_EVERY`` steps, and where the user
    interrupts or the loss is no number, what was learned so far is written.
    """
    from ..training.adapter.task import AdapterTask
    from ..training.core.config import OutputSettings
    from ..training.core.curve import draw_curve
    from ..training.core.loop import fit
    from ..training.core.monitor import read_log
    from ..training.core.state import checkpoints
    from ..training.core.trainer import NotFiniteError, Trainer
    from ..training.data.pictures import open_data
    from ..training.data.sources import listing

    family = start.config.geometry.family
    data = open_data(config.data, needs_features=None, family=family, progress=only_interrupts)
    told = [config.model_dump(mode="json"), listing(data.entries), start.fingerprint]
    folder = training_folder(fingerprint((models_fingerprint(model, vae, dino) + json.dumps(told)).encode()))
    every = -(-config.optimisation.steps // POINTS)
    output = {"folder": str(folder), "log_every": every, "save_every": SAVE_EVERY, "keep": 1, "tensorboard": False}

    def draw() -> Image.Image:
        return draw_curve([line["loss"] for line in read_log(folder)], every=every)

    ended = False
    try:
        with gradients():
            host = TrainingHost(model, vae, start, gradient_checkpointing=config.model.gradient_checkpointing)
            trainer = Trainer(AdapterTask(host, dino, data, config, path=path), config.optimisation)
            with host.running():
                fit(trainer, OutputSettings(**output), progress=HostProgress(draw), cancels=Interrupted)
        ended = True
        return draw()
    except NotFiniteError as error:
        ended = True
        if not trainer.done:
            models = "a VAE, a FLUX and an adapter" if start.trained else "a VAE and a FLUX"
            raise ValueError(
                f"{error.__cause__}, nothing was learned: choose {models} that work, or other data"
            ) from None
        trainer.export()
        raise ValueError(f"{error.__cause__}, the adapter before it is {path.name}: lower the learning rate") from None
    finally:
        if ended or not checkpoints(folder):
            shutil.rmtree(folder, ignore_errors=True)
