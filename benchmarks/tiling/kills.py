"""A sequential run that is killed again and again: `python -m benchmarks.tiling.kills --kills 20`.

Each attempt is a process of its own, which is killed (signal 9) at a random moment, in the middle of a tile or of a file; then
the same is started again. Told are the tiles that were begun more than once, whether the picture is that of a run without kills,
bit for bit, and that nothing but whole tiles is left. --tiles: along a side of the picture.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile.benchmarks.figures import about, publish
from dinotile.benchmarks.tiling.small import clouds, small_upscaler
from dinotile.tiling.store import TileStore
from dinotile.upscaling.rows import Pixels
from dinotile.upscaling.settings import UpscaleSettings

TILE, OVERLAP = 64, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=8, help="along a side")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that was forked has no threads but its own
    figures = killed(tiles=options.tiles, kills=options.kills, seed=options.seed)
    publish({"about": about(torch.device("cpu")), "figures": figures}, options.json)


class Told(TileStore):
    """A store that writes down which tiles it did not have, when it was asked for them."""

    def __init__(self, folder: Path, job: str, *, log: Path) -> None:
        super().__init__(folder, job)
        self.log = log

    def get(self, tile: int) -> tuple[Tensor, int] | None:
        found = super().get(tile)
        if found is None:
            with self.log.open("a") as file:
                file.write(f"{tile}\n")
        return found


def killed(*, tiles: int, kills: int, seed: int) -> dict[str, Any]:
    side = OVERLAP + tiles * (TILE - OVERLAP)
    settings = UpscaleSettings(
        scale=2, tile=TILE, overlap=OVERLAP, tile_fit="exact", steps=2, denoise=0.4, vae_detail=1
    )
    upscaler, pixels, chance = small_upscaler(), clouds(side // 2, side // 2), random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder, log = Path(place) / "store", Path(place) / "log"

        def run(open_store: Callable[[str], TileStore] | None) -> tuple[Tensor, dict[str, Any]]:
            rows: list[Tensor] = []
            report = upscaler.upscale_tiles(Pixels(pixels), settings, write=rows.append, open_store=open_store)
            return torch.cat(rows, dim=2), report

        start = time.perf_counter()
        whole, report = run(None)
        seconds, count = time.perf_counter() - start, report["tiles"]["count"]
        log.touch()
        died = 0
        for attempt in range(kills):
            process = os.fork()
            if process == 0:
                _work(partial(run, partial(Told, folder, log=log)))
            left = count - len(list(folder.glob("*/*.tile")))
            time.sleep(chance.uniform(0, 2 * seconds * left / count / (kills - attempt + 1)))
            os.kill(process, signal.SIGKILL)
            died += os.WIFSIGNALED(os.waitpid(process, 0)[1])
        kept = len(list(folder.glob("*/*.tile")))
        again, report = run(partial(Told, folder, log=log))
        begun = Counter(log.read_text().split())
        return {
            "tiles": count,
            "kills": died,
            "kept_before_the_last_run": kept,
            "reused_by_the_last_run": len(report["kept"]["reused"]),
            "damaged": len(report["kept"]["damaged"]),
            "tiles_begun": sum(begun.values()),
            "repeated": sum(times - 1 for times in begun.values()),
            "identical": bool(torch.equal(again, whole)),
            "left_beside_tiles": sorted(path.name for path in folder.glob("*/.*")),
        }


def _work(run: Callable[[], Any]) -> None:
    """In the process that will be killed: never returns."""
    try:
        run()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
