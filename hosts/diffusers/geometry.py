"""The geometry of a FLUX.1 checkpoint, without reading its weights."""

# diffusers exports its classes lazily:
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...files.weights import read_shapes
from ...flux_patch.geometry import FluxGeometry, geometry_of
from .layouts import Shapes, flux_config
from .sources import loading, local_path


def read_geometry(source: str | Path) -> FluxGeometry:
    """Of a .safetensors file (its header is read), a diffusers folder or a hub name (its config is). Raises ValueError."""
    from diffusers import FluxTransformer2DModel

    path = local_path(source)
    config: Any
    if path is not None and path.is_file():
        config = flux_config(_shapes(path), name=path.name)
    else:
        inner: dict[str, Any] = {"subfolder": "transformer"} if path is None or (path / "transformer").is_dir() else {}
        with loading(source):
            config = FluxTransformer2DModel.load_config(str(path or source), **inner)
    kind = config.get("_class_name")
    if kind != "FluxTransformer2DModel":
        raise ValueError(f"{source} holds a {kind}, needed is a FLUX.1 transformer: give its folder or file")
    with loading(source), torch.device("meta"):
        model = FluxTransformer2DModel.from_config(config)
    return geometry_of(model)


def _shapes(path: Path) -> Shapes:
    shapes, _ = read_shapes(path)
    prefix = "model.diffusion_model."
    inner = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    return inner or shapes
