"""What the checks of inside_training.py share: a small training of the node, and how it is watched."""

from __future__ import annotations

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from inside_tools import BASE, dino, flux, folder, node, once
from torch import Tensor

from dinotile import nodes
from dinotile.hosts.comfy import training as host_training
from dinotile.training.adapter.start import copied

FIXED_ROWS = range(40)


def vae(name: str = "vae"):
    path = BASE / "models" / "vae" / f"{name}.safetensors"
    return once(name, lambda: comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path))))


def photos() -> str:
    return once("photos", lambda: folder("photos", [(64, 64), (64, 80), (72, 64), (64, 64), (80, 64), (64, 64)]))


def train(name: str, *, model=None, **changed):
    """(adapter, curve) of the node, with small settings."""
    settings = {
        "folder": photos(),
        "filename_prefix": f"made/{name}",
        "steps": 2,
        "batch": 2,
        "learning_rate": 3e-3,
        "picture": 64,
        "tile": 32,
        "layers": "2/3",
        "mechanisms": "all",
        "width": 16,
        "grid": 4,
        "highest_sigma": 1.0,
        "guidance": 1.0,
        "gradient_checkpointing": False,
        "remember": 6,
        "seed": 1,
    }
    return node(nodes.TrainAdapter, model or flux(), changed.pop("vae", None) or vae(), dino(), **settings | changed)


def host_with(chosen, *, model=None, **settings):
    """A TrainingHost whose adapter is a copy of ``chosen``."""
    return host_training.TrainingHost(model or flux(), vae(), copied(chosen.adapter), **settings)


def fixed_loss(chosen) -> float:
    """Mean velocity loss of an adapter over the same rows."""
    from dinotile.training.adapter.config import TrainConfig
    from dinotile.training.adapter.encode import PictureEncoder
    from dinotile.training.adapter.step import draw_rows, velocity_losses
    from dinotile.training.data.pictures import open_data
    from dinotile.training.data.settings import DataSettings

    config = TrainConfig(data=DataSettings(path=photos(), picture=64, tile=32, cache=6))
    with host_training.gradients(), torch.no_grad():
        frozen = host_with(chosen)
        pictures = PictureEncoder(frozen, dino(), open_data(config.data, needs_features=None), config=config)
        rows = draw_rows(pictures, list(FIXED_ROWS), step=10_000, first=0, count=6)
        return float(velocity_losses(frozen, list(rows.values()))[0].mean())


def weights(chosen) -> dict[str, Tensor]:
    return {name: tensor.cpu().float() for name, tensor in chosen.adapter.module.state_dict().items()}


def caught(name: str, **settings) -> str:
    try:
        train(name, **settings)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def counted(action, *, stop: int = 0):
    """What an action gives, and the steps of which it told; the user interrupts at step ``stop``."""
    steps = []

    def hook(value, total, preview, node_id=None):
        steps.append(value)
        if value == stop:
            management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        return action(), steps
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
