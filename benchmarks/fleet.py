"""Two workers of a Ray cluster against one, on the same pictures: `python -m benchmarks.fleet --json FILE`, with `dinotile[ray]`.

`dinotile upscale --ray` with the demo models runs with one worker, two, two and one, on one cluster of this machine, so that a
load that drifts meets both.
Of each run: seconds from the first picture's begin to the last one's end, mean seconds of a picture within its worker, and how
many processes wanted a core (the load average) before and after. Then what the one process that shares out takes for each
picture: a manifest's two lines, a call of Ray, a look at a thousand calls, and the fingerprint of an input (processor's seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.cli.cluster import LOCAL, joined
from dinotile.cli.manifest import DONE, RUNNING, Manifest
from dinotile.files.fingerprints import file_fingerprint

ROUNDS = (1, 2, 2, 1)  # workers
CALLS, WAITING, LINES = 300, 1000, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="of the pictures, px")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "in", options.pictures, options.side)
        with joined(LOCAL, 2) as ray:
            address = ray.get_runtime_context().gcs_address
            runs = [run(folder, address, workers, f"{turn}", options.steps) for turn, workers in enumerate(ROUNDS)]
            costs = calls(ray)
        results = [
            sorted(path.read_bytes() for path in (folder / f"{turn}").glob("*.png")) for turn in range(len(runs))
        ]
        shares = {"manifest": lines(folder), "fingerprint of 1 MB": fingerprints(folder), **costs}
    one, two = ([each for each in runs if each["workers"] == count] for count in (1, 2))
    found = {
        "times as many pictures a second": round(mean(one, "seconds") / mean(two, "seconds"), 3),
        "times as many, by the seconds within workers": round(2 * mean(one, "inside") / mean(two, "inside"), 3),
        "the same files": all(result == results[0] for result in results),
    }
    told = {"pictures": options.pictures, "side": options.side, "steps": options.steps}
    publish(
        {"about": {**about(torch.device("cpu")), **told}, "runs": runs, **found, "seconds a picture": shares},
        options.json,
    )


def draw(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    with Image.open(demo.SAMPLE) as sample:
        for number in range(count):
            left, top = 7 * number % (sample.width - side), 5 * number % (sample.height - side)
            sample.crop((left, top, left + side, top + side)).save(folder / f"{number:03}.png")


def run(folder: Path, address: str, workers: int, name: str, steps: int) -> dict[str, Any]:
    """One job; what it took from the first begin to the last end."""
    manifest, load = folder / name / "jobs.jsonl", os.getloadavg()[0]
    command = [
        sys.executable,
        "-m",
        "dinotile.cli",
        "upscale",
        "in",
        "-o",
        f"{name}/",
        "--manifest",
        f"{name}/jobs.jsonl",
    ]
    command += ["--steps", str(steps), "--device", "cpu", "--ray", address, "--workers", str(workers)]
    begun, called = 0.0, time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not begun:
            begun = time.perf_counter() if manifest.exists() and manifest.stat().st_size else 0.0
            time.sleep(0.02)
        while process.poll() is None and manifest.read_text().count(f'"{DONE}"') < len(list((folder / "in").iterdir())):
            time.sleep(0.02)
        ended = time.perf_counter()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    done = [line for line in map(json.loads, manifest.read_text().splitlines()) if line["status"] == DONE]
    return {
        "workers": workers,
        "seconds": round(ended - begun, 2),
        "inside": round(sum(line["seconds"] for line in done) / len(done), 3),
        "until the first picture": round(begun - called, 2),
        "each worker's": sorted(
            sum(line["where"] == where for line in done) for where in {line["where"] for line in done}
        ),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def lines(folder: Path) -> float:
    manifest = Manifest.read(folder / "lines.jsonl")
    manifest.begin()

    def two(number: int) -> None:
        source, output = folder / f"{number}.png", folder / "out" / f"{number}.png"
        manifest.note(source, output, RUNNING)
        manifest.note(
            source, output, DONE, input="0" * 16, settings="0" * 16, size=1, seconds=1.0, where="a, process 1"
        )

    return timed(two, LINES)


def fingerprints(folder: Path) -> float:
    (folder / "picture").write_bytes(os.urandom(64 * 10**6))
    return timed(lambda _: file_fingerprint(folder / "picture"), 5, clock=time.process_time) / 64


def calls(ray: Any) -> dict[str, float]:
    """A call of Ray there and back, and a look at a thousand that are not answered."""

    class Echo:
        def echo(self, value: int) -> int:
            return value

        def sleep(self) -> None:
            time.sleep(3600)

    worker = ray.remote(num_cpus=1)(Echo)
    first, second = worker.remote(), worker.remote()
    ray.get(first.echo.remote(0))
    call = timed(lambda number: ray.get(first.echo.remote(number)), CALLS)
    waiting = [second.sleep.remote() for _ in range(WAITING)]
    return {"call": call, f"look at {WAITING} calls": timed(lambda _: ray.wait(waiting, timeout=0), 50)}


def timed(action: Callable[[int], object], count: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of each of so many; by ``time.process_time`` those that others on the machine do not lengthen."""
    start = clock()
    for number in range(count):
        action(number)
    return round((clock() - start) / count, 7)


def mean(runs: list[dict[str, Any]], name: str) -> float:
    return sum(each[name] for each in runs) / len(runs)


if __name__ == "__main__":
    main()
