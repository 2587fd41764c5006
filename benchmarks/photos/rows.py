"""A row is who enlarges, what FLUX then does, and whether the source is put back at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

BICUBIC, COMPACT, OWN = "bicubic", "RealESRGAN Compact", "own upscaler"


@dataclass(frozen=True)
class Row:
    """flux: changes of the demo's settings, None where FLUX does nothing. back: back-projection of what was enlarged; FLUX's
    results have the demo's fidelity of 1."""

    name: str
    enlarged: str
    back: bool = False
    flux: Mapping[str, float] | None = None

    @property
    def baseline(self) -> bool:
        return self.flux is None


def rows(*, compact: bool) -> list[Row]:
    """compact: whether its weights are at hand."""
    plain = [BICUBIC, COMPACT, OWN] if compact else [BICUBIC, OWN]
    found = [
        Row(f"{name}{', back-projection' if back else ''}", name, back) for name in plain for back in (False, True)
    ]
    return [*found, *(row for name in (OWN, BICUBIC) for row in _drawn(name))]


def _drawn(enlarged: str) -> Iterator[Row]:
    """The demo from one enlargement; the very first is `dinotile upscale` as it comes."""
    for denoise in (0.3, 0.5):
        for said, changes in (("", {}), (", no DINO", {"dino_strength": 0.0}), (", anchor", {"anchor": 1.0})):
            name = f"demo, {enlarged}, denoise {denoise:g}{said}"
            yield Row(name, enlarged, flux={"denoise": denoise, **changes})
    lost = {"denoise": 0.3, "vae_detail": 0.0}
    yield Row(f"demo, {enlarged}, denoise 0.3, what the VAE loses not put back", enlarged, flux=lost)
