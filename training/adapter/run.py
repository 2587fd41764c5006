"""``dinotile train``: load what a configuration names, and train an adapter on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.load import load_dino
from ...files.fingerprints import fingerprint_of, first_numbers
from ...files.progress import Progress, counted
from ...flux_patch.checkpoint import new_adapter
from ...flux_patch.geometry import geometry_of
from ...hosts.diffusers.host import DiffusersHost
from ...hosts.diffusers.load import load_transformer, load_vae
from ...hosts.diffusers.narrow import check_weights, narrow
from ...hosts.diffusers.sources import dino_path
from ...hosts.precision import check_bfloat16
from ..core.loop import fit
from ..core.processes import launched
from ..core.trainer import Trainer
from ..data.pictures import open_data
from .ahead import check_models, check_paths, files_of
from .config import AdapterSettings, ModelSettings, TrainConfig
from .encode import EncodedFolder
from .judge import Judge, load_judge
from .start import config_of, flat_of, warm_start
from .task import FILE, AdapterTask

log = logging.getLogger("dinotile")


def train(
    config: TrainConfig,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Load everything that ``config`` names, train, and return the adapter's file.

    Runs in one process, or in each of those that ``accelerate launch`` started. ``resume``: go on from the newest checkpoint
    in the output folder, if there is one; otherwise such a folder is refused. Raises ValueError for what the user can mend.
    """
    check_paths(config, resume=resume)
    processes, device = launched(config.model.device)
    check_device(config, device)
    judge = judge_of(config, device=device)
    check_models(config)
    host, encoder = load_models(
        config.model, config.adapter, device=device, seed=config.optimisation.seed, progress=progress
    )
    assert host.adapter is not None
    needed = (host.adapter.config.dino, host.adapter.config.how)
    family, weights = host.family.name, encoder.fingerprint
    data = open_data(config.data, needs_features=needed, encoder=weights, family=family, device=device)
    if config.adapter.warm_start:
        log.info("warm start: %s", warm_start(host.adapter.module, config.adapter.warm_start))
    kept = kept_pictures(config, host, encoder)
    path = Path(config.output.folder, FILE)
    task = AdapterTask(host, encoder, data, config, path=path, kept=kept, judge=judge)
    trainer = Trainer(task, config.optimisation, processes=processes)
    fit(trainer, config.output, config=config.model_dump(), resume=resume, progress=progress, should_stop=should_stop)
    return task.path


def kept_pictures(config: TrainConfig, host: DiffusersHost, encoder: DinoEncoder) -> EncodedFolder | None:
    """The folder of ``data.encoded``, for pictures of these models and settings; None where none is named."""
    if not config.data.encoded:
        return None
    assert host.adapter is not None
    told = config.data.model_dump(include={"picture", "flip", "features", "encoder"})
    vae = fingerprint_of(first_numbers(tensor) for tensor in host.vae.state_dict().values())
    models = [vae, encoder.fingerprint, host.adapter.config.dino, host.adapter.config.how, str(host.dtype)]
    rest = [config.degradation.model_dump(), config.model.guidance, config.conditions.from_source > 0]
    return EncodedFolder(Path(config.data.encoded), made_by=[models, told, rest, config.optimisation.seed])


def judge_of(config: TrainConfig, *, device: torch.device) -> Judge | None:
    """Of ``output.judge``, None where none is named; ValueError where it cannot judge, or guides."""
    if not config.output.judge:
        return None
    return load_judge(config.output.judge, guide=dino_path(files_of(config.model)[2]), device=device)


def check_device(config: TrainConfig, device: torch.device) -> None:
    """ValueError where the device does not compute in the precision, or keep the weights, that are asked for."""
    if config.optimisation.precision == "bf16":
        check_bfloat16(device, setting="optimisation.precision bf16", instead="set fp16, and model.dtype float16")
    check_weights(config.model.weights, device)


def load_models(
    model: ModelSettings,
    adapter: AdapterSettings,
    *,
    device: torch.device,
    seed: int,
    progress: Progress | None = None,
) -> tuple[DiffusersHost, DinoEncoder]:
    """The models that the settings name, with a fresh adapter in float32; ValueError where one cannot be had."""
    flux_file, vae_file, dino_file = files_of(model)
    dtype = getattr(torch, model.dtype)
    parts: list[Callable[[], Any]] = [
        partial(load_vae, vae_file, dtype=dtype),
        partial(load_dino, dino_path(dino_file)),
        partial(load_transformer, flux_file, dtype=dtype),
    ]
    vae, encoder, transformer = (load() for load in counted(parts, "load", progress))
    narrow(transformer, model.weights)  # before it is moved, so that the device never holds it wide
    encoder.model.to(device).requires_grad_(False)
    encode = EncodeSettings(layers=model.layers, crops=model.crops, scales=model.scales)
    flat = flat_of(adapter)
    config = config_of(adapter, encoder.spec, geometry_of(transformer), encode=encode, flat=flat)
    host = DiffusersHost(
        transformer,
        vae,
        adapter=new_adapter(config, seed=seed, flat=flat),
        adapter_dtype=torch.float32,
        gradient_checkpointing=model.gradient_checkpointing,
        device=device,
    )
    return host, encoder
