"""True to the source: what the small picture shows must still be there in the large one."""

from __future__ import annotations

from torch import Tensor

from ..files.pixels import resize_signed


def back_project(result: Tensor, source: Tensor, *, fidelity: float) -> Tensor:
    """Add what the result, shrunk to the source's size, lacks of the source (Irani and Peleg 1991, one step).

    ``out = result + fidelity * up(source - down(result))``, in 0..1. fidelity: 0 leaves the result alone; 1 brings colour, light
    and all structure that the source resolves back to the source, and leaves finer detail as it is. A source with noise or
    JPEG blocks brings them back too. result: [B, C, H, W]; source: [B, C, h, w].
    """
    if not 0.0 <= fidelity <= 1.0:
        raise ValueError(f"fidelity {fidelity} must be between 0 (FLUX alone) and 1 (shrunk, it equals the source)")
    if fidelity == 0:
        return result
    height, width = result.shape[2:]
    small_height, small_width = source.shape[2:]
    missing = source - resize_signed(result, height=small_height, width=small_width)
    return (result + fidelity * resize_signed(missing, height=height, width=width)).clamp(0, 1)
