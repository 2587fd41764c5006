"""The semantics table: `python -m benchmarks.semantics.table` upscales held-out pictures of the world in every way and
counts. One run, the same pictures, seeds and tiles for every row; results/semantics.json holds all numbers.

Rows of the shipped models run in a fresh clone. Others need what `train.py` makes, and are left out without it: the command says
with which --part.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.flux import WEIGHTS
from dinotile.files.fingerprints import fingerprint
from dinotile.files.weights import read_weights
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.load import load_vae

from ..figures import about, interval
from . import classifier, forms
from .measure import measure, summary
from .pooled import alike
from .rows import DEFAULT, PAIRS, ROWS, SETTINGS, Row
from .runs import HELD_OUT, NETS, PLAN, WORK, as_pixels, file_of, run

RESULT = Path(__file__).parents[1] / "results" / "semantics.json"
EACH = "accuracy of each picture"  # mean over seeds, in a row of the file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10, help="at least 2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], help="default: all")
    parser.add_argument("--denoise", type=float, default=SETTINGS.denoise)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--forms", choices=forms.SPREADS, help="shapes in other forms than those of the world")
    parser.add_argument("--first", type=int, default=HELD_OUT, help="seed of the first scene")
    parser.add_argument(
        "--add", type=Path, nargs="*", default=[], help="files of the same pictures, whose rows join these"
    )
    parser.add_argument("-o", "--output", type=Path, help=f"default: results/{RESULT.name}, for the whole table only")
    options = parser.parse_args()
    rows = chosen(options.rows)
    settings = replace(SETTINGS, denoise=options.denoise, steps=options.steps)
    judge = classifier.load()
    draw = world.scene if options.forms is None else partial(forms.scene, spread=options.forms)
    scenes = [draw(np.random.default_rng(options.first + index)) for index in range(options.pictures)]
    vae, true = load_vae(demo.VAE), [as_pixels(scene.true()) for scene in scenes]
    coded = [vae_path.decode(vae, vae_path.encode(vae, pixels)) for pixels in true]
    told = {
        "pictures": options.pictures,
        "seeds": options.seeds,
        "first": options.first,
        **({} if options.forms is None else {"forms": options.forms}),
        "settings": asdict(settings),
        "models": made_of(rows),
    }
    output = options.output or (RESULT if len(sys.argv) == 1 and len(rows) == len(ROWS) else None)
    results: dict[str, Any] = {}
    for path in options.add:
        found = earlier(path, told)
        results |= found["rows"]
        told["models"] |= found["about"]["models"]
    for name, pictures in (("truth", true), ("truth through the VAE", coded)):
        found = [[measure(pixels, scene, PLAN, judge)] for pixels, scene in zip(pictures, scenes, strict=True)]
        results[name] = rounded(summary(found))
        print(line(name, results[name]), flush=True)
    for row in rows:
        start = time.perf_counter()
        scores = run(row, scenes, seeds=options.seeds, settings=settings, judge=judge)
        right = [round(sum(score.accuracy for score in one) / len(one), 5) for one in scores]
        results[row.name] = {"row": asdict(row), **rounded(summary(scores)), EACH: right}
        print(line(row.name, results[row.name]), f"  {time.perf_counter() - start:.0f} s", flush=True)
        keep(output, told, results)
    keep(output, told, results)
    for name, (mean, half) in differences(results).items():
        print(f"{name}: {100 * mean:+.0f} \u00b1 {100 * half:.0f} points")


def keep(output: Path | None, told: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes what is known so far, where a file is named."""
    if output:
        output.parent.mkdir(exist_ok=True)
        found = {"about": {**about(torch.device("cpu")), **told}, "rows": results, "differences": differences(results)}
        output.write_text(json.dumps(found, indent=1) + "\n")


def earlier(path: Path, told: dict[str, Any]) -> dict[str, Any]:
    """A file of the same pictures, seeds, settings and models; SystemExit where it is of others."""
    found = json.loads(path.read_text())
    told = json.loads(json.dumps(told))
    if other := [name for name, value in told.items() if not alike(found["about"].get(name), value)]:
        raise SystemExit(f"{path} is of other {', '.join(other)}: give what it was made with, or leave --add out")
    return found


