"""Features of pictures as few tokens, and back; and the tokens of one picture as the array that is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encode import EncodeSettings
from ..feature_map import FeatureMap, Scales, decoded_how, encoded_how
from ..specs import DinoSpec
from .checkpoint import LoadedFlat
from .config import FlatConfig


@dataclass(frozen=True, eq=False)
class CompressedFeatures:
    """What a FlatDINO made of a ``FeatureMap``, whose other fields stay as they were."""

    latents: Tensor  # [B, T, F]
    cls: Tensor  # [B, D]
    spec: str
    layers: str
    image_size: tuple[int, int]
    flat: str  # the FlatDINO's fingerprint
    crops: int = 1
    scales: Scales = "averaged"

    @property
    def how(self) -> str:
        return encoded_how(self.layers, self.crops, self.scales)


def settings_for(config: FlatConfig, spec: DinoSpec) -> EncodeSettings:
    """How this encoder makes the features that a FlatDINO compresses; ValueError where it is another one."""
    layers, crops, scales = decoded_how(config.how)
    width = spec.width * (2 if scales == "apart" else 1)
    config.check(dino=spec.name, how=config.how, width=width, grid=config.grid)
    return EncodeSettings(side=max(config.grid) * spec.patch // crops, layers=layers, crops=crops, scales=scales)


@torch.no_grad()
def compress(flat: LoadedFlat, features: FeatureMap, *, device: torch.device | str = "cpu") -> CompressedFeatures:
    """On ``device``, where the FlatDINO is; the result is on the CPU. ValueError for features that it is not made for."""
    height, width, channels = features.patches.shape[1:]
    flat.config.check(dino=features.spec, how=features.how, width=channels, grid=(height, width))
    latents = flat.module.encode(features.patches.to(device, torch.float32)).cpu()
    about = features.spec, features.layers, features.image_size
    return CompressedFeatures(latents, features.cls, *about, flat.fingerprint, features.crops, features.scales)


@torch.no_grad()
def restore(
    flat: LoadedFlat, compressed: CompressedFeatures, *, keep: int | None = None, device: torch.device | str = "cpu"
) -> FeatureMap:
    """Back, float32 on the CPU; keep: from so many tokens of a nested one. ValueError for another FlatDINO's."""
    check_maker(flat, compressed)
    patches = flat.module.decode(compressed.latents.to(device, torch.float32), keep=keep).cpu()
    about = compressed.spec, compressed.layers, compressed.image_size
    return FeatureMap(patches, compressed.cls, *about, compressed.crops, compressed.scales)


def check_maker(flat: LoadedFlat, compressed: CompressedFeatures) -> None:
    """ValueError where another FlatDINO compressed them."""
    if compressed.flat != flat.fingerprint:
        raise ValueError(
            f"the features were compressed by another FlatDINO ({compressed.flat}, not {flat.fingerprint}): give that one, or "
            "compress them with this one"
        )


def stored_size(config: FlatConfig) -> int:
    """Bytes of ``to_stored``'s array."""
    return _code_bytes(config) if config.levels else 2 * config.floats


def to_stored(flat: LoadedFlat, latents: Tensor) -> Tensor:
    """Latents [T, F] of one picture as they are kept: float16 [T, F]; quantised ones as one number, uint8 [n], its last byte
    first. ValueError for latents that half precision cannot hold, in whose place nothing is then written."""
    if not flat.config.levels:
        kept = latents.half()
        if not bool(kept.isfinite().all()):
            raise ValueError(
                f"latents reach {float(latents.abs().max()):g}, half precision holds up to 65504: train the FlatDINO with a KL "
                "weight or tanh"
            )
        return kept
    number, base = 0, math.prod(flat.config.levels)
    for code in reversed(flat.module.codes(latents[None].float())[0].tolist()):
        number = number * base + code
    return torch.tensor(list(number.to_bytes(_code_bytes(flat.config), "little")), dtype=torch.uint8)


def from_stored(flat: LoadedFlat, stored: Tensor) -> Tensor:
    """The latents [T, F], float32 on the CPU, of what ``to_stored`` gave; ValueError for anything else."""
    config = flat.config
    wanted = (_code_bytes(config),) if config.levels else (config.tokens, config.features)
    if tuple(stored.shape) != wanted:
        raise ValueError(f"compressed features have shape {list(stored.shape)}, needed is {list(wanted)}")
    if not config.levels:
        return stored.float()
    number, base = int.from_bytes(bytes(stored.to(torch.uint8).tolist()), "little"), math.prod(config.levels)
    codes = []
    for _ in range(config.tokens):
        number, code = divmod(number, base)
        codes.append(code)
    if number:
        raise ValueError("compressed features are of more codes than there are")
    device = next(flat.module.parameters()).device
    return flat.module.from_codes(torch.tensor([codes], device=device))[0].float().cpu()


def _code_bytes(config: FlatConfig) -> int:
    """For one number below levels ** tokens."""
    return ((math.prod(config.levels) ** config.tokens - 1).bit_length() + 7) // 8
