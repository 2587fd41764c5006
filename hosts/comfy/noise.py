"""Noise that belongs to its place, as a NOISE of the host."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...tiling.noise import canvas_noise
from .latents import check_canvas, flat, like


@dataclass(frozen=True)
class PlacedNoise:
    """seed: also of what samplers add in their steps."""

    seed: int

    def generate_noise(self, input_latent: dict) -> Tensor:
        """Like the latents [B, C, h, w], or [B, C, 1, h, w], on the CPU: all of a batch have the same. ValueError for videos."""
        latents = input_latent["samples"]
        check_canvas(latents)
        noise = canvas_noise(flat(latents).shape, seed=self.seed)
        return like(noise, latents).to(latents.dtype)
