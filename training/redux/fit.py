"""DINO patches to the tokens of FLUX.1 Redux: an adapter with ``context`` that needs no training of FLUX.

The targets come from pictures alone (SigLIP and Redux), so that FLUX is not in the loop. Ridge regression has a closed
form and fits into the adapter exactly: its projector passes DINO's patches through, its ``context`` layer is the solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.progress import Progress, counted
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.adapter_config import AdapterConfig, adapter_config
from ...flux_patch.geometry import FluxGeometry
from ...hosts.diffusers.redux import ReduxTeacher
from ..data.pictures import decode
from ..data.sample import Skipped
from ..data.sources import find_entries
from .mlp import refine
from .report import FitReport, cosines
from .ridge import Moments, Ridge
from .store import TokenStore
from .tokens import context_inputs, context_targets, passing_adapter

# Rounding inputs to bfloat16 adds noise of 1e-6 times their variance, and such noise is a ridge strength of its own.
STRENGTHS = tuple(10.0**power for power in range(-6, 4))
LEAST_PICTURES = 5  # two held out, so that they can be exchanged, one that chooses, and two to fit


@dataclass(frozen=True)
class FitSettings:
    """layers, side: of ``EncodeSettings``. grid: context tokens per side. held_out: share of the pictures that only the
    report sees. mlp: whether to go on from the ridge solution with a hidden layer. epochs: at most so many for it."""

    layers: str = "2/3"
    side: int = 0
    grid: int = 9
    held_out: float = 0.1
    mlp: bool = False
    epochs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"held out {self.held_out} must be above 0 and at most 0.5: usually 0.1")
        if self.grid < 1 or self.epochs < 1:
            raise ValueError(f"grid {self.grid} and epochs {self.epochs} must be at least 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed {self.seed} must be from 0 to 2^64 - 1: any whole number in this range")


@torch.inference_mode(False)  # of a host, which would make weights that cannot be trained
@torch.no_grad()
def fit_redux(
    path: str | Path | Sequence[str | Path],
    *,
    encoder: DinoEncoder,
    teacher: ReduxTeacher,
    geometry: FluxGeometry,
    settings: FitSettings,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[DinoAdapter, FitReport]:
    """An adapter whose context tokens are like Redux's for the pictures of a folder or of tars.

    folder: where all pictures' tokens lie meanwhile, 4 (D + C) bytes for each of 1 + grid^2 tokens of DINO's width D and
    Redux's width C. Raises ValueError where FLUX is of another width than Redux, and where there are too few pictures.
    """
    if teacher.width != geometry.context:
        raise ValueError(
            f"Redux gives tokens {teacher.width} wide, this FLUX takes text tokens {geometry.context} wide: "
            "give the FLUX that the Redux model was made for"
        )
    encode = EncodeSettings(side=settings.side, layers=settings.layers)
    config = adapter_config(
        encoder.spec,
        geometry,
        layers=settings.layers,
        mechanisms=("context",),
        width=encoder.spec.width,
        grid=settings.grid,
        context_grid=settings.grid,
    )
    device = next(encoder.model.parameters()).device
    adapter, skipped = passing_adapter(config).to(device), Skipped()
    tokens = 1 + settings.grid**2
    with TokenStore(folder, ((tokens, config.width), (tokens, teacher.width))) as store:
        for entry in counted(find_entries(path), "encode", progress):
            with skipped.counting():
                pixels = decode(entry.picture().read())[None]  # [1, 3, H, W]
                targets = teacher.tokens(pixels).float().cpu()
                if not bool(targets.isfinite().all()):
                    raise ValueError(
                        "SigLIP and Redux gave tokens that are NaN or infinite: use float32 or download their files again"
                    )
                inputs = context_inputs(adapter, encoder.encode(pixels, settings=encode))
                store.add(inputs, context_targets(targets, grid=settings.grid))
        if len(store) < LEAST_PICTURES:
            raise ValueError(
                f"{len(store)} pictures can be used ({skipped.total()} were skipped), needed are {LEAST_PICTURES}, "
                "usually thousands: give more pictures"
            )
        layers, null, report = fit_store(store, settings, device=device, progress=progress)
    report = replace(report, skipped=dict(skipped))
    provenance = {
        "command": "fit-redux",
        "targets": "FLUX.1 Redux, whose licence also covers what is derived from it",
        "fingerprints": {
            "dino": encoder.fingerprint,
            "siglip": teacher.fingerprints[0],
            "redux": teacher.fingerprints[1],
        },
        **asdict(settings),
        **asdict(report),
    }
    config = replace(config, provenance=provenance)
    return _adapter(config, layers, null=null), report


def fit_store(
    store: TokenStore, settings: FitSettings, *, device: torch.device, progress: Progress | None = None
) -> tuple[dict[str, Tensor], Tensor, FitReport]:
    """The context layers by parameter name, the mean input [T, D], and the report."""
    fit, choose, held = split(len(store), share=settings.held_out, seed=settings.seed)
    some, others = (summed(store, part, progress) for part in (fit, choose))
    ridge = Ridge(some)
    errors = {s: ridge.solution(s).mean_squared_error(others) for s in STRENGTHS}
    strength = min(errors, key=lambda s: errors[s])
    training = some.merged(others)
    linear, mean = Ridge(training).solution(strength), training.y / training.pictures
    layers = {"context.weight": linear.weight.T, "context.bias": linear.bias}
    report = FitReport(
        len(store), len(held), strength, ridge=cosines(linear, store, held, mean=mean, progress=progress)
    )
    if settings.mlp:
        refined = refine(
            ridge.solution(strength),
            store,
            fit=fit,
            choose=choose,
            epochs=settings.epochs,
            seed=settings.seed,
            device=device,
            progress=progress,
        )
        report = replace(report, mlp=cosines(refined, store, held, mean=mean, progress=progress), epochs=refined.epochs)
        if refined.epochs:
            layers = refined.layers()
    return layers, training.x / training.pictures, report


def _adapter(config: AdapterConfig, layers: dict[str, Tensor], *, null: Tensor) -> DinoAdapter:
    """The passing adapter with these context layers; its learned nulls are the mean inputs."""
    hidden = layers.get("context_hidden.bias")
    adapter = passing_adapter(replace(config, context_hidden=0 if hidden is None else len(hidden)))
    state = {**adapter.state_dict(), **layers, "null_cls": null[0], "null_patch": null[1:].mean(0)}
    adapter.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return adapter


def split(count: int, *, share: float, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Pictures to fit, to choose by, and held out: a random partition, the last two about ``share`` of what there is."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(2, round(share * count))
    chosen = max(1, round(share * (count - held)))
    return sorted(order[held + chosen :]), sorted(order[held : held + chosen]), sorted(order[:held])


def summed(store: TokenStore, pictures: Sequence[int], progress: Progress | None = None) -> Moments:
    """Over some pictures of the store, one at a time."""
    (tokens, inputs), (_, outputs) = store.shapes
    moments = Moments.empty(tokens, inputs, outputs)
    for index in counted(pictures, "sum", progress):
        moments.add(*store.read(index))
    return moments
