"""One call of a FLUX.1 transformer of diffusers, on unpacked latents."""

# diffusers exports its classes lazily:
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel

    from ...flux_patch.rows import DinoRow
    from .hooks import DinoFlux


@dataclass(frozen=True)
class Text:
    """FLUX's text: ``context`` [1, n, 4096] from T5 and ``pooled`` [1, 768] from CLIP; zeros say nothing."""

    context: Tensor
    pooled: Tensor

    @classmethod
    def empty(cls, *, context: int = 4096, pooled: int = 768) -> Text:
        return cls(torch.zeros(1, 8, context), torch.zeros(1, pooled))


@torch.no_grad()
def predict_velocity(
    transformer: FluxTransformer2DModel,
    x: Tensor,
    *,
    sigma: float,
    text: Text,
    guidance: float,
    dino: DinoFlux | None = None,
    rows: Sequence[DinoRow] = (),
    memo: dict | None = None,
) -> Tensor:
    """The velocity [N,16,h,w] at one noise level for latents ``x`` [N,16,h,w] with even sides.

    With ``dino``, the same transformer with an adapter, one of ``rows`` belongs to each row of ``x``.
    """
    count, _, height, width = x.shape
    dtype = transformer.dtype
    ids = torch.zeros(height // 2, width // 2, 3, device=x.device)
    ids[..., 1] = torch.arange(height // 2, device=x.device)[:, None]
    ids[..., 2] = torch.arange(width // 2, device=x.device)[None, :]
    inputs = {
        "hidden_states": rearrange(x, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2).to(dtype),
        "encoder_hidden_states": text.context.to(x.device, dtype).expand(count, -1, -1),
        "pooled_projections": text.pooled.to(x.device, dtype).expand(count, -1),
        "timestep": torch.full((count,), sigma, device=x.device),
        "guidance": torch.full((count,), guidance, device=x.device) if transformer.config["guidance_embeds"] else None,
        "img_ids": ids.flatten(0, 1),
    }
    if dino is None:
        txt_ids = torch.zeros(text.context.shape[1], 3, device=x.device)
        velocity = transformer(**inputs, txt_ids=txt_ids, return_dict=False)[0]
    else:
        size = (height // 2, width // 2)
        velocity = dino.velocity(**inputs, rows=rows, token_size=size, percent_to_sigma=_percent_to_sigma, memo=memo)
    return rearrange(velocity.to(x), "n (h w) (c p q) -> n c (h p) (w q)", h=height // 2, p=2, q=2)


def _percent_to_sigma(percent: float) -> float:
    """A flow model's noise level without shift."""
    return 1.0 - percent


def check_models(transformer: FluxTransformer2DModel, vae: AutoencoderKL | AutoencoderTiny) -> None:
    """Raise ValueError for a model or a pair that this path cannot run."""
    channels, latent = transformer.config["in_channels"], vae.config["latent_channels"]
    if channels != 64:
        raise ValueError(
            f"the FLUX model takes {channels} channels per token, plain FLUX.1 takes 64: "
            "use a dev, schnell, Krea or Kontext model (Fill, Canny and Depth models need further inputs)"
        )
    if latent != 16:
        raise ValueError(f"the VAE has {latent} latent channels, FLUX.1 needs 16: use FLUX.1's VAE or taef1")
