"""Masks whose values between 0 and 1 are a lower denoise."""

from __future__ import annotations

from torch import Tensor


def redrawn(mask: Tensor, sigma: float, *, start: float) -> Tensor:
    """What of a mask in 0..1 is redrawn at a noise level of a run that starts at ``start``: 1 there, else 0.

    Differential Diffusion (arXiv 2306.00950) for a flow: a place of value m joins in when the noise has fallen to ``m * start``,
    from the source with that noise, so that it is redrawn as by a run of m times the denoise. ComfyUI's node of that name
    compares timesteps, which are a flow's noise levels. At 0 the place stays.
    """
    return (mask >= sigma / start * (1 - 1e-6)).to(mask)  # masks are resized: 1 may have come out a little lower
