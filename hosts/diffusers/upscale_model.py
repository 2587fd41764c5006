"""Upscale models (ESRGAN and its like) from files, and pictures enlarged by them as ComfyUI's own node does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...files.errors import BROKEN, printable, reason
from ...files.paths import expanded
from ...files.progress import Progress, counted
from ...files.weights import Shapes, check_floating, read_shapes, read_weights
from ..memory import Memory, in_less
from .compact import Compact

TILE, OVERLAP, LEAST_TILE = 512, 32, 128  # px of the source, as in ComfyUI's *Upscale Image (using Model)*
KIND = "RealESRGAN Compact"
LEARNED = ("weight", "bias")
NAME = re.compile(r"body\.(\d+)\.(?:weight|bias)")


@dataclass(frozen=True, eq=False)
class UpscaleModel:
    """name: of the file. kind: the architecture's usual name. call: [1, 3, h, w] in 0..1 -> scale times as large, in 0..1, on the
    device where ``module`` is, float32."""

    name: str
    kind: str
    scale: int
    module: nn.Module
    call: Callable[[Tensor], Tensor]

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {"file": self.name, "kind": self.kind, "scale": self.scale}


def check_upscale_model(source: str | Path) -> None:
    """ValueError where the file cannot be loaded, as far as its header tells."""
    path = expanded(source)
    if not path.is_file():
        raise ValueError(
            f"there is no upscale model file {printable(str(source), most=200)}: give a .safetensors file, or bicubic"
        )
    shapes, _ = read_shapes(path)
    if compact_sizes(shapes, name=path.name) is None and find_spec("spandrel") is None:
        raise ValueError(
            f"{path.name} is no {KIND}, and upscale models of other kinds are read by spandrel, not installed here: "
            'pip install "dinotile[upscale]", or give one of that kind'
        )


def load_upscale_model(source: str | Path) -> UpscaleModel:
    """From a .safetensors file, on the CPU in float32; ValueError where it holds no upscaler of colour pictures."""
    check_upscale_model(source)
    path = expanded(source)
    weights, _ = read_weights(path)
    # by name, as models with windows also hold whole numbers that stand for what they are
    check_floating({key: weights[key] for key in weights if key.endswith(LEARNED)}, name=path.name)
    sizes = compact_sizes({key: tuple(tensor.shape) for key, tensor in weights.items()}, name=path.name)
    if sizes is None:
        return _by_spandrel(weights, name=path.name)
    network = Compact(**sizes)
    _check_whole(network, weights, name=path.name)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    return UpscaleModel(path.name, KIND, network.scale, network, lambda pixels: network(pixels).clamp_(0, 1))


def compact_sizes(shapes: Shapes, *, name: str) -> dict[str, int] | None:
    """The arguments of ``Compact``, or None for another kind; ValueError for one of other pictures."""
    found = [NAME.fullmatch(key) for key in shapes]
    if None in found or not {"body.0.weight", "body.1.weight"} <= shapes.keys():
        return None
    first, last = (shapes.get(f"body.{index}.weight", ()) for index in (0, max(int(key[1]) for key in found if key)))
    if len(first) != 4 or len(last) != 4:
        return None
    scale = round((last[0] / 3) ** 0.5)
    if scale < 1 or first[1] != 3 or last[0] != 3 * scale**2:
        raise ValueError(
            f"{name} takes {first[1]} channels and gives {last[0]} per source pixel, needed are 3 and 3 x scale x scale: give an "
            "upscaler of colour pictures"
        )
    return {"width": first[0], "convs": (len({key[1] for key in found if key}) - 3) // 2, "scale": scale}


def _check_whole(network: nn.Module, weights: dict[str, Tensor], *, name: str) -> None:
    wanted, found = ({key: tuple(t.shape) for key, t in each.items()} for each in (network.state_dict(), weights))
    odd = next((key for key in sorted(wanted.keys() | found.keys()) if wanted.get(key) != found.get(key)), None)
    if odd is not None:
        raise ValueError(
            f"{name} holds {printable(odd)} of shape {found.get(odd)}, needed in a {KIND} is {wanted.get(odd)} (None: not "
            "there): give a whole one"
        )


def _by_spandrel(weights: dict[str, Tensor], *, name: str) -> UpscaleModel:
    from spandrel import (  # pyright: ignore[reportMissingImports]
        ImageModelDescriptor,
        ModelLoader,
        UnsupportedModelError,
    )

    some = ", ".join(map(printable, sorted(weights)[:3])) or "nothing"
    try:
        found = ModelLoader().load_from_state_dict(weights)
    except UnsupportedModelError as error:
        raise ValueError(
            f"{name} is no upscale model that spandrel knows (it holds {some}): give an ESRGAN-type upscaler"
        ) from error
    except BROKEN as error:
        raise ValueError(
            f"{name} is not a whole upscale model (spandrel stopped at {reason(error)}): give another file of it"
        ) from error
    kind = found.architecture.name
    if not isinstance(found, ImageModelDescriptor):
        raise ValueError(f"{name} ({kind}) does not make one picture of one: give an ESRGAN-type upscaler")
    if (found.input_channels, found.output_channels) != (3, 3):
        raise ValueError(
            f"{name} ({kind}) takes {found.input_channels} channels and gives {found.output_channels}, needed are 3 and 3: "
            "give an upscaler of colour pictures"
        )
    found.eval().model.requires_grad_(False)
    return UpscaleModel(name, kind, found.scale, found.model, found)


@torch.no_grad()
def enlarge(
    model: UpscaleModel,
    pixels: Tensor,
    *,
    device: torch.device,
    progress: Progress | None = None,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """[B, 3, H, W] in 0..1 -> [B, 3, scale * H, scale * W] on the CPU, in tiles that are halved where memory ends. check: asked
    before each tile, raises to stop."""
    tile = TILE

    def smaller() -> Iterator[str]:
        nonlocal tile
        while tile // 2 >= LEAST_TILE:
            tile //= 2
            yield f"tiles of {tile} px"

    def whole() -> Tensor:
        return _in_tiles(model, pixels.float(), tile, device=device, progress=progress, check=check)

    return in_less(whole, stage="enlarge", ways=smaller(), memory=Memory(device))


def _in_tiles(
    model: UpscaleModel,
    pixels: Tensor,
    tile: int,
    *,
    device: torch.device,
    progress: Progress | None,
    check: Callable[[], None],
) -> Tensor:
    """Tiles begin every ``tile`` - OVERLAP px, the last is what is left, and weights fall linearly over the overlap."""
    count, _, height, width = pixels.shape
    scale, feather = model.scale, model.scale * OVERLAP
    out = pixels.new_zeros(count, 3, scale * height, scale * width, device="cpu")
    total = pixels.new_zeros(1, 1, *out.shape[2:], device="cpu")
    spans = list(product(_spans(height, tile), _spans(width, tile)))
    for top, left in counted(spans, "enlarge", progress):
        check()
        larger_rows, larger_columns = (slice(scale * side.start, scale * side.stop) for side in (top, left))
        size = (larger_rows.stop - larger_rows.start, larger_columns.stop - larger_columns.start)
        weights = torch.outer(*(_fade(length, feather if len(spans) > 1 else 0) for length in size))
        total[..., larger_rows, larger_columns] += weights
        for index in range(count):
            seen = pixels[index : index + 1, :, top, left].to(device)
            out[index, :, larger_rows, larger_columns] += weights * model.call(seen)[0].cpu()
    return out.div_(total)


def _spans(side: int, tile: int) -> Iterator[slice]:
    starts = range(0, side - OVERLAP, tile - OVERLAP) if side > tile else [0]
    return (slice(start, min(side, start + tile)) for start in starts)


def _fade(length: int, feather: int) -> Tensor:
    """1 within, falling to both ends; 1 all over where it is too short for it."""
    if feather >= length or feather == 0:
        return torch.ones(length)
    rise = ((torch.arange(length) + 1) / feather).clamp(max=1)
    return rise * rise.flip(0)
