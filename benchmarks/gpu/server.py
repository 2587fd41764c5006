"""The demo's workflow over HTTP, on a ComfyUI that is started for it: part ``server`` of `benchmarks/gpu/run.py`."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinotile.benchmarks.figures import publish
from dinotile.cli.run import run
from dinotile.demo import SAMPLE
from dinotile.upscaling.api import upscale

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "workflows" / "api" / "demo.json"
UPSCALE = "8"  # its node
LOCAL = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("python", type=Path, help="ComfyUI's own")
    parser.add_argument("json", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    steps = {"steps": 1} if options.rehearse else {}
    start = time.perf_counter()
    with started(options.comfyui, options.python, cpu=options.rehearse) as url:
        figures["start s"] = round(time.perf_counter() - start, 2)
        for name, seed in (("first run s", 0), ("second run s", 1)):
            changed = [f"{UPSCALE}.{key}={value}" for key, value in {"seed": seed, **steps}.items()]
            start = time.perf_counter()
            run(WORKFLOW, SAMPLE, options.json.with_suffix(".png"), server=url, settings=changed, overwrite=True)
            figures[name] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    other = upscale(SAMPLE, seed=seed, **steps, device="cpu" if options.rehearse else "cuda")
    figures["command line s"] = round(time.perf_counter() - start, 2)
    picture = Image.open(options.json.with_suffix(".png"))
    apart = np.asarray(picture, float) - np.asarray(other, float)
    figures["PSNR to the command line's, dB"] = round(float(10 * np.log10(255**2 / max(1e-9, (apart**2).mean()))), 1)
    publish(figures, options.json)


@contextmanager
def started(comfyui: Path, python: Path, *, cpu: bool) -> Iterator[str]:
    """The address of a ComfyUI with this pack alone, which is ended at last."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        base, front = Path(folder, "base"), Path(folder, "front")
        for place in (base / "custom_nodes", front):
            place.mkdir(parents=True)
        (front / "index.html").touch()  # nobody looks at it
        (base / "custom_nodes" / "dinotile").symlink_to(ROOT, target_is_directory=True)
        free.bind((LOCAL, 0))
        port = str(free.getsockname()[1])
        free.close()
        words = [python, "main.py", "--listen", LOCAL, "--port", port, "--base-directory", base, "--disable-api-nodes"]
        words += ["--database-url", "sqlite:///:memory:", "--front-end-root", front, *(["--cpu"] if cpu else [])]
        process = subprocess.Popen(list(map(str, words)), cwd=comfyui, stdout=sys.stderr)
        try:
            while process.poll() is None:
                try:
                    socket.create_connection((LOCAL, int(port)), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://{LOCAL}:{port}"
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
