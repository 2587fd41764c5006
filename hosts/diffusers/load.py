"""FLUX transformers and VAEs from the hub, from diffusers folders, and from single .safetensors files; or a geometry alone."""

from __future__ import annotations

import inspect
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ...files.errors import BROKEN, printable, reason
from ...files.weights import check_floating, read_shapes, read_weights
from ...flux_patch.geometry import FluxGeometry, geometry_of
from .configs import check_config, check_folder, check_quantised, other_model, read_config
from .layouts import controlnet_config, flux_config, kl_config, tiny_weights, unscaled, without_statistics
from .sources import hub_component, loading, local_path
from .taef2 import Taef2, blank, both_halves, is_taef2

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxControlNetModel, FluxTransformer2DModel

Held = TypeVar("Held")  # a tensor or its shape


def load_transformer(source: str | Path, *, dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """A FLUX.1 or FLUX.2 transformer from a hub name, a diffusers folder (the pipeline's or its own) or a .safetensors file.

    Files may be in diffusers' key layout, or in Black Forest Labs', of FLUX.1 at its own width; 8-bit floats, also with
    ComfyUI's scales, become ``dtype``. Raises ValueError.
    """
    path, kinds = local_path(source), _transformers()
    if path is None or path.is_dir():
        folder = _component(source, path, "transformer", kinds=tuple(kinds))
        return _pretrained(source, folder, kinds, dtype=dtype)
    weights = _unwrapped(_read(path, dtype=dtype), "model.diffusion_model.")
    return _single_file(kinds, weights, flux_config, name=path.name, dtype=dtype)


def _transformers() -> dict[str, Any]:
    from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

    return {kind.__name__: kind for kind in (FluxTransformer2DModel, Flux2Transformer2DModel)}


def load_controlnet(source: str | Path, *, dtype: torch.dtype = torch.float32) -> FluxControlNetModel:
    """A ControlNet of FLUX.1 from a hub name, a diffusers folder or a .safetensors file in diffusers' layout.

    Raises ValueError.
    """
    from diffusers import FluxControlNetModel

    path, kinds = local_path(source), {"FluxControlNetModel": FluxControlNetModel}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`FluxPosEmbed` is deprecated")  # diffusers uses its own old name
        if path is None:
            return _pretrained(source, {"pretrained_model_name_or_path": str(source)}, kinds, dtype=dtype)
        if path.is_dir():
            folder = _component(source, path, "controlnet", kinds=tuple(kinds))
            return _pretrained(source, folder, kinds, dtype=dtype)
        weights = _read(path, dtype=dtype)
        config = controlnet_config({key: tuple(tensor.shape) for key, tensor in weights.items()}, name=path.name)
        with torch.device("meta"):
            controlnet = FluxControlNetModel.from_config(config)
        return _filled(controlnet, weights, kind="ControlNet", name=path.name, dtype=dtype)


def load_vae(source: str | Path, *, dtype: torch.dtype = torch.float32) -> AutoencoderKL | AutoencoderTiny | Taef2:
    """A 16-channel VAE, or FLUX.2's, from a hub name, a diffusers folder (the pipeline's or its own) or a .safetensors file.

    Files may be FLUX.1's ``ae.safetensors``, FLUX.2's VAE, a TAESD with both halves, any of them in diffusers' key layout, or a
    TAEF2, also one half of it beside the other (``taef2_encoder.safetensors``, ``taef2_decoder.safetensors``). A
    16-channel file does not tell the scale of its latents: FLUX.1's is assumed. Raises ValueError.
    """
    from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny

    path = local_path(source)
    if path is None or path.is_dir():
        folder = _component(source, path, "vae", kinds=("Autoencoder",))
        kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny, AutoencoderKLFlux2)}
        return _pretrained(source, folder, kinds, dtype=dtype)
    weights = _unwrapped(_unwrapped(_read(path, dtype=dtype), "vae."), "first_stage_model.")
    if is_taef2(weights):
        weights = both_halves(path, weights, read=partial(_read, dtype=dtype))
        return _filled(blank(), weights, kind="TAEF2", name=path.name, dtype=dtype)
    if "taesd_decoder.1.weight" in weights or "decoder.layers.0.weight" in weights:
        return _tiny(weights, name=path.name, dtype=dtype)
    weights, statistics = without_statistics(weights)
    vae = _single_file({"AutoencoderKL": AutoencoderKL}, weights, kl_config, name=path.name, dtype=dtype)
    return _with_statistics(vae, statistics, name=path.name, dtype=dtype) if statistics else vae


