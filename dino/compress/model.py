"""FlatDINO (arXiv 2602.04873): the patches of a picture in a few tokens without places, and back."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from .bottleneck import Latents, Quantised, bottleneck_of
from .config import SIZES, FlatConfig
from .vit import Vit

LEARNED = ("disposable", "registers", "positions", "places", "missing")  # parameters that are tokens themselves
APART = 0.5  # their deviation at first: of patches of unit scale, smaller ones take long to tell themselves apart


class Encoder(nn.Module):
    """Learned registers go with the patches through a transformer, and come out as raw latents.

    No positions are added: DINO's patches know where they are.
    """

    def __init__(self, config: FlatConfig, outputs: int) -> None:
        super().__init__()
        size = SIZES[config.encoder]
        self.nested = config.nested
        self.own = slice(config.encoder_registers, config.encoder_registers + config.tokens)  # what becomes latents
        self.disposable = _tokens(config.encoder_registers, size.width)
        self.registers = nn.Parameter(torch.empty(config.tokens, size.width))
        self.embed = nn.Linear(config.width, size.width, bias=False) if config.width != size.width else nn.Identity()
        self.vit = Vit(size, half=config.half)
        self.head = nn.Linear(size.width, outputs, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """patches: [B, N, D] -> [B, T, outputs]."""
        x = self.joined(patches)
        return self.head(self.vit(x, self.mask(x))[:, self.own])

    def joined(self, patches: Tensor) -> Tensor:
        """All that the transformer sees: [B, disposable + T + N, C]."""
        return _joined(self.disposable, self.registers, self.embed(patches))

    def mask(self, x: Tensor) -> Tensor | None:
        """[N, N], or None where all see all. Of nested tokens a register sees those before it and itself, and all else."""
        if not self.nested:
            return None
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
        mask[self.own, self.own] = mask[self.own, self.own].tril()
        return mask


class Decoder(nn.Module):
    """Latents with their learned positions go with a learned token for each place through a transformer to the patches."""

    def __init__(self, config: FlatConfig) -> None:
        super().__init__()
        size = SIZES[config.decoder]
        self.grid, self.layers = tuple(config.grid), len(config.layers)
        self.disposable = _tokens(config.decoder_registers, size.width)
        places = config.grid[0] * config.grid[1]
        self.own = slice(config.decoder_registers, config.decoder_registers + places)  # what becomes patches
        self.places = nn.Parameter(torch.empty(places, size.width))
        self.positions = nn.Parameter(torch.empty(config.tokens, size.width))
        self.missing = nn.Parameter(torch.empty(1, size.width)) if config.nested else None
        self.embed = nn.Linear(config.features, size.width, bias=False)
        self.vit = Vit(size, half=config.half)
        self.head = nn.Linear(size.width, self.layers * config.width)

    def forward(self, latents: Tensor, keep: Tensor | None = None) -> Tensor:
        """latents: [B, T, F]. keep: [B], how many of a row's tokens are given; the others are a learned one.

        Returns [B, layers, h, w, D].
        """
        x = self.embed(latents)
        if keep is not None:
            assert self.missing is not None
            given = torch.arange(x.shape[1], device=x.device) < keep[:, None]  # [B, T]
            x = torch.where(given[..., None], x, self.missing.to(x.dtype))
        out = self.vit(_joined(self.disposable, self.places, x + self.positions))[:, self.own]
        return rearrange(self.head(out), "b (h w) (l d) -> b l h w d", h=self.grid[0], l=self.layers)


class FlatEncoder(nn.Module):
    """Encoder and bottleneck: all that makes latents. Tensors on the device of its weights."""

    def __init__(self, config: FlatConfig) -> None:
        super().__init__()
        self.config = config
        self.bottleneck = bottleneck_of(config)
        self.encoder = Encoder(config, self.bottleneck.inputs)

    def latents(self, patches: Tensor, noise: Tensor | None = None) -> Latents:
        """patches: [B, h, w, D] -> latents [B, T, F]. noise: for a VAE, see ``Gaussian``; None for its means."""
        return self.bottleneck(self.encoder(patches.flatten(1, 2)), noise)

    def encode(self, patches: Tensor) -> Tensor:
        """[B, h, w, D] -> [B, T, F], the same every time."""
        return self.latents(patches).values


class FlatDino(FlatEncoder):
    """The decoder too."""

    def __init__(self, config: FlatConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)

    def decode(self, latents: Tensor, *, keep: int | None = None) -> Tensor:
        """[B, T, F] -> [B, h, w, D]. keep: restore from so many tokens, the first ones; fewer than all are for a nested
        FlatDINO.

        ValueError for latents of another shape, and for a ``keep`` that cannot be.
        """
        return self.decode_layers(latents, keep=keep)[:, 0]

    def decode_layers(self, latents: Tensor, *, keep: int | None = None) -> Tensor:
        """As ``decode``, with the inner layer behind, if there is one: [B, layers, h, w, D]."""
        wanted = self.config.tokens, self.config.features
        if tuple(latents.shape[1:]) != wanted:
            raise ValueError(
                f"latents have shape {list(latents.shape)}, needed is [B, {wanted[0]}, {wanted[1]}]: give those of this FlatDINO"
            )
        if keep in (None, wanted[0]):
            return self.decoder(latents)
        if not self.config.nested:
            raise ValueError(
                f"keep {keep} needs a FlatDINO with nested tokens (-nd), and this one is not: give all tokens"
            )
        if not 1 <= keep <= wanted[0]:
            raise ValueError(f"keep is {keep}, it must be from 1 to the {wanted[0]} tokens that there are")
        return self.decoder(latents, torch.full((len(latents),), keep, device=latents.device))

    def codes(self, latents: Tensor) -> Tensor:
        """Quantised latents [B, T, F] as numbers [B, T] from 0; ValueError for a VAE."""
        return self._quantised().codes(latents)

    def from_codes(self, codes: Tensor) -> Tensor:
        """The latents [B, T, F] of ``codes`` [B, T]."""
        return self._quantised().values(codes)

    def _quantised(self) -> Quantised:
        if not isinstance(self.bottleneck, Quantised):
            raise ValueError(
                "this FlatDINO has continuous latents, no codes: train one with levels, such as 32-bb-8555"
            )
        return self.bottleneck


def _tokens(count: int, width: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(count, width)) if count else None


def _joined(disposable: Tensor | None, own: Tensor, x: Tensor) -> Tensor:
    """Learned tokens before those of rows, [B, N, C]; disposable ones first."""
    learned = own if disposable is None else torch.cat([disposable, own])
    return torch.cat([learned.to(x.dtype).expand(len(x), -1, -1), x], dim=1)


def new_flat(config: FlatConfig, *, seed: int = 0) -> FlatDino:
    """Fresh weights, float32 on the CPU: the same for a seed on any machine."""
    model, generator = FlatDino(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial(name, parameter.shape, generator))
    return model


def initial(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name.rpartition(".")[2] in LEARNED:
        return torch.randn(shape, generator=generator) * APART
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    return torch.randn(shape, generator=generator) * (2 / (shape[0] + shape[1])) ** 0.5  # Glorot
