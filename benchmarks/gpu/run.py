"""All that only a GPU can show, part by part, in under six minutes: `bash benchmarks/gpu.sh`, or with --rehearse on any machine.

    host    FLUX.1's geometry with random weights inside ComfyUI: 1024, 2048 and 4096 px, fp8, compiled (`comfy/flux_size.py`)
    steps   a step in diffusers with each mechanism, and one training step (`flux_size.py`)
    tests   `pytest tests/gpu`
    vae     the VAE whole and in strips (`vae_strips.py`)
    server  the demo's workflow over HTTP, on a ComfyUI that is started for it (`server.py`)
    cost    bytes and kernels of a site (`cost.py`)

Each part is a process with a time limit of its own; what it measured before it failed or was stopped is kept. Everything goes
to one file, benchmarks/results/gpu.json, and the ratios with DINO over without are printed beside each other. The exit code is 1
where a part did not end well. --rehearse: tiny geometry on the CPU, into no file unless --json names one; its figures
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinotile.benchmarks.figures import about, publish
from dinotile.files.writing import check_writable

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
RATIOS = ("dino / plain", "over no adapter")  # names of ratios, wherever they stand in a part's figures
LEAST = 5  # seconds that a part is started for
TOLD = 2000  # characters of a log


@dataclass(frozen=True)
class Part:
    """words: the command, in which JSON is the file for its figures. limit: seconds."""

    name: str
    limit: float
    words: tuple[str, ...]


def parts_of(comfyui: Path, *, rehearse: bool) -> list[Part]:
    python, tiny = sys.executable, ("--rehearse",) if rehearse else ()
    place = next((path for path in comfyui.glob(".venv/*/python*") if path.stem == "python"), Path(python))
    module, inside = (python, "-m"), str(ROOT / "benchmarks" / "comfy" / "flux_size.py")
    small = ("--device", "cpu", "--width", "32", "--rounds", "1")
    vae = ("--sizes", "256", *small) if rehearse else ("--sizes", "2048", "4096", "--device", "cuda", "--rounds", "1")
    flux = ("--demo", "--rounds", "1") if rehearse else ("--rounds", "3")
    patience = 3 if rehearse else 1  # a CPU is slow
    quiet = ("-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib")
    return [
        Part("host", patience * 210, (str(place), inside, str(comfyui), "JSON", *tiny)),
        Part("steps", patience * 60, (*module, "benchmarks.flux_size", *flux, "--json", "JSON")),
        Part("tests", patience * 90, (*module, "pytest", *quiet, "tests/gpu")),
        Part("vae", patience * 60, (*module, "benchmarks.vae_strips", *vae, "--json", "JSON")),
        Part("server", patience * 50, (*module, "benchmarks.gpu.server", str(comfyui), str(place), "JSON", *tiny)),
        Part("cost", patience * 40, (*module, "benchmarks.cost", "--json", "JSON")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of those above; all where none is named")
    parser.add_argument("--rehearse", action="store_true", help="tiny geometry on the CPU")
    parser.add_argument("--json", type=Path, help=f"write the figures here; usually {RESULT.relative_to(ROOT)}")
    parser.add_argument("--limit", type=float, help="seconds for all parts together; usually 355, in a rehearsal 1000")
    options = parser.parse_args()
    given = os.environ.get("COMFYUI_PATH")
    comfyui = Path(given or "~/ComfyUI").expanduser().absolute()
    if (comfyui / "main.py").is_file():
        os.environ["COMFYUI_PATH"] = str(comfyui)  # the parts run in another folder
    elif given:
        parser.error(f"COMFYUI_PATH {given} is no ComfyUI: give the folder of its main.py")
    known = {part.name: part for part in parts_of(comfyui, rehearse=options.rehearse)}
    unknown = [name for name in options.parts if name not in known]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}: name some of {', '.join(known)}")
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device here: use --rehearse, which tries the script itself on the CPU")
    path = options.json or (None if options.rehearse else RESULT)
    if path is not None:
        try:
            check_writable(path)
        except ValueError as error:  # now, and not after minutes on the GPU
            parser.error(str(error))
    told: dict[str, Any] = {"about": about(torch.device("cpu" if options.rehearse else "cuda")), "parts": {}}
    told["about"]["command"] = " ".join(["bash benchmarks/gpu.sh", *sys.argv[1:]])
    usual = 1000 if options.rehearse else 355
    end = time.monotonic() + (usual if options.limit is None else options.limit)
    for name in options.parts or known:
        told["parts"][name] = found = measured(known[name], seconds=end - time.monotonic())
        print(f"{name}: {found['state']}, {found['seconds']} s", flush=True)
        if path is not None:  # as far as it is: whoever stops the script keeps the rest
            path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    told["ratios"] = dict(ratios(told["parts"]))
    publish(told, path)
    print("\n".join(f"{ratio:8.4f}  {name}" for name, ratio in told["ratios"].items()))
    sys.exit(any(part["state"] != "done" for part in told["parts"].values()))


def measured(part: Part, *, seconds: float) -> dict[str, Any]:
    """How a part ended, how long it took, its figures, and where it did not end well the end of its log."""
    limit, start = min(part.limit, seconds), time.monotonic()
    if limit < LEAST:
        return {"state": "not begun, the time was up", "seconds": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder, "figures.json"), Path(folder, "log.txt")
        words = [str(file) if word == "JSON" else word for word in part.words]
        with log.open("w", encoding="utf-8") as said:
            try:
                process = subprocess.Popen(words, stdout=said, stderr=said, cwd=ROOT, start_new_session=True)
                code = ended(process, limit)
            except OSError as error:
                code = str(error)
        state = "done" if code == 0 else f"stopped after {limit:.0f} s" if code is None else f"failed ({code})"
        found: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - start, 1)}
        if file.is_file():
            found["figures"] = json.loads(file.read_text(encoding="utf-8"))
        if code != 0 or "figures" not in found:
            found["log"] = log.read_text(encoding="utf-8", errors="replace")[-TOLD:]
        return found


def ended(process: subprocess.Popen, limit: float) -> int | None:
    """Its exit code; None where it took longer, and was ended with all that it had started."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for word, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
            try:
                os.killpg(process.pid, word)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def ratios(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every ratio of a nest of figures, by the way to it."""
    for key, value in found.items() if isinstance(found, dict) else ():
        if key in RATIOS:
            yield name, value
        yield from ratios(value, f"{name}, {key}".removeprefix(", ").replace(", figures", ""))


if __name__ == "__main__":
    main()
