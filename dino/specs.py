"""The DINO encoders that DINOTile knows, as one literal table."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["dinov2", "dinov3"]
Mlp = Literal["gelu", "swiglu"]


@dataclass(frozen=True)
class DinoSpec:
    """What tells one DINO vision transformer from another: sizes in channels or blocks, sides in pixels."""

    name: str
    family: Family
    width: int
    depth: int
    heads: int
    patch: int
    registers: int
    mlp: Mlp
    mlp_width: int
    max_side: int  # default long side of the picture that is encoded
    train_side: int  # side of the learned position grid; 0 where positions are rotary (dinov3)

    @property
    def prefix(self) -> int:
        """Tokens that precede the patches: CLS and the registers."""
        return 1 + self.registers


def _dinov2(size: str, width: int, depth: int, heads: int, mlp: Mlp = "gelu") -> list[DinoSpec]:
    """A DINOv2 size, without and with registers (facebookresearch/dinov2, arXiv 2304.07193 and 2309.16588)."""
    mlp_width = 4 * width if mlp == "gelu" else 8 * width // 3  # SwiGLU keeps 2/3 of the usual width
    return [
        DinoSpec(f"dinov2-{size}{suffix}", "dinov2", width, depth, heads, 14, registers, mlp, mlp_width, 1036, 518)
        for suffix, registers in (("", 0), ("-reg", 4))
    ]


def _dinov3(size: str, width: int, depth: int, heads: int, mlp: Mlp = "gelu") -> DinoSpec:
    """A DINOv3 size (facebookresearch/dinov3, arXiv 2508.10104); its SwiGLU sizes start from 6 times the width."""
    return DinoSpec(f"dinov3-{size}", "dinov3", width, depth, heads, 16, 4, mlp, 4 * width, 1024, 0)


SPECS: dict[str, DinoSpec] = {
    spec.name: spec
    for spec in [
        *_dinov2("small", 384, 12, 6),
        *_dinov2("base", 768, 12, 12),
        *_dinov2("large", 1024, 24, 16),
        *_dinov2("giant", 1536, 40, 24, "swiglu"),
        _dinov3("small", 384, 12, 6),
        _dinov3("small-plus", 384, 12, 6, "swiglu"),
        _dinov3("base", 768, 12, 12),
        _dinov3("large", 1024, 24, 16),
        _dinov3("huge-plus", 1280, 32, 20, "swiglu"),
        DinoSpec("dinov2-demo", "dinov2", 128, 4, 2, 14, 0, "gelu", 512, 168, 168),
    ]
}