def _with_statistics(vae: AutoencoderKL, statistics: dict[str, Tensor], *, name: str, dtype: torch.dtype) -> Any:
    """FLUX.2's VAE of the layers of another and its own statistics of latents."""
    from diffusers import AutoencoderKLFlux2

    names = inspect.signature(AutoencoderKLFlux2).parameters.keys() & vae.config.keys()
    with torch.device("meta"):
        whole_vae = AutoencoderKLFlux2(**{key: vae.config[key] for key in names})
    counted = {"bn.num_batches_tracked": torch.tensor(0)}  # of training, which nothing reads
    means = {key: tensor for key, tensor in statistics.items() if key not in counted}
    try:
        filled = vae.state_dict() | _floating(means, dtype, name=name) | counted
        whole_vae.load_state_dict(filled, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{name} is not a whole FLUX.2 VAE ({reason(error)}): choose another file") from error
    return whole_vae


def read_geometry(source: str | Path) -> FluxGeometry:
    """Of a .safetensors file (its header is read), a diffusers folder or a hub name (its config is). Raises ValueError."""
    kinds = _transformers()
    usual = next(iter(kinds.values()))
    path = local_path(source)
    config: Any
    if path is not None and path.is_file():
        shapes, _ = read_shapes(path)
        config = flux_config(_unwrapped(shapes, "model.diffusion_model."), name=path.name)
    else:
        inner: dict[str, Any] = {"subfolder": "transformer"} if path is None or (path / "transformer").is_dir() else {}
        with loading(source):
            config = usual.load_config(str(path or source), **inner)
        check_config(config, name=str(source))
    kind = config.get("_class_name")
    if kind not in kinds:
        raise other_model(source, kind)
    with loading(source), torch.device("meta"):
        model = kinds[kind].from_config(config)
    return geometry_of(model)


def _component(source: str | Path, path: Path | None, name: str, *, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of from_pretrained for one model of a pipeline, or for a folder that is that model. kinds: parts of the names of
    its classes."""
    if path is None:
        return hub_component(str(source), name, kinds=kinds)
    for folder in (path / name, path):
        said = read_config(folder).get("_class_name") if (folder / "config.json").is_file() else ""
        found = said if isinstance(said, str) else ""
        if found and name == "transformer" and found not in kinds:
            raise other_model(path, found)
        if any(kind in found for kind in kinds):
            check_folder(folder, floating=True)
            return {"pretrained_model_name_or_path": str(folder)}
    raise ValueError(
        f"folder {path} holds no {' or '.join(kinds)} (config.json in it or in {name}/): give a diffusers folder"
    )


def _pretrained(source: str | Path, folder: dict[str, Any], kinds: dict[str, Any], *, dtype: torch.dtype) -> Any:
    """The model that from_pretrained makes, of the kind that its config names, else of the first."""
    usual = next(iter(kinds.values()))
    with loading(source):
        config = usual.load_config(**folder)
    check_config(config, name=str(source))
    kind = config.get("_class_name")
    if kind not in kinds and "Transformer" in str(kind):  # before its weights are downloaded
        raise other_model(source, kind)
    check_quantised(config, name=str(source))
    with loading(source):
        model, found = kinds.get(kind, usual).from_pretrained(
            dtype=dtype, use_safetensors=True, output_loading_info=True, **folder
        )
    parts = tuple(f"{name}." for name, _ in model.named_children())
    extra = sorted(name for name in found["unexpected_keys"] if name.startswith(parts))
    if extra:
        raise ValueError(
            f"{source} does not hold a whole model (its config.json has no place for {printable(extra[0])} and "
            f"{len(extra) - 1} more tensors): download it again"
        )
    return _complete(model, name=str(source))


def _read(path: Path, *, dtype: torch.dtype) -> dict[str, Tensor]:
    if path.suffix == ".gguf":
        raise ValueError(f"{path.name} is a GGUF file, which is not read here: give a .safetensors file")
    weights, _ = read_weights(path)
    return unscaled(weights, name=path.name, dtype=dtype)


def _floating(weights: dict[str, Tensor], dtype: torch.dtype, *, name: str) -> dict[str, Tensor]:
    check_floating(weights, name=name)
    return {key: tensor.to(dtype) for key, tensor in weights.items()}


def _unwrapped(named: dict[str, Held], prefix: str) -> dict[str, Held]:
    """What lies under ``prefix``, without it (all-in-one checkpoints), or all where nothing does."""
    inner = {name.removeprefix(prefix): held for name, held in named.items() if name.startswith(prefix)}
    return inner or named


def _single_file(
    kinds: dict[str, Any],
    weights: dict[str, Tensor],
    config_of: Callable[..., dict[str, Any]],
    *,
    name: str,
    dtype: torch.dtype,
) -> Any:
    """diffusers' own converter, with a config from this file's shapes, which names one of the kinds, instead of one from the
    network."""
    config = config_of({key: tuple(tensor.shape) for key, tensor in weights.items()}, name=name)
    weights = _floating(weights, dtype, name=name)
    if find_spec("accelerate") is None:  # without it diffusers fills what a file lacks with random numbers
        raise ValueError(f"reading the single file {name} needs accelerate: pip install accelerate, or give a folder")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            built = kinds[config["_class_name"]].from_single_file(weights, config=folder, dtype=dtype)
        except NotImplementedError as error:  # of torch, which cannot move a tensor without data
            raise ValueError(f"{name} lacks tensors of the model: download it again") from error
        except BROKEN as error:
            said = f"{type(error).__name__} {reason(error)}"
            raise ValueError(f"{name} does not hold a whole model ({said}): download it again") from error
    return _complete(built, name=name)


def _complete(model: Any, *, name: str) -> Any:
    """The model, or ValueError where its files left tensors without data."""
    missing = [key for key, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise ValueError(
            f"{name} does not hold a whole model: it lacks {printable(missing[0])} and {len(missing) - 1} more tensors, "
            "download it again"
        )
    return model


def _tiny(weights: dict[str, Tensor], *, name: str, dtype: torch.dtype) -> AutoencoderTiny:
    from diffusers import AutoencoderTiny

    weights, config = tiny_weights(weights, name=name)
    with torch.device("meta"):
        vae = AutoencoderTiny(**config)
    return _filled(vae, weights, kind="TAESD with encoder and decoder", name=name, dtype=dtype)


def _filled(model: Any, weights: dict[str, Tensor], *, kind: str, name: str, dtype: torch.dtype) -> Any:
    """A model without data, with a file's."""
    try:
        model.load_state_dict(_floating(weights, dtype, name=name), assign=True)
    except RuntimeError as error:
        raise ValueError(f"{name} is not a whole {kind} ({reason(error)}): choose another file") from error
    return model
