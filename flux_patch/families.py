"""The families of models, as one literal table: sizes that a family shares, and the names of its parts in both hosts.

Nobody else writes these numbers. What differs between the models of a family is read from each (``geometry.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..tiling.plan import Fit, TilePlan
from .latents import Latents

Mechanism = Literal["cross_attention", "context", "vector"]
MECHANISMS: tuple[Mechanism, ...] = ("cross_attention", "context", "vector")
MOST_REDUX = 54  # text tokens of FLUX.1 Redux per side of a tile: its 27, in a 2 x 2 grid of crops


@dataclass(frozen=True)
class BlockKind:
    """Transformer blocks of one kind, and the attribute that lists them in each host's model. replaced: whether ComfyUI's lets
    a patch stand in the place of one."""

    name: str
    comfy: str
    diffusers: str
    replaced: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelFamily(Latents):
    """The latents of a family of models, and what else they share.

    members: for people. axes: rotary channels per head for each coordinate of a position, with base ``theta``.
    text_widths: of a text token, by size of model. pooled_width: of the pooled text vector, None where there is none.
    latent_scale, latent_shift: model latents = (the VAE's - shift) * scale.
    text_length: tokens that a text has at least, a shorter one stands behind zeros; 0: any. rope_options: whether ComfyUI's
    act on its positions.
    """

    name: str
    title: str
    members: str
    axes: tuple[int, ...]
    theta: int
    text_widths: tuple[int, ...]
    blocks: tuple[BlockKind, ...]
    mechanisms: tuple[Mechanism, ...]
    pooled_width: int | None = None
    latent_scale: float = 1.0
    latent_shift: float = 0.0
    text_length: int = 0
    rope_options: bool = True

    @property
    def token_channels(self) -> int:
        """Channels of a token: the latent channels of its cells."""
        return self.channels * self.patch**2

    @property
    def head_width(self) -> int:
        return sum(self.axes)

    def check_channels(self, found: int) -> None:
        """ValueError for a model that takes other channels per token than latents have, as those that are shown more do."""
        if found != self.token_channels:
            plain = "use a dev, schnell, Krea or Kontext model (Fill, Canny and Depth models need further inputs)"
            raise ValueError(
                f"the model takes {found} channels per token, plain {self.title} takes {self.token_channels}: "
                + (plain if self is FLUX1 else f"use {self.members}")
            )


_BLOCKS = (
    BlockKind("double", comfy="double_blocks", diffusers="transformer_blocks"),
    BlockKind("single", comfy="single_blocks", diffusers="single_transformer_blocks"),
)

FLUX1 = ModelFamily(  # black-forest-labs/flux, model.py and util.py
    name="flux1",
    title="FLUX.1",
    members="FLUX.1 (dev, schnell, Krea, Kontext, Fill)",
    channels=16,
    cell=8,
    patch=2,
    axes=(16, 56, 56),
    theta=10_000,
    text_widths=(4096,),
    pooled_width=768,
    latent_scale=0.3611,
    latent_shift=0.1159,
    blocks=_BLOCKS,
    mechanisms=MECHANISMS,
)
FLUX2 = ModelFamily(  # black-forest-labs/flux2, model.py; its VAE normalises latents itself, with batch statistics
    name="flux2",
    title="FLUX.2",
    members="FLUX.2 (dev, klein)",
    channels=128,
    cell=16,
    patch=1,
    axes=(32, 32, 32, 32),
    theta=2_000,
    text_widths=(7680, 12288, 15360),
    blocks=_BLOCKS,
    mechanisms=("cross_attention", "context"),
    text_length=512,
)
CHROMA = replace(  # FLUX.1's blocks with modulations from a network of their own, and nothing of a pooled text
    FLUX1,
    name="chroma",
    title="Chroma",
    members="Chroma",
    pooled_width=None,
    mechanisms=("cross_attention", "context"),
    rope_options=False,
)
KREA2 = ModelFamily(  # one kind of blocks on [text | image]; its text goes through layers that would mix context tokens into it;
    # its latents are normalised channel by channel
    name="krea2",
    title="Krea 2",
    members="Krea 2",
    channels=16,
    cell=8,
    patch=2,
    framed=True,
    axes=(32, 48, 48),
    theta=1_000,
    text_widths=(30720,),
    blocks=(BlockKind("single", comfy="blocks", diffusers="transformer_blocks", replaced=False),),
    mechanisms=("cross_attention",),
    rope_options=False,
)
FAMILIES: dict[str, ModelFamily] = {family.name: family for family in (FLUX1, FLUX2, CHROMA, KREA2)}


def supported() -> str:
    """The members of all families."""
    *found, last = (family.members for family in FAMILIES.values())
    return f"{', '.join(found)} and {last}"


def plan_tiles(
    height: int,
    width: int,
    *,
    tile: int = 1024,
    overlap: int = 128,
    family: ModelFamily = FLUX1,
    fit: Fit = "balanced",
) -> TilePlan:
    """Equal, evenly spread tiles of a canvas in px for a family of models; ValueError for sizes that allow no plan. fit:
    "balanced", near ``tile`` and so that the fewest pixels are sampled, or "exact", of that size."""
    return family.plan_tiles(height, width, tile=tile, overlap=overlap, fit=fit)
