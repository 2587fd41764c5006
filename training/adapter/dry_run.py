"""What a training would find and take, without training: samples, memory, hours. The last two are estimates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...files.progress import Progress, counted
from ...flux_patch.adapter_config import AdapterConfig, all_sites
from ...flux_patch.families import FAMILIES
from ...flux_patch.geometry import FluxGeometry
from ...hosts.host import EMPTY_TOKENS
from ...hosts.rate import REACHED, matrix_rate
from ...upscaling.device import find_device
from ...upscaling.forecast import SQUARES, flux_bytes
from ..data.pictures import Data
from ..data.sample import Skipped
from ..data.side_files import TEXT_ARRAYS
from ..data.stored import stored_text
from .ahead import check_models, check_paths
from .config import TrainConfig
from .run import check_device, judge_of

GIB = 2**30
KEPT = 13  # times tokens x hidden: what a block keeps for the backward pass, counted at FLUX.1's width
COPIES = 5 * 4  # bytes per parameter of the adapter: weight, gradient, AdamW's two moments, average
OTHER = GIB  # the VAE, a projected picture, what CUDA and its libraries keep
SMALLER = (
    "set model.weights fp8, model.gradient_checkpointing, a smaller batch with more accumulation, or a smaller tile"
)


@dataclass(frozen=True)
class Work:
    """Of one row. tokens: in FLUX's attention. flops: multiplications and additions of a step, counted apart. kept: bytes for
    its backward pass."""

    tokens: int
    flops: float
    kept: float


@dataclass(frozen=True)
class DryRun:
    """skipped: samples that cannot be used, by reason. text: how many of the others bring encoded captions. memory: bytes by
    part. rate: of floating point operations per second that is reckoned with. room: bytes of a GPU's memory. begun: steps that
    are done."""

    samples: int
    skipped: Skipped
    text: int
    adapter: AdapterConfig
    parameters: int
    rows: int
    steps: int
    work: Work
    memory: dict[str, float]
    rate: float
    device: str
    room: int | None
    begun: int

    @property
    def usable(self) -> int:
        return self.samples - self.skipped.total()

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.rows * self.work.flops / self.rate

    @property
    def hours(self) -> float:
        return self.seconds * (self.steps - self.begun) / 3600

    def lines(self) -> list[str]:
        sites = f", {len(self.adapter.sites)} sites from {self.adapter.sites[0]}" if self.adapter.sites else ""
        needed = sum(self.memory.values())
        scarce = self.room is not None and needed > self.room
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.memory.items())
        seen = self.steps * self.rows / max(1, self.usable)
        return [
            f"samples: {self.usable} of {self.samples} can be used" + (f" ({self.skipped})" if self.skipped else ""),
            f"text: {self.text} bring encoded captions, the others train without",
            f"rows: {self.steps} steps x {self.rows}, {seen:.1f} for every sample; {self.work.tokens} tokens each",
            f"adapter: {self.parameters / 1e6:.1f} million parameters{sites}",
            f"memory: about {needed / GIB:.3g} GiB (estimated: {parts})"
            + (f", MORE than the {(self.room or 0) / GIB:.3g} GiB there: {SMALLER}" if scarce else ""),
            f"time: about {self.hours:.2g} h on {self.device}, {self.seconds:.2g} s a step (estimated: "
            f"{self.rows * self.work.flops / 1e12:.2g} TFLOP at {self.rate / 1e12:.2g} TFLOP/s; pictures are not counted)",
            f"begun: {self.begun} steps are done" if self.begun else "begun: nothing is there yet",
        ]


def dry_run(config: TrainConfig, *, resume: bool = True, progress: Progress | None = None) -> DryRun:
    """Look at the paths, the data, the models and the judge; ValueError for what ``train`` would refuse there."""
    again = check_paths(config, resume=resume)
    module, dino_size = check_models(config)
    adapter, geometry = module.config, module.config.geometry
    data = Data(config.data, needs_features=(adapter.dino, adapter.how), encoder="", family=geometry.family)
    usable = [index for index in counted(range(len(data)), "look", progress) if data.usable(index)]
    tokens = {names[0] for names in TEXT_ARRAYS.values()}
    texts = [data.entries[index] for index in usable if tokens & set(data.entries[index].members)]
    context = stored_text(texts[0], geometry.family)[0] if texts else None
    parameters = sum(parameter.numel() for parameter in module.parameters())
    device, optimisation = find_device(config.model.device), config.optimisation
    check_device(config, device)
    work = work_of(config, geometry, adapter, text=EMPTY_TOKENS if context is None else len(context))
    judge = judge_of(config, device=torch.device("cpu"))
    return DryRun(
        samples=len(data),
        skipped=data.skipped,
        text=len(texts),
        adapter=adapter,
        parameters=parameters,
        rows=optimisation.batch * optimisation.accumulation,
        steps=optimisation.steps,
        work=work,
        memory={
            **memory_of(config, geometry, work, parameters=parameters),
            "DINO": 4 * dino_size,
            **({} if judge is None else {"judge": 4 * judge.parameters}),
        },
        rate=REACHED * matrix_rate(device, getattr(torch, config.model.dtype)),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        room=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        begun=int(again.name[5:]) if again else 0,
    )


def memory_of(config: TrainConfig, geometry: FluxGeometry, work: Work, *, parameters: int) -> dict[str, float]:
    """Bytes on the device by part, DINO aside. parameters: of the adapter."""
    return {
        "FLUX": flux_bytes(geometry, wide=getattr(torch, config.model.dtype).itemsize, weights=config.model.weights),
        "adapter and optimiser": COPIES * parameters,
        "backward pass": config.optimisation.batch * work.kept,
        "other": OTHER,
    }


def work_of(config: TrainConfig, geometry: FluxGeometry, adapter: AdapterConfig, *, text: int) -> Work:
    """Every block multiplies each token by 12 hidden^2 weights (FLUX.2's by 13) and with all tokens twice; backward, only
    activations have a gradient, and attention takes 2.5 times as much. Blocks before the first that needs a gradient run once,
    and that one's attention comes before its site."""
    family, hidden = FAMILIES[geometry.family], geometry.hidden
    height, width = (config.data.tile or side for side in config.data.size)
    rows, columns = height // family.token, width // family.token
    tokens = (
        rows * columns
        + max(text, family.text_length)
        + (1 + adapter.context_grid**2 if "context" in adapter.mechanisms else 0)
    )
    products, attention = 2 * SQUARES[family.name][0] * tokens * hidden**2, 4 * tokens**2 * hidden
    blocks, again = all_sites(geometry), config.model.gradient_checkpointing
    only_sites = adapter.mechanisms == ("cross_attention",)
    learning = len(blocks) - (min(map(blocks.index, adapter.sites)) if only_sites else 0)
    forward = len(blocks) * (products + attention) * (2 if config.conditions.dino_guidance > 1 else 1)
    backward = learning * (1 + again) * products + (2.5 * (learning - only_sites) + again * learning) * attention
    unit = tokens * hidden * getattr(torch, config.model.dtype).itemsize
    return Work(tokens, forward + backward, unit * (learning + KEPT if again else KEPT * learning))
