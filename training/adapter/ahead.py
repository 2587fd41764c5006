"""What a training refuses before anything large is loaded, and a dry run refuses too."""

from __future__ import annotations

from pathlib import Path

import torch

from ...dino.encode import EncodeSettings
from ...dino.layouts import detect_spec
from ...files.weights import read_shapes, weight_files
from ...files.writing import check_folder
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.families import FAMILIES
from ...hosts.diffusers.flux import check_vae
from ...hosts.diffusers.load import load_vae, read_geometry
from ...hosts.diffusers.sources import Source, dino_path, model_files
from ..core.output import SAMPLES, check_output
from ..data.sources import check_apart, find_paths
from .config import ModelSettings, TrainConfig
from .start import check_start, config_of, flat_of
from .task import FILE


def check_paths(config: TrainConfig, *, resume: bool) -> Path | None:
    """The checkpoint that the run would go on from; ValueError where the data is not there, a folder cannot be written, or
    what is written would be data."""
    for name, value in (("data.path", config.data.path), ("output.folder", config.output.folder)):
        if not value:
            raise ValueError(f"{name} is empty: say where it is")
    folder = Path(config.output.folder)
    find_paths(config.data.path)
    if config.output.sample_every:
        advice = "choose another output.folder, or set output.sample_every 0"
        check_apart(folder / SAMPLES, config.data.path, advice=advice)
    if config.data.encoded:
        check_folder(Path(config.data.encoded))
    return check_output(folder / FILE, resume=resume)


def check_models(config: TrainConfig) -> tuple[DinoAdapter, int]:
    """The adapter, without data, and how many numbers DINO has; ValueError for models that do not go together, and for a warm
    start that does not fit.

    Of FLUX, DINO and the warm start the headers are read; the VAE and a FlatDINO are small, and read whole.
    """
    model = config.model
    flux_file, vae_file, dino_file = files_of(model)
    geometry = read_geometry(flux_file)
    check_vae(FAMILIES[geometry.family], load_vae(vae_file))
    paths = weight_files(dino_path(dino_file))
    shapes = {name: shape for path in paths for name, shape in read_shapes(path)[0].items()}
    encode = EncodeSettings(layers=model.layers, crops=model.crops, scales=model.scales)
    made_for = config_of(config.adapter, detect_spec(shapes), geometry, encode=encode, flat=flat_of(config.adapter))
    with torch.device("meta"):
        adapter = DinoAdapter(made_for)
    if config.adapter.warm_start:
        check_start(adapter, config.adapter.warm_start)
    return adapter, sum(torch.Size(shape).numel() for shape in shapes.values())


def files_of(model: ModelSettings) -> tuple[Source, Source, Source]:
    """Of FLUX, the VAE and DINO; ValueError where no DINO is named and the variant has none."""
    files = model_files(model.variant, model_path=model.model_path, vae_path=model.vae_path, dino=model.dino)
    if files.dino is None:
        raise ValueError(f"model.dino is empty, variant {model.variant} needs a DINO model: give a file or a hub name")
    return files.flux, files.vae, files.dino
