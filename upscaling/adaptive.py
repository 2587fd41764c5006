"""How much is redrawn where: less on flat ground, writing and small objects than on texture."""

from __future__ import annotations

from torch import Tensor

from ..dino.detail import detail_mask
from ..dino.encode import DinoEncoder, EncodeSettings
from ..hosts.finite import finite
from ..hosts.host import Host


def adaptive_mask(host: Host, encoder: DinoEncoder, pixels: Tensor, *, amount: float) -> Tensor:
    """[B, 1, h, w] in 0..1 of pictures [B, 3, H, W]: ``1 - amount * (1 - detail_mask)``, of its usual rule. 1 is redrawn as
    denoise says, less as by that share of it (see ``redrawn``).

    It looks at what the adapter of ``host`` looks at, so that nothing is encoded twice.
    """
    settings = EncodeSettings() if host.adapter is None else host.adapter.config.encode
    detail = detail_mask(encoder.encode(pixels, settings=settings), pixels)
    return 1 - amount * (1 - finite(detail, "dino"))[:, None]
