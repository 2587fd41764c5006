"""Beside UltimateSDUpscale, in one ComfyUI: the same picture, models, seed, tile, overlap and steps.

``python -m benchmarks.tiling.beside --comfyui FOLDER --usdu FOLDER`` starts that ComfyUI with three packs: this one, the folder
where ComfyUI_UltimateSDUpscale is installed, and ``probe.py``. All upscale the demo's photo with the demo's models, in turns,
and the least time of --rounds counts. For each size it tells wall time, processor time (for a machine that others use too) and
their ratios to theirs, model calls, sampled over output pixels, processor time outside the models for each tile, peak memory,
the error of the output's size, how far a run at denoise 0 comes from the enlarged source (in 1/255, beside the VAE alone), and
the step at tile borders over the step elsewhere, over the same of the enlarged source.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile.demo import SAMPLE
from dinotile.files.pictures import from_image, load_picture, to_image
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import FLUX1, plan_tiles
from dinotile.tiling.canvas import scaled_size
from dinotile.tiling.moving import moved
from dinotile.tiling.plan import TilePlan, canvas_size
from dinotile.tiling.seams import border_ratio

from ..figures import about, publish
from .server import Prompt, Server, node

DEMO, FLUX = "dinotile-demo.safetensors", "dinotile-demo/diffusion_pytorch_model.safetensors"
NARROW = 16  # px of overlap for windows that move
SCALE, DENOISE, SEED = 2.0, 0.3, 1
STILL_PX = 2048  # the largest side that is also run at denoise 0
WIRES = {
    "image": ("begin", 0),
    "model": ("begin", 1),
    "vae": ("begin", 2),
    "positive": ("begin", 3),
    "negative": ("begin", 3),
}


@dataclass(frozen=True)
class Job:
    """Of one size: height and width of the source, and what all upscalers are set to."""

    height: int
    width: int
    tile: int
    overlap: int
    steps: int

    @property
    def size(self) -> tuple[int, int]:
        return scaled_size(self.height, self.width, scale=SCALE)

    @property
    def sampling(self) -> dict[str, Any]:
        return {"sampler": "euler", "scheduler": "simple", "cfg": 1.0, "seed": SEED, "steps": self.steps}


class Theirs:
    def prompt(self, job: Job, denoise: float) -> Prompt:
        sampling = job.sampling
        settings = {
            "upscale_by": SCALE, "denoise": denoise, "mode_type": "Linear", "tile_width": job.tile, "tile_height": job.tile,
            "mask_blur": 8, "tile_padding": job.overlap, "seam_fix_mode": "None", "seam_fix_denoise": 1.0,
            "seam_fix_mask_blur": 8, "seam_fix_width": 64, "seam_fix_padding": 16, "force_uniform_tiles": True,
            "tiled_decode": False, "batch_size": 1, "sampler_name": sampling.pop("sampler"),
        }  # fmt: skip
        return {"work": node("UltimateSDUpscaleCustomSample", **settings, **sampling, **WIRES)}

    def plan(self, job: Job) -> TilePlan:
        """The grid of rectangles that they composite."""
        height, width = job.size
        tops, lefts = tuple(range(0, height, job.tile)), tuple(range(0, width, job.tile))
        heights = tuple(min(job.tile, height - top) for top in tops)
        widths = tuple(min(job.tile, width - left) for left in lefts)
        return TilePlan(height, width, 0, tops, heights, lefts, widths, grid=FLUX1.token, cell=FLUX1.cell)


@dataclass(frozen=True)
class Ours:
    dino: bool = False
    moving: bool = False

    def prompt(self, job: Job, denoise: float) -> Prompt:
        settings = {
            "scale": SCALE, "denoise": denoise, "tile": job.tile, "overlap": self.overlap(job), "moving": self.moving,
            "dino_strength": 1.0, "fidelity": 0.0,
        }  # fmt: skip
        guide = {"dino": ("dino", 0), "adapter": ("adapter", 0)} if self.dino else {}
        return {"work": node("DinoTile_Upscale", **settings, **job.sampling, **guide, **WIRES)}

    def overlap(self, job: Job) -> int:
        return NARROW if self.moving else job.overlap

    def plan(self, job: Job) -> TilePlan:
        """Where windows move, of the last step."""
        plan = plan_tiles(*canvas_size(*job.size, grid=FLUX1.token), tile=job.tile, overlap=self.overlap(job))
        return moved(plan, step=job.steps - 1, seed=SEED) if self.moving else plan


class VaeAlone:
    """The whole canvas there and back, with no sampling."""

    def prompt(self, job: Job, denoise: float) -> Prompt:
        height, width = job.size
        return {
            "larger": node(
                "ImageScale", image=("begin", 0), upscale_method="bicubic", width=width, height=height, crop="disabled"
            ),
            "coded": node("VAEEncode", pixels=("larger", 0), vae=("begin", 2)),
            "work": node("VAEDecode", samples=("coded", 0), vae=("begin", 2)),
        }

    def plan(self, job: Job) -> TilePlan:
        return Ours().plan(job)


KINDS = {
    "theirs": Theirs(),
    "ours": Ours(),
    "DINO": Ours(dino=True),
    "moving": Ours(moving=True),
    "VAE alone": VaeAlone(),
}


def graph(work: Prompt, *, image: str, run: int, save: bool) -> Prompt:
    """Loaders, the measured work, and the picture where it is to be kept."""
    found = {
        "image": node("LoadImage", image=image),
        "flux": node("UNETLoader", unet_name=FLUX, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=DEMO),
        "dino": node("DinoTile_LoadDino", dino_name=DEMO),
        "adapter": node("DinoTile_LoadAdapter", adapter_name=DEMO),
        "empty": node("DinoTile_EmptyConditioning", model=("flux", 0), tokens=8, guidance=3.5),
        "begin": node(
            "BesideBegin", image=("image", 0), model=("flux", 0), vae=("vae", 0), conditioning=("empty", 0), run=run,
            dino=("dino", 0),
        ),
        **work,
        "end": node("BesideEnd", image=("work", 0)),
    }  # fmt: skip
    if save:
        found["save"] = node("SaveImage", images=("end", 0), filename_prefix="beside")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    parser.add_argument(
        "--usdu", type=Path, required=True, help="folder of ComfyUI_UltimateSDUpscale, with its repositories"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1024, 2048, 4096], help="sides of the output in px")
    parser.add_argument("--tiles", type=int, nargs="*", default=[512, 1024], help="the overlap is an eighth")
    parser.add_argument("--odd", action="store_true", help="also 666 x 1034 and 1330 x 998 px")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--options", default="" if torch.cuda.is_available() else "--cpu", help="of ComfyUI, in one text"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for folder, file in ((options.comfyui, "main.py"), (options.usdu, "usdu_nodes.py")):
        if not (folder / file).is_file():
            raise SystemExit(f"there is no {file} in {folder}: name the folder that holds it")
    sides = [(side, tile) for side in options.sizes for tile in options.tiles if tile < side]
    jobs = [Job(side // 2, side // 2, tile, tile // 8, options.steps) for side, tile in sides]
    if options.odd:
        jobs += [Job(height, width, 512, 64, options.steps) for height, width in ((333, 517), (665, 499))]
    packs = {"DINOTile": Path(__file__).parents[2], "UltimateSDUpscale": options.usdu}
    packs |= {"beside.py": Path(__file__).with_name("probe.py")}
    rows: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as base,
        Server(options.comfyui, Path(base), packs, options.options.split()) as server,
    ):
        bench = Bench(server, options.kinds)
        bench.compare(Job(128, 128, 128, 16, 1), rounds=1)  # loads the models
        print(HEADER, flush=True)
        for job in jobs:
            height, width = job.size
            found = bench.compare(job, rounds=options.rounds)
            for kind, numbers in found.items():
                rows[f"{width} x {height}, tile {job.tile}: {kind}"] = numbers
                told = line(f"{width} x {height}", job.tile, kind, numbers, found.get("theirs"), steps=job.steps)
                print(told, flush=True)
    publish({"rows": rows, **about(torch.device("cuda" if torch.cuda.is_available() else "cpu"))}, options.json)


class Bench:
    """Runs jobs on a server, each run on a picture of its own, so that nothing is remembered."""

    def __init__(self, server: Server, kinds: list[str]) -> None:
        self.server, self.kinds, self.count = server, kinds, 0
        self.photo = load_picture(SAMPLE).pixels

    def compare(self, job: Job, *, rounds: int) -> dict[str, dict[str, float]]:
        """What each kind needs and gives."""
        works = {kind: KINDS[kind] for kind in self.kinds}
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in works}
        found: dict[str, dict[str, float]] = {}
        for number in range(rounds):  # in turns, because other work on the machine comes and goes
            for kind, work in works.items():
                told, picture, source = self.run(work.prompt(job, DENOISE), job, save=number == 0)
                runs[kind].append(told)
                if picture is not None:
                    found[kind] = quality(picture, source, work.plan(job), job)
        for kind, work in works.items():
            if max(job.size) <= STILL_PX:
                _, picture, source = self.run(work.prompt(job, 0.0), job, save=True)
                found[kind]["still_error"] = error(picture, source)
            found[kind] |= {key: min(run[key] for run in runs[kind]) for key in runs[kind][0]}
        return found

    def run(self, work: Prompt, job: Job, *, save: bool) -> tuple[dict[str, float], Tensor | None, Tensor]:
        """What was measured, the picture where it is kept, and its source, all [1, 3, h, w] in 0..1."""
        self.count += 1
        source = to_image(resize(self.photo, height=job.height, width=job.width).roll(self.count, dims=3))
        name = f"{self.count}.png"
        source.save(self.server.base / "input" / name)
        outputs = self.server.run(graph(work, image=name, run=self.count, save=save))
        (told,) = outputs["end"]["beside"]
        kept = from_image(self.server.picture(outputs["save"]["images"][0])).pixels if save else None
        return told, kept, from_image(source).pixels


def quality(picture: Tensor, source: Tensor, plan: TilePlan, job: Job) -> dict[str, float]:
    (height, width), (found_height, found_width) = job.size, picture.shape[2:]
    larger = resize(source, height=found_height, width=found_width)
    seams = border_ratio(picture, plan) / border_ratio(larger, plan) if plan.count > 1 else math.nan
    return {"size_error_px": max(abs(found_height - height), abs(found_width - width)), "seams": seams}


def error(picture: Tensor | None, source: Tensor) -> float:
    """Mean difference to the enlarged source, in 1/255."""
    assert picture is not None
    return float((picture - resize(source, height=picture.shape[2], width=picture.shape[3])).abs().mean() * 255)


HEADER = (
    "| output | tile | | wall s | / theirs | CPU s | / theirs | calls | sampled/output | ms outside a tile | peak MiB | "
    "size error | still error | seams |"
)


def line(
    size: str, tile: int, kind: str, found: dict[str, float], theirs: dict[str, float] | None, *, steps: int
) -> str:
    """A row of a Markdown table."""
    width, height = (int(side) for side in size.split(" x "))
    tiles = max(1, found["rows"] / steps)
    wall, cpu = ("-" if theirs is None else f"{found[key] / theirs[key]:.2f}" for key in ("wall_s", "cpu_s"))
    cells = [
        size, f"{tile}", kind, f"{found['wall_s']:.1f}", wall, f"{found['cpu_s']:.1f}", cpu, f"{found['calls']:.0f}",
        f"{found['sampled_px'] / steps / (width * height):.2f}", f"{1000 * found['outside_cpu_s'] / tiles:.0f}",
        f"{found['peak_mib']:.0f}", f"{found['size_error_px']:.0f}", f"{found.get('still_error', math.nan):.2f}",
        f"{found['seams']:.3f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
