"""How far a FLUX hears the pooled text vector: `python -m benchmarks.semantics.pooled_vector [FOLDER]`.

The adapter's mechanism *vector* adds to that vector, so it can do no more than the vector does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import world
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.diffusers.load import load_transformer
from dinotile.hosts.host import Text

from ..figures import about, publish

NOISE_LEVEL = 0.9


@torch.no_grad()
def heard(flux: Any) -> dict[str, float]:
    """What naming a texture changes of the velocity, as a share of it, at NOISE_LEVEL in a tile of noise; the largest of units
    of the time embedding before their SiLU, which answers to nothing far below 0, at that level; and the largest weight of the
    vector's first layer, as a multiple of what it is born with."""
    embedder, kinds = flux.time_text_embed, [[kind] for kind in range(world.GROUND)]
    noise = torch.randn(len(kinds), 16, 16, 16, generator=torch.Generator().manual_seed(0))

    def velocity(*, words: bool, pooled: bool) -> Tensor:
        tokens = np.stack([world.caption(kind if words else []) for kind in kinds])
        vectors = np.stack([world.pooled_caption(kind if pooled else []) for kind in kinds])
        text = Text(torch.from_numpy(tokens), torch.from_numpy(vectors))
        return flux_velocity(flux, noise, torch.full((len(kinds),), NOISE_LEVEL), text=text, call=None)

    plain = velocity(words=False, pooled=False)
    apart = [float((velocity(words=words, pooled=not words) - plain).norm() / plain.norm()) for words in (True, False)]
    times = embedder.timestep_embedder.linear_1(embedder.time_proj(torch.tensor([1000 * NOISE_LEVEL])))
    first = embedder.text_embedder.linear_1.weight
    return {
        "changed by words": apart[0],
        "changed by the pooled vector": apart[1],
        "largest unit of the time": float(times.max()),
        "largest weight of the vector": float(first.abs().max()) * first.shape[1] ** 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=demo.FLUX)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    found = {name: round(value, 4) for name, value in heard(load_transformer(options.folder).eval()).items()}
    publish({"about": about(torch.device("cpu")), **found}, options.output)


if __name__ == "__main__":
    main()
