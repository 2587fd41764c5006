"""What anchor and DINO guidance do to stock weights:
`python -m benchmarks.guidance.table --photos FOLDER --work FOLDER -o benchmarks/results/guidance.json`.

Photographs (``photos.py`` tells how to get them) are shrunk to half, upscaled by the demo's models in four tiles, at each
--denoise and in every row, and compared with what they were by judges that never guided; then held-out scenes of the
benchmark world, from sources 8 times smaller, guided by an encoder that knows textures. One run, the same pictures, seeds and
tiles for all rows, every measure before and after back-projection at the end. Prints Markdown and what is required of the
guidance; the JSON file has every number, and is written after each noise level.

--photos: where Debian's package lies; without it only scikit-image's four. --work: where the encoder that knows textures is
kept, which is trained for --minutes at the first time; without it no scenes.
Judges: `python -m pip install -e ".[evidence]"`.
`--pictures 2 --denoise 0.5 --step-counts --scenes 0` takes minutes on two cores, all of it about an hour. Rows with a tile
ControlNet and with FLUX.1 Redux are left out: both need weights of FLUX.1's size, and the demo has none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dinotile.files.pixels import resize
from dinotile.files.writing import replacing
from dinotile.hosts.host import Host
from dinotile.upscaling.settings import UpscaleSettings

from ..figures import about
from .checks import checks
from .draw import demo_models
from .judges import JUDGES, judges
from .markdown import markdown
from .photo_net import photo_net
from .photos import PHOTO_SETTINGS, SPOILS, photo_subjects, photographs
from .rows import ANCHOR, ANCHOR_DINO, OFF, PHOTOS, ROWS, SCENE_ROWS, TEXTURES, Row
from .scenes import FLAT, SCENE_DENOISE, SCENE_SETTINGS, TEXTURED, scenes
from .sweep import Case, Record, Subject, check_others, record, sweep
from .texture_net import texture_net

Work = tuple[str, Case, dict[str, Any]]  # a part of the file, and what ``sweep`` is told
STEP_DENOISE = 0.5


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    try:
        found = run(options)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    text = "\n".join([*map(markdown, found.values()), "### Required\n", *map(str, checks(found))])
    print(text)
    if options.output is not None:
        options.output.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of Debian's photographs")
    parser.add_argument("--pictures", type=int, default=6, help="photographs (default: 6)")
    parser.add_argument(
        "--spoilt", choices=list(filter(None, SPOILS)), default="", help="what is done to their sources"
    )
    parser.add_argument("--denoise", type=float, nargs="*", default=[0.25, 0.35, 0.5, 0.7])
    names = list(dict.fromkeys(row.name for row in (*ROWS, *SCENE_ROWS)))
    parser.add_argument("--rows", nargs="*", choices=names, default=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--step-counts", type=int, nargs="*", default=[4, 8, 24], help="other steps, at denoise 0.5")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--judges", nargs="*", choices=list(JUDGES), default=list(JUDGES))
    parser.add_argument("--scenes", type=int, default=2, help="of the benchmark world (default: 2); 0: none")
    parser.add_argument("--work", type=Path, help="folder for the encoder that knows textures")
    parser.add_argument("--minutes", type=float, default=4.0, help="of its training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("-o", "--output", type=Path, help="JSON file; the tables are written beside it as Markdown")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, list[Record]]:
    """Records by part; the file is written after each case, with what there is so far."""
    measures = judges(options.judges, threads=options.threads)
    subjects = photo_subjects(photographs(options.photos, count=options.pictures), measures, spoilt=options.spoilt)
    rows = [row for row in ROWS if row.name in options.rows]
    with_scenes, encoders = options.scenes > 0 and options.work is not None, {}
    if any(row.encoder == PHOTOS for row in rows):
        encoders[PHOTOS] = photo_net()
    if with_scenes:
        encoders[TEXTURES] = texture_net(options.work, minutes=options.minutes)
    else:
        print("no scenes of the benchmark world: they need --scenes and --work", file=sys.stderr)
    models = demo_models(encoders)
    told = {**told_of(options), "photographs": asdict(PHOTO_SETTINGS), "scenes": asdict(SCENE_SETTINGS)}
    host = models.plain.host
    found: dict[str, list[Record]] = {"photographs": [], "scenes": []}
    found["photographs"] += references(subjects, host, PHOTO_SETTINGS)
    if with_scenes:
        found["scenes"] += references(scenes(options.scenes, TEXTURED), host, SCENE_SETTINGS)
    todo = [*photo_work(options, subjects, rows), *(scene_work(options) if with_scenes else ())]
    for _, _, work in todo:
        check_others(work["subjects"], work["rows"])
    for part, case, work in todo:
        for each in sweep(case=case, models=models, seeds=options.seeds, **work):
            found[part].append(each)
            print(progress(each), file=sys.stderr, flush=True)
        if options.output is not None:
            write(options.output, told, found)
    return found


def told_of(options: argparse.Namespace) -> dict[str, Any]:
    """``about``, with names for the folders of this machine."""
    told = about(torch.device("cpu"))
    for name, place in vars(options).items():
        if isinstance(place, Path) and place.is_absolute():
            told["command"] = told["command"].replace(str(place), name.upper())
    return told


def photo_work(options: argparse.Namespace, subjects: Sequence[Subject], rows: Sequence[Row]) -> Iterator[Work]:
    """All rows at every noise level, then the gain in other steps."""
    work = {"subjects": subjects, "settings": PHOTO_SETTINGS}
    for denoise in options.denoise:
        yield "photographs", Case("denoise", denoise, options.steps), {**work, "rows": rows}
    few = [row for row in rows if row in (OFF, ANCHOR, ANCHOR_DINO)]
    for steps in options.step_counts:
        yield "photographs", Case("steps", STEP_DENOISE, steps), {**work, "rows": few}


def scene_work(options: argparse.Namespace) -> Iterator[Work]:
    rows = [row for row in SCENE_ROWS if row.name in options.rows]
    for kind in (TEXTURED, FLAT):
        work = {"subjects": scenes(options.scenes, kind), "settings": SCENE_SETTINGS, "rows": rows}
        for denoise in SCENE_DENOISE[kind]:
            yield "scenes", Case("denoise", denoise, options.steps), work


def references(subjects: Sequence[Subject], host: Host, settings: UpscaleSettings) -> Iterator[Record]:
    """What no FLUX has touched: the source enlarged, and that through the VAE."""
    for subject in subjects:
        height, width = (round(settings.scale * side) for side in subject.source.shape[2:])
        larger = resize(subject.source, height=height, width=width)
        coded = host.decode(host.encode(larger))
        back = Row("enlarged, bicubic, back-projection at the end", fidelity=1.0)
        for row, pixels in (
            (Row("enlarged, bicubic"), larger),
            (back, larger),
            (Row("enlarged, through the VAE"), coded),
        ):
            yield record(subject, row, Case("none", 0.0, 0), seed=0, drawn=pixels, seconds=0.0)


def progress(record: Record) -> str:
    said = ", ".join(f"{name} {value:g}" for name, value in record["before"].items())
    where = f"{record['kind']}, denoise {record['denoise']:g}, {record['steps']} steps, {record['picture']}"
    return f"{where}, {record['row']}: {said} ({record['seconds']:.1f} s)"


def write(path: Path, told: dict[str, Any], found: dict[str, list[Record]]) -> None:
    """A record a line, whole or not at all."""
    parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, records)) + "\n]" for name, records in found.items()]
    with replacing(path) as part:
        part.write_text("{\n" + ",\n".join([f'"about": {json.dumps(told)}', *parts]) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
