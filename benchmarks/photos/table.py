"""The demo beside plain enlargement and upscale models, on photographs that no model learned from:
`python -m benchmarks.photos.table FOLDER --compact compact.safetensors -o benchmarks/results/photos.json`.

Each photograph (``benchmarks/guidance/photos.py`` tells which, and how to get them) is shrunk, enlarged again in every row, and
compared with what it was. Prints Markdown: means over photographs with their 95 % intervals, and, for each judge, the paired
difference to the strongest of the rows in which FLUX does nothing. The JSON file has every number.

--compact: RealESRGAN Compact, as ``ncnn.py`` writes it; without it two rows less. Twelve photographs at one scale take a quarter
of an hour on one core, most of it for the rows with the anchor. Judges: `python -m pip install -e ".[evidence]"`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile import demo
from dinotile.files.pixels import resize
from dinotile.hosts.diffusers.upscale_model import UpscaleModel, enlarge, load_upscale_model
from dinotile.tiling.color import back_project
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for
from dinotile.upscaling.upscaler import Upscaler

from ..figures import interval
from ..guidance.judges import JUDGES, PHOTO, judges
from ..guidance.photos import SPOILS, photo_subjects, photographs
from ..guidance.table import told_of, write
from .rows import BICUBIC, COMPACT, OWN, Row, rows

ASKED = ("PSNR", "SSIM", PHOTO, "SSIMULACRA 2")
LESS_IS_BETTER = {PHOTO}
Record = dict[str, Any]


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    try:
        found = run(options)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(markdown(found))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "photos", type=Path, nargs="?", help="folder of Debian's photographs; without: scikit-image's only"
    )
    parser.add_argument("--pictures", type=int, default=12, help="photographs (default: 12)")
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--spoilt", choices=list(filter(None, SPOILS)), default="", help="what is done to the sources")
    parser.add_argument("--compact", type=Path, help="RealESRGAN Compact as .safetensors")
    parser.add_argument("--plain", action="store_true", help="only the rows in which FLUX does nothing")
    parser.add_argument("--judges", nargs="*", choices=list(JUDGES), default=list(ASKED))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    return parser.parse_args()


def run(options: argparse.Namespace) -> list[Record]:
    """A record of each scale, photograph and row; the file is written after each photograph."""
    measures = judges(options.judges, threads=options.threads)
    truths = photographs(options.photos, count=options.pictures)
    models: dict[str, UpscaleModel | None] = {BICUBIC: None, OWN: load_upscale_model(demo.UPSCALER)}
    if options.compact is not None:
        models[COMPACT] = load_upscale_model(options.compact)
    todo = [row for row in rows(compact=COMPACT in models) if row.baseline or not options.plain]
    upscaler, found, told = load_upscaler("demo"), [], told_of(options)
    for scale in options.scales:
        subjects = photo_subjects(truths, measures, spoilt=options.spoilt, scale=scale)
        for index, subject in enumerate(subjects):
            for row in todo:
                start = time.perf_counter()
                result = drawn(row, subject.source, models[row.enlarged], upscaler, scale=scale, seed=1000 * index)
                seconds = round(time.perf_counter() - start, 2)
                case = {"scale": scale, "spoilt": options.spoilt, "picture": subject.name, "row": row.name}
                found.append({**case, "baseline": row.baseline, "seconds": seconds, **subject.judge(result, ())})
            print(f"{scale}x, {subject.name}", file=sys.stderr, flush=True)
            if options.output is not None:
                write(options.output, told, {"photographs": found})
    return found


def drawn(row: Row, source: Tensor, model: UpscaleModel | None, upscaler: Upscaler, *, scale: int, seed: int) -> Tensor:
    if row.flux is not None:
        upscaler.upscale_model = model
        return upscaler.upscale(source, settings_for("demo", scale=scale, seed=seed, **row.flux))[0]
    height, width = (scale * side for side in source.shape[2:])
    larger = source if model is None else enlarge(model, source, device=source.device)
    return back_project(resize(larger, height=height, width=width), source, fidelity=float(row.back))


def markdown(records: Sequence[Record]) -> str:
    cases = dict.fromkeys((record["scale"], record["spoilt"]) for record in records)
    return "\n".join(line for case in cases for line in _table(records, *case))


def _table(records: Sequence[Record], scale: int, spoilt: str) -> Iterator[str]:
    own = [record for record in records if (record["scale"], record["spoilt"]) == (scale, spoilt)]
    names = [name for name in own[0] if name in JUDGES]
    values = {
        row: {name: torch.tensor([each[name] for each in own if each["row"] == row]).double() for name in names}
        for row in dict.fromkeys(record["row"] for record in own)
    }
    plain = {record["row"] for record in own if record["baseline"]}
    best = {name: strongest({row: values[row][name] for row in plain}, name) for name in names}
    count = len({record["picture"] for record in own})
    yield f"### {scale}x{f', {spoilt}' if spoilt else ''} ({count} photographs)\n"
    yield f"Differences are to the strongest row without FLUX: {', '.join(f'{name} {best[name]}' for name in names)}.\n"
    yield f"| | {' | '.join(f'{name} | difference' for name in names)} | s |"
    yield "|---" * (2 * len(names) + 2) + "|"
    for row in values:
        seconds = torch.tensor([record["seconds"] for record in own if record["row"] == row]).mean()
        cells = [
            cell for name in names for cell in _cells(values[row][name], values[best[name]][name], row == best[name])
        ]
        yield f"| {row} | {' | '.join(cells)} | {seconds:.1f} |"
    yield ""


def strongest(found: Mapping[str, Tensor], judge: str) -> str:
    """The row with the best mean."""
    choose: Callable[..., str] = min if judge in LESS_IS_BETTER else max
    return choose(found, key=lambda row: float(found[row].mean()))


def _cells(values: Tensor, best: Tensor, same: bool) -> Iterator[str]:
    mean, half = interval(values)
    yield f"{mean:.3g} \u00b1 {half:.2g}" if abs(mean) < 10 else f"{mean:.2f} \u00b1 {half:.2f}"
    mean, half = interval(values - best)
    yield "-" if same else f"{mean:+.2g} \u00b1 {half:.1g}"


if __name__ == "__main__":
    main()
