"""What the training nodes ask of ComfyUI around the models: progress, interrupt, folders, and adapters to begin with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from torch import Tensor

from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.checkpoint import new_adapter, save_adapter
from .adapter import HostAdapter, load_host_adapter
from .dino import HostDino
from .host import compute_dtype
from .model import flux_geometry
from .progress import HostProgress
from .training import gradients

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...training.adapter.config import ModelSettings, TrainConfig
    from ...training.core.trainer import Trainer

PRECISIONS = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
SAVE_EVERY = 500  # steps
PREVIEWS = 50  # per run
log = logging.getLogger("dinotile")


def run_training(trainer: Trainer, path: Path, *, draw: Callable[[Sequence[float]], Image]) -> list[float]:
    """Train to the last step with ComfyUI's progress bar and write ``path``; the loss of every step.

    Every ``SAVE_EVERY`` steps, and where the user interrupts or the loss is no number, what was learned so far is written.
    """
    from ...training.core.trainer import NotFiniteError

    steps, losses = trainer.config.optimisation.steps, []
    progress, every = HostProgress(), -(-steps // PREVIEWS)
    try:
        while trainer.done < steps:
            comfy.model_management.throw_exception_if_processing_interrupted()
            losses.append(trainer.step().loss)
            progress.preview = ("PNG", draw(losses), None) if len(losses) % every == 0 else None
            progress("train", trainer.done, steps)
            if trainer.done % SAVE_EVERY == 0:
                save_adapter(trainer.export(), path, trained=True)
    except comfy.model_management.InterruptProcessingException:
        if trainer.done:
            save_adapter(trainer.export(), path, trained=True)
            log.info("interrupted after %d steps: the adapter so far is %s", trainer.done, path)
        raise
    except NotFiniteError as error:
        if not trainer.done:
            raise ValueError(
                f"{error}, nothing was learned: choose a VAE and a FLUX that work, or other data"
            ) from None
        save_adapter(trainer.export(), path, trained=True)
        raise ValueError(f"{error}, the adapter before it is {path.name}: lower the learning rate") from None
    save_adapter(trainer.export(), path, trained=True)
    return losses


def train_adapter(
    model: Any,
    vae: Any,
    dino: HostDino,
    adapter: DinoAdapter,
    *,
    config: TrainConfig,
    path: Path,
) -> list[float]:
    """Train ``adapter`` on the pictures of ``config.data`` and write it to ``path``; the loss of every step."""
    from ...training.core.curve import draw_curve
    from ...training.core.trainer import Trainer
    from ...training.data.pictures import open_data

    data = open_data(config.data, needs_features=None)
    with gradients():
        settings = config.model
        frozen = ComfyHost(
            model,
            vae,
            dino,
            adapter,
            guidance=settings.guidance,
            gradient_checkpointing=settings.gradient_checkpointing,
        )
        with frozen.running():
            return run_training(Trainer(frozen, data, config), path, draw=draw_curve)


def fresh_adapter(
    model: Any, dino: HostDino, *, layers: str, mechanisms: Sequence[Any], width: int, grid: int, seed: int
) -> DinoAdapter:
    """An untrained adapter for these models, in torch's own layers."""
    from ...training.adapter.config import AdapterSettings
    from ..diffusers.host import adapter_config

    settings = AdapterSettings(mechanisms=tuple(mechanisms), width=width, grid=grid)
    return new_adapter(
        adapter_config(settings, dino=dino.encoder, layers=layers, geometry=flux_geometry(model)), seed=seed
    )


def continued_adapter(start: HostAdapter, model: Any, dino: HostDino) -> DinoAdapter:
    """A copy of an adapter, in torch's own layers; ValueError where it is for other models."""
    start.adapter.check_geometry(flux_geometry(model))
    start.check_dino(dino)
    adapter = new_adapter(start.adapter.config)
    with torch.inference_mode(False), torch.no_grad():
        adapter.load_state_dict({name: tensor.cpu().float() for name, tensor in start.adapter.state_dict().items()})
    adapter.idle = start.adapter.idle
    return adapter


def model_settings(model: Any, *, guidance: float, gradient_checkpointing: bool) -> ModelSettings:
    from ...training.adapter.config import ModelSettings

    dtype: Any = str(compute_dtype(model)).removeprefix("torch.")
    return ModelSettings(dtype=dtype, guidance=guidance, gradient_checkpointing=gradient_checkpointing)


def precision(model: Any) -> Any:
    """``OptimisationSettings.precision`` for the dtype in which the host computes the model."""
    return PRECISIONS[compute_dtype(model)]


def to_image(picture: Image) -> Tensor:
    """IMAGE [1, H, W, 3]."""
    return torch.from_numpy(np.array(picture)).float()[None] / 255


def load_written(path: Path) -> HostAdapter:
    """An adapter that was written below models/model_patches, as *Load DINO Adapter* gives it."""
    root = folder_paths.get_folder_paths("model_patches")[0]
    return load_host_adapter(path.relative_to(root).as_posix())


def picture_folder(text: str) -> str:
    """A folder of pictures: a full path, or one below ComfyUI's input folder."""
    if not text.strip():
        raise ValueError("the folder is empty text: give a folder of pictures, such as /data/photos or one in input/")
    return str(Path(folder_paths.get_input_directory()) / Path(text.strip()).expanduser())
