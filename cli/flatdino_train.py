"""``dinotile flatdino train NAME``: the name says what is trained, the options on what and where."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files.paths import expanded
from ..training.flatdino.name import FORM, parse
from .bars import Bars
from .features import DINO, Device, Layers, Seed, Side
from .train import interrupts

FOLDER = Path("output", "flatdino")  # of runs, each in one of its name
DEFAULT = "default"  # the run's own folder


def _explain(name: str | None) -> None:
    if name is not None:
        typer.echo("\n".join(parse(name).lines()))
        raise typer.Exit


def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"Of the experiment: {FORM}.")],
    data: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="A folder of pictures, or tars (WebDataset naming).")
    ],
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="NAME", callback=_explain, is_eager=True, help="Print what a name means."),
    ] = None,
    dino: Annotated[str, typer.Option(help=DINO)] = "",
    features: Annotated[str, typer.Option(help="Train on stored features of dinov2 or dinov3 instead of --dino.")] = "",
    encoder: Annotated[str, typer.Option(help='What made stored features that do not say: "dinov3-large last".')] = "",
    layers: Layers = "last",
    side: Side = 0,
    validation: Annotated[
        list[str], typer.Option(metavar="DATA", help="Data to look at; else a tenth is held out.")
    ] = [],  # noqa: B006  typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; else output/flatdino/NAME.")
    ] = None,
    restore: Annotated[
        str | None, typer.Option(metavar="FOLDER", help='Go on with a run: its folder, or "default".')
    ] = None,
    maybe_restore: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The same, and begin where there is none yet.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures of a step, over all processes.")] = 512,
    gpu_batch_size: Annotated[int, typer.Option(help="Of them, what a process computes at once; 0: up to 64.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps instead of the epochs that the name says; 0 for those.")] = 0,
    learning_rate: Annotated[float, typer.Option(help="Peak; usually 1e-4.")] = 1e-4,
    ema: Annotated[
        float, typer.Option(help="Decay of the averaged weights, 0 for none; usually 0.99 to 0.9999.")
    ] = 0.999,
    precision: Annotated[str, typer.Option(help="Of computing: no, bf16 or fp16.")] = "no",
    attention: Annotated[str, typer.Option(help="Kernel: auto, math, flash, efficient or cudnn.")] = "auto",
    fsdp: Annotated[
        int,
        typer.Option(
            metavar="N", help="Spread the model over the N processes of `accelerate launch`; 1: each holds all of it."
        ),
    ] = 1,
    memory: Annotated[float, typer.Option(help="GiB in which stored features stay once they were read.")] = 2.0,
    save_every: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = 500,
    validate_every: Annotated[
        int, typer.Option(help="Steps from one look at held-out pictures to the next, 0: never.")
    ] = 500,
    log_every: Annotated[int, typer.Option(help="Steps from one line of the log to the next.")] = 50,
    use_wandb: Annotated[
        bool, typer.Option("--use-wandb", help="Log to Weights & Biases too, project flatdino.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a FlatDINO; with several GPUs under `accelerate launch`."""
    experiment = parse(name)
    folder, resume = _folder(name, output=output, restore=restore, maybe_restore=maybe_restore)
    from ..training.core.config import from_mapping
    from ..training.flatdino.settings import FlatRun

    every = {"save_every": save_every, "validate_every": validate_every, "log_every": log_every}
    sections: dict[str, Any] = {
        "data": {"path": data, "validation": validation, "dino": dino, "features": features, "encoder": encoder},
        "training": {
            "batch": batch,
            "gpu_batch": gpu_batch_size,
            "steps": steps,
            "learning_rate": learning_rate,
            "ema": ema,
        },
        "output": {"folder": str(folder), "wandb": "flatdino" if use_wandb else "", **every},
    }
    sections["data"] |= {"layers": layers, "side": side, "memory": memory}
    sections["training"] |= {
        "precision": precision,
        "attention": attention,
        "device": device,
        "fsdp": fsdp,
        "seed": seed,
    }
    config = from_mapping(sections, FlatRun)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started; the others are silent
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dinotile").setLevel(logging.INFO if first else logging.ERROR)
    from ..training.flatdino.run import train as run

    with Bars() as bars, interrupts() as interrupted:
        shown = bars if first else None
        path = run(experiment, config, resume=resume, progress=shown, should_stop=lambda: bool(interrupted))
    if first:
        typer.echo(f"{path}{'  (stopped early; --restore default goes on)' if interrupted else ''}")


def _folder(name: str, *, output: Path | None, restore: str | None, maybe_restore: str | None) -> tuple[Path, bool]:
    """Where the run is, and whether it may go on from a checkpoint there."""
    from ..training.core.state import checkpoints

    own = output or FOLDER / name
    if restore is not None and maybe_restore is not None:
        raise ValueError("--restore and --maybe-restore are both given: leave one out")
    asked = restore or maybe_restore
    if asked is None:
        return own, False
    if asked != DEFAULT and output is not None:
        raise ValueError(f"--output {output} and the run to go on with, {asked}, are both given: leave --output out")
    folder = own if asked == DEFAULT else expanded(asked)
    if restore is not None and not checkpoints(folder):
        raise ValueError(f"{folder} holds no checkpoint to restore: check the folder, or begin with --maybe-restore")
    return folder, True
