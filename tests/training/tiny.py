"""A FLUX of three blocks with its VAE, DINO and adapter on small pictures, and training settings to fit."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter_config import AdapterConfig
from dinotile.flux_patch.checkpoint import new_adapter
from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.training.adapter.config import TrainConfig, config_from
from dinotile.training.adapter.encode import PictureEncoder
from dinotile.training.adapter.judge import Judge
from dinotile.training.adapter.task import FILE, AdapterTask
from dinotile.training.core.loop import fit
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.pictures import open_data

from ..dino.tiny import random_model, tiny_encoder
from ..tiny import tiny_flux, tiny_flux2, tiny_vae, tiny_vae2

SIDE, TILE = 48, 32


def picture_folder(folder: Path, *, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        colour = rng.integers(40, 215, 3)  # what tells the pictures apart
        coarse = (colour + rng.integers(-40, 41, (6, 6, 3))).astype(np.uint8)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


def with_texts(folder: Path) -> Path:
    """Gives each picture of the folder a text of its own."""
    rng = np.random.default_rng(1)
    for place in sorted(folder.glob("*.png")):
        np.save(place.with_suffix(".t5.npy"), rng.standard_normal((8, 32)).astype(np.float16))
        np.save(place.with_suffix(".clip.npy"), rng.standard_normal(16).astype(np.float16))
    return folder


def write_models(folder: Path) -> dict[str, str]:
    """Files of small models, as the configuration's section about them."""
    tiny_flux().save_pretrained(folder / "transformer")
    tiny_vae().save_pretrained(folder / "vae")
    save_file(random_model(SPECS["dinov2-demo"]).state_dict(), folder / "dino.safetensors")
    return {"device": "cpu", "model_path": str(folder), "dino": str(folder / "dino.safetensors")}


def settings(pictures: Path, **sections: dict) -> TrainConfig:
    """Sections by name replace single values of these."""
    values = {
        "model": {"device": "cpu"},
        "adapter": {"width": 16, "grid": 4, "context_grid": 2},
        "data": {"path": str(pictures), "picture": SIDE, "tile": TILE, "cache": 100},
        "optimisation": {"steps": 6, "batch": 4, "learning_rate": 1e-2, "warmup": 2, "ema": 0.9},
        "output": {"log_every": 1, "save_every": 100, "tensorboard": False},
    }
    merged = {name: {**values.get(name, {}), **sections.get(name, {})} for name in {**values, **sections}}
    return config_from(merged)


def tiny_host(
    *,
    checkpointing=False,
    mechanisms=("cross_attention",),
    dtype=torch.float32,
    width=16,
    grid=4,
    device="cpu",
    sites=("double.0", "single.1"),
    flux2=False,
) -> DiffusersHost:
    transformer, spec = tiny_flux2() if flux2 else tiny_flux(), tiny_encoder("tiny-v2").spec
    config = AdapterConfig(
        dino=spec.name,
        dino_width=spec.width,
        layers="3",
        geometry=geometry_of(transformer),
        width=width,
        grid=grid,
        context_grid=2,
        mechanisms=mechanisms,
        sites=sites if "cross_attention" in mechanisms else (),
    )
    vae = tiny_vae2() if flux2 else tiny_vae(scaling=20.0)
    for parameter in vae.encoder.parameters():
        if parameter.ndim == 1:  # without biases the latents are the picture's alone
            parameter.zero_()
    return DiffusersHost(
        transformer.to(dtype),
        vae.to(dtype),
        adapter=new_adapter(config),
        adapter_dtype=torch.float32,
        gradient_checkpointing=checkpointing,
        device=device,
    )


def tiny_pictures(config: TrainConfig) -> PictureEncoder:
    return PictureEncoder(
        tiny_host(), tiny_encoder("tiny-v2"), open_data(config.data, needs_features=None), config=config
    )


def tiny_trainer(config: TrainConfig, *, judge: Judge | None = None, **host) -> Trainer:
    data, path = open_data(config.data, needs_features=None), Path(config.output.folder, FILE)
    encoder = tiny_encoder("tiny-v2")
    encoder.model.to(host.get("device", "cpu"))
    task = AdapterTask(tiny_host(**host), encoder, data, config, path=path, judge=judge)
    return Trainer(task, config.optimisation)


def run(trainer: Trainer, **options) -> Path:
    """The adapter's file of a whole run."""
    fit(trainer, trainer.task.config.output, config=trainer.task.config.model_dump(), **options)
    return trainer.task.path


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)
