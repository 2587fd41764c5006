"""The range of every number of ``UpscaleSettings``: what settings refuse, the command's help tells, and the node offers."""

from __future__ import annotations

from dataclasses import dataclass

from ..flux_patch.families import FLUX1, MOST_REDUX
from ..tiling.plan import LARGEST, SMALLEST, Fit


@dataclass(frozen=True)
class Limit:
    """least, most: both are allowed. use: for people, what is usual."""

    least: float
    most: float
    use: str

    def __str__(self) -> str:
        most = "2^64 - 1" if self.most == 2**64 - 1 else f"{self.most:g}"
        return f"{self.least:g} to {most}"

    def check(self, name: str, value: float) -> None:
        """ValueError for a value out of range, and for NaN."""
        if not self.least <= value <= self.most:
            raise ValueError(f"{name.replace('_', ' ')} {value} must be from {self}: {self.use}")


LIMITS: dict[str, Limit] = {
    "scale": Limit(SMALLEST, LARGEST, "2 doubles both sides, usually 2 to 4"),
    "denoise": Limit(0, 1, "usually 0.2 to 0.5"),
    "steps": Limit(1, 1000, "usually 4 for schnell and 20 for dev"),
    "tile": Limit(FLUX1.token, 4096, "in px, usually 1024"),
    "overlap": Limit(0, 2048, "in px, usually 128"),
    "guidance": Limit(0, 100, "usually 2 to 4"),
    "cfg": Limit(1, 30, "1 is off, usually 1.5 to 3"),
    "seed": Limit(0, 2**64 - 1, "any whole number in this range"),
    "dino_strength": Limit(0, 2, "0 is off, 1 is as trained"),
    "dino_guidance": Limit(1, 30, "1 is off, usually 1.5 to 3"),
    "fidelity": Limit(0, 1, "0 is FLUX alone, 1 keeps all that the source resolves"),
    "tile_batch": Limit(0, 1024, "0 chooses by the device"),
    "anchor": Limit(0, 1, "0 is off, 1 all of the source"),
    "guide": Limit(0, 10, "0 is off, usually 1 to 2"),
    "guide_from": Limit(0, 1, "a share of the first noise level, usually 1"),
    "guide_to": Limit(0, 1, "a share of the first noise level, usually 0.05"),
    "guide_every": Limit(1, 1000, "1 is each step, 2 every second"),
    "adaptive": Limit(0, 1, "0 is off, usually 0.5 to 1"),
    "redux_strength": Limit(0, 2, "0 is off, 1 as Redux was trained"),
    "redux_grid": Limit(1, MOST_REDUX, "usually 9 to 27 tokens per side of a tile"),
    "controlnet_strength": Limit(0, 2, "0 is off, usually 0.4 to 0.8"),
    "retry": Limit(0, 1, "0 is off, usually 0.8 to 0.9"),
    "vae_detail": Limit(0, 1, "0 is off, 1 all that the VAE loses"),
}


def check_tiles(tile: int, overlap: int, fit: Fit = "balanced") -> None:
    """ValueError for tiles that cover no picture, whatever its size."""
    for name, value in (("tile", tile), ("overlap", overlap)):
        LIMITS[name].check(name, value)
    FLUX1.plan_tiles(2 * tile, 2 * tile, tile=tile, overlap=overlap, fit=fit)
