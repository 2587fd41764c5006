"""The FLUX.1 models that the command line and the trainer know by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """Where a model's files come from, and what upscaling with it is usually set to.

    repository: on the Hugging Face hub; empty: the models of this package's demo folder. dynamic_shift: whether the noise
    levels are shifted by the size of a tile. text_tokens: of T5, 0 where the model has no text encoders.
    """

    name: str
    repository: str
    steps: int
    tile: int
    overlap: int
    fidelity: float
    dynamic_shift: bool
    text_tokens: int


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [
        Variant("demo", "", 6, 256, 32, 1.0, False, 0),
        Variant("schnell", "black-forest-labs/FLUX.1-schnell", 4, 1024, 128, 0.0, False, 256),
        Variant("dev", "black-forest-labs/FLUX.1-dev", 20, 1024, 128, 0.0, True, 512),
    ]
}


def find_variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} must be one of {', '.join(VARIANTS)}")
    return VARIANTS[name]
