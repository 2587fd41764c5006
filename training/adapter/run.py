"""``dinotile train``: load what a configuration names, and train an adapter on it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.load import load_dino
from ...files.progress import Progress
from ...flux_patch.adapter import AdapterConfig, spread_sites
from ...flux_patch.checkpoint import new_adapter
from ...flux_patch.geometry import FluxGeometry, geometry_of
from ...hosts.diffusers.host import DiffusersHost
from ...hosts.diffusers.load import load_transformer, load_vae
from ...hosts.diffusers.sources import dino_path, model_files
from ...upscaling.api import find_device
from ..core.loop import fit
from ..core.trainer import Trainer
from ..data.pictures import open_data
from .config import AdapterSettings, ModelSettings, TrainConfig
from .task import FILE, AdapterTask
from .warm import warm_start

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
    from accelerate import Accelerator

    for name, value in (("data.path", config.data.path), ("output.folder", config.output.folder)):
        if not value:
            raise ValueError(f"{name} is empty: say where it is")
    processes = Accelerator(cpu=config.model.device == "cpu")
    device = find_device(config.model.device) if processes.num_processes == 1 else processes.device
    host, encoder = load_models(config.model, config.adapter, device=device, seed=config.optimisation.seed)
    assert host.adapter is not None
    needed = (host.adapter.config.dino, host.adapter.config.layers) if config.data.features else None
    data = open_data(config.data, needs_features=needed, encoder=encoder.fingerprint if needed else "")
    if config.adapter.warm_start:
        log.info("warm start: %s", warm_start(host.adapter.module, config.adapter.warm_start))
    task = AdapterTask(host, encoder, data, config, path=Path(config.output.folder, FILE))
    trainer = Trainer(task, config.optimisation, processes=processes)
    fit(trainer, config.output, config=config.model_dump(), resume=resume, progress=progress, should_stop=should_stop)
    return task.path


def load_models(
    model: ModelSettings, adapter: AdapterSettings, *, device: torch.device, seed: int
) -> tuple[DiffusersHost, DinoEncoder]:
    """The models that the settings name, with a fresh adapter in float32; ValueError where one cannot be had."""
    files = model_files(model.variant, model_path=model.model_path, vae_path=model.vae_path, dino=model.dino)
    if files.dino is None:
        raise ValueError(f"model.dino is empty, variant {model.variant} needs a DINO model: give a file or a hub name")
    dtype = getattr(torch, model.dtype)
    transformer: Any = load_transformer(files.flux, dtype=dtype)
    encoder = load_dino(dino_path(files.dino))
    encoder.model.to(device).requires_grad_(False)
    config = adapter_config(adapter, encoder=encoder, layers=model.layers, geometry=geometry_of(transformer))
    host = DiffusersHost(
        transformer,
        load_vae(files.vae, dtype=dtype),
        adapter=new_adapter(config, seed=seed),
        adapter_dtype=torch.float32,
        gradient_checkpointing=model.gradient_checkpointing,
        device=device,
    )
    return host, encoder


def adapter_config(
    settings: AdapterSettings, *, encoder: DinoEncoder, layers: str, geometry: FluxGeometry
) -> AdapterConfig:
    """What an adapter with these settings is made for."""
    crossing = "cross_attention" in settings.mechanisms
    pooled = min(settings.context_grid, settings.grid)
    if pooled < settings.context_grid and "context" in settings.mechanisms:
        log.info("adapter.context_grid is lowered to %d, the grid: pooling cannot make more tokens", pooled)
    return AdapterConfig(
        dino=encoder.spec.name,
        dino_width=encoder.spec.width,
        layers=EncodeSettings(layers=layers).canonical(encoder.spec),
        geometry=geometry,
        width=settings.width,
        grid=settings.grid,
        context_grid=pooled,
        mechanisms=settings.mechanisms,
        positions=settings.positions,
        sites=_sites(settings, geometry) if crossing else (),
    )


def _sites(settings: AdapterSettings, geometry: FluxGeometry) -> tuple[str, ...]:
    """Block numbers as names, or every n-th block."""
    found: tuple[str, ...] = ()
    for kind, sites in (("double", settings.double_sites), ("single", settings.single_sites)):
        if isinstance(sites, tuple):
            found += tuple(f"{kind}.{number}" for number in sites)
            continue
        every = {} if sites is None else {f"{kind}_every": sites}
        found += tuple(site for site in spread_sites(geometry, **every) if site.startswith(kind))
    return found