def differences(results: dict[str, Any]) -> dict[str, list[float | None]]:
    """Of PAIRS, picture by picture: mean and half the width of its 95 % interval."""
    right = {name: torch.tensor(found[EACH], dtype=torch.float64) for name, found in results.items() if EACH in found}
    pairs = [(one, other) for one, other in PAIRS if one in right and other in right]
    return rounded({f"{one} - {other}": interval(right[one] - right[other]) for one, other in pairs})


def chosen(names: Sequence[str] | None) -> list[Row]:
    """The rows of those names, which may be none, or all for which the files are here; SystemExit where files of a named one are
    not, or are of other models."""
    rows = [row for row in ROWS if names is None or row.name in names]
    missing = {row.name: part for row in rows if (part := row.missing(WORK))}
    told = "\n".join(
        f"{name}: run `python -m benchmarks.semantics.train --part {part}`" for name, part in missing.items()
    )
    if missing and names:
        raise SystemExit(told)
    if missing:
        print(f"left out, as what they need is missing:\n{told}", file=sys.stderr)
    rows = [row for row in rows if row.name not in missing]
    if not all(row.shipped for row in rows):
        check_adapters()
    return rows


def models() -> dict[str, str]:
    """What the adapters depend on, by the first digits of its SHA-256: FLUX, DINO, the VAE's encoder (the decoder may be
    polished later), and the world's first pictures, which show all textures."""
    encoder = {name: tensor.numpy() for name, tensor in read_weights(demo.VAE)[0].items() if "encoder" in name}
    pictures = [(world.scene(np.random.default_rng(seed)).true() * 255).round().astype(np.uint8) for seed in range(12)]
    parts = {
        "flux": (demo.FLUX / WEIGHTS).read_bytes(),
        "dino": demo.DINO.read_bytes(),
        "vae": b"".join(encoder[name].tobytes() for name in sorted(encoder)),
        "world": b"".join(picture.tobytes() for picture in pictures),
    }
    return {name: fingerprint(part)[:12] for name, part in parts.items()}


def made_of(rows: Sequence[Row]) -> dict[str, str]:
    """``models``, and in the same way the ControlNets and adapters of rows."""
    files = {name: NETS[name] for name in sorted({"controlnet", *(row.net for row in rows)})}
    files |= {f"adapter {row.adapter}": file_of(row) for row in rows if row.adapter}
    return {**models(), **{name: fingerprint(path.read_bytes())[:12] for name, path in files.items()}}


def check_adapters() -> None:
    """SystemExit where what WORK holds is of other models or another world, or where the shipped adapter is not the one in it."""
    again = "run `python -m benchmarks.semantics.train --part adapters`, then `--part demo`"
    note, default = WORK / "models.json", WORK / "adapters" / f"{DEFAULT}.safetensors"
    if not note.exists():
        raise SystemExit(f"{note} is missing: {again}")
    made, now = json.loads(note.read_text()), models()
    stale = [name for name in now if made.get(name) != now[name]]
    if stale or default.exists() and default.read_bytes() != demo.ADAPTER.read_bytes():
        other = ", ".join(stale) or "training than the demo"
        raise SystemExit(f"what {WORK} holds is of another {other}: {again}")


def line(name: str, found: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    shares = (found[key] for key in ("accuracy", "follows", "agreement"))
    cells = ["-" if mean is None else f"{100 * mean:.0f} % \u00b1 {100 * half:.0f}" for mean, half in shares]
    means = (found[key][0] for key in ("sharpness", "colour", "seams", "outline", "blank"))
    cells += ["-" if mean is None else f"{mean:.2f}" for mean in means]
    return f"| {name} | {' | '.join(cells)} |"


def rounded(found: dict[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    """For JSON, which has no nan."""
    return {name: [None if value != value else round(value, 5) for value in pair] for name, pair in found.items()}


if __name__ == "__main__":
    main()
