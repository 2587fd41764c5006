"""A fleet on paper: `python -m benchmarks.fleet_model --seconds 10 --price 3` simulates a million pictures on up to 1,000 GPUs.

Event by event: a worker loads the models, then for each picture waits for the process that shares out, reads the input from the
shared storage, computes, and writes the result; a lost worker starts anew, and its picture is done again. The storage has one
bandwidth for all, first come, first served, and the process that shares out does one thing at a time, for as long as
`python -m benchmarks.fleet --json FILE` measured (--figures FILE), or as --share and --look say. All is an argument: nothing here
knows a GPU or a price.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPUS = (1, 8, 64, 256, 1000)
HOUR = 3600
PARTS = ("computing", "sharing out", "storage", "loading", "lost", "idle")


@dataclass(frozen=True)
class World:
    """seconds: of a picture on a GPU; spread: their relative standard deviation. read, written, model: GB. bandwidth: GB/s of the
    storage. load: seconds to load a model that is read already. mtbf: hours between two losses of one worker. share, look:
    seconds that sharing out takes for a picture, and for each worker that is looked at."""

    seconds: float
    spread: float
    read: float
    written: float
    model: float
    bandwidth: float
    load: float
    mtbf: float
    share: float
    look: float


class Fleet:
    """now: seconds since the start. left: pictures that nobody has. spent: seconds of GPUs, by what they did."""

    def __init__(self, world: World, gpus: int, pictures: int, *, seed: int) -> None:
        self.world, self.gpus, self.left, self.dice = world, gpus, pictures, random.Random(seed)
        self.now, self.last, self.spent = 0.0, 0.0, Counter[str]()
        self.storage_free, self.sharer_free = 0.0, 0.0
        self.events: list[tuple[float, int, str]] = []  # when a worker goes on with what
        self.breaks = [self._until_lost() for _ in range(gpus)]
        for worker in range(gpus):
            self._load(worker)

    def run(self) -> None:
        steps = {
            "free": self._take,
            "given": self._read,
            "compute": self._compute,
            "write": self._write,
            "load": self._load,
        }
        while self.events:
            self.now, worker, step = heapq.heappop(self.events)
            steps[step](worker)
        self.spent["idle"] = self.gpus * self.last - sum(self.spent.values())

    def _take(self, worker: int) -> None:
        self.last = max(self.last, self.now)
        if self.left:
            self.left -= 1
            looks = (
                0 if self.sharer_free > self.now else self.world.look * self.gpus
            )  # those who wait are seen in one look
            self.sharer_free = max(self.sharer_free, self.now) + self.world.share + looks
            self._then(worker, "given", self.sharer_free, "sharing out")

    def _read(self, worker: int) -> None:
        self._then(worker, "compute", self._storage(self.world.read), "storage")

    def _compute(self, worker: int) -> None:
        usual = self.world.seconds
        end = self.now + max(0.1 * usual, self.dice.gauss(usual, self.world.spread * usual))
        if end <= self.breaks[worker]:
            self._then(worker, "write", end, "computing")
            return
        lost = max(self.now, self.breaks[worker])
        self.spent["lost"] += lost - self.now
        self.left += 1
        self.breaks[worker] = lost + self._until_lost()
        heapq.heappush(self.events, (lost, worker, "load"))

    def _write(self, worker: int) -> None:
        self._then(worker, "free", self._storage(self.world.written), "storage")

    def _load(self, worker: int) -> None:
        self._then(worker, "free", self._storage(self.world.model) + self.world.load, "loading")

    def _storage(self, size: float) -> float:
        """When the storage has moved so many GB for somebody who asks now."""
        self.storage_free = max(self.storage_free, self.now) + size / self.world.bandwidth
        return self.storage_free

    def _then(self, worker: int, step: str, at: float, part: str) -> None:
        self.spent[part] += at - self.now
        heapq.heappush(self.events, (at, worker, step))

    def _until_lost(self) -> float:
        return self.dice.expovariate(1 / (self.world.mtbf * HOUR))


def simulated(world: World, gpus: int, pictures: int, *, seed: int = 0) -> dict[str, Any]:
    """Hours until all is done, and how the GPUs' hours were spent, in shares."""
    fleet = Fleet(world, gpus, pictures, seed=seed)
    fleet.run()
    whole = gpus * fleet.last
    return {"hours": fleet.last / HOUR, "shares": {part: fleet.spent[part] / whole for part in PARTS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--gpus", type=int, nargs="+", default=list(GPUS))
    parser.add_argument("--seconds", type=float, required=True, help="of a picture on one GPU, as your report tells")
    parser.add_argument("--price", type=float, required=True, help="of a GPU hour, in your currency")
    parser.add_argument("--spread", type=float, default=0.2, help="standard deviation of the seconds, as a share")
    parser.add_argument("--read", type=float, default=2, help="MB of an input")
    parser.add_argument("--written", type=float, default=12, help="MB of a result")
    parser.add_argument("--model", type=float, default=34, help="GB of all models, as FLUX.1 dev with its encoders")
    parser.add_argument("--bandwidth", type=float, default=10, help="GB/s of the shared storage")
    parser.add_argument("--load", type=float, default=30, help="seconds to load models beside reading them")
    parser.add_argument("--mtbf", type=float, default=1000, help="hours between two losses of one worker")
    parser.add_argument("--share", type=float, default=0.01, help="seconds that sharing out takes for a picture")
    parser.add_argument("--look", type=float, default=0.00001, help="and for each worker that is looked at")
    parser.add_argument(
        "--fingerprint", type=float, default=0.005, help="seconds for 1 MB of an input, where a job goes on"
    )
    parser.add_argument("--figures", type=Path, help="take those three from what benchmarks.fleet measured")
    options = parser.parse_args()
    if options.figures:
        found = json.loads(options.figures.read_text(encoding="utf-8"))["seconds a picture"]
        options.share, options.fingerprint = found["manifest"] + found["call"], found["fingerprint of 1 MB"]
        options.look = found["look at 1000 calls"] / 1000
    world = World(
        options.seconds,
        options.spread,
        options.read / 1000,
        options.written / 1000,
        options.model,
        options.bandwidth,
        options.load,
        options.mtbf,
        share=options.share,
        look=options.look,
    )
    print("| GPUs | hours | pictures/s | " + " | ".join(PARTS) + " | price of a picture |")
    print("|---" * (4 + len(PARTS)) + "|")
    for gpus in options.gpus:
        ran = simulated(world, gpus, options.pictures)
        shares = " | ".join(f"{ran['shares'][part]:.1%}" for part in PARTS)
        price = gpus * ran["hours"] * options.price / options.pictures
        print(
            f"| {gpus} | {ran['hours']:.2f} | {options.pictures / ran['hours'] / HOUR:.2f} | {shares} | {price:.5f} |"
        )
    for name, most in limits(world).items():
        print(f"{name} is full at {most:.0f} GPUs")
    again = options.pictures * options.read * options.fingerprint / HOUR
    print(f"fingerprints of {options.pictures} inputs, where a job goes on: {again:.2f} h")


def limits(world: World) -> dict[str, float]:
    """With how many GPUs each shared thing is always at work."""
    moved = (world.read + world.written) / world.bandwidth
    return {"the process that shares out": world.seconds / world.share, "the storage": world.seconds / moved}


if __name__ == "__main__":
    main()
