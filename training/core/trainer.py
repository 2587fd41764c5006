"""One optimiser step after another on models already loaded; what comes around it is in loop.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...flux_patch.adapter import DinoAdapter
from ...hosts.diffusers.host import Host
from ..adapter.attention import AttentionMass
from ..adapter.cases import draw_case, draw_start, generator_for
from ..adapter.config import TrainConfig
from ..adapter.prepare import Pictures, Preparer
from ..adapter.step import draw_rows, null_velocities, velocity_losses
from .optimisation import adamw, follow, learning_rate, moments, part_norms, restore_moments
from .processes import Alone, Processes, add_up
from .state import TrainState

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class NotFiniteError(ValueError):
    """The loss or the gradient of a step is NaN or infinite; the weights are those of the step before."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did, over all processes. step: number of steps done with it.

    case_losses: of every row; those that begin at the source are cases of their own. velocity: root mean square of the
    prediction. gradient_norm: before clipping. The dicts below are empty where details were not asked for: gradient norm of
    each part, mean gate of each site, attention mass (``AttentionMass``, of the first process' first rows).
    """

    step: int
    loss: float
    case_losses: dict[str, list[float]]
    velocity: float
    gradient_norm: float
    learning_rate: float
    stop: bool = False
    part_norms: dict[str, float] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    attention: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains ``host.adapter`` on ``data``. Of ``config``, the model and adapter sections are not used here.

    Everything random is decided by the seed, the number of the step and the row's place in the global batch, so that a
    run that was stopped and resumed, or spread over processes, does what one uninterrupted process does.
    """

    def __init__(self, host: Host, data: Pictures, config: TrainConfig, *, processes: Processes | None = None) -> None:
        self.host, self.data, self.config = host, data, config
        self.processes = processes or Alone()
        self.preparer = Preparer(host, data, config=config)
        host.adapter.requires_grad_(True).train()
        self.parameters = dict(host.adapter.named_parameters())
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)  # a part that a step does not use has a gradient of zero
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.optimizer = adamw(self.parameters, config.optimisation, device=host.device)
        self.dtype = PRECISIONS[config.optimisation.precision]
        scaled = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(host.device.type, enabled=scaled)  # type: ignore[attr-defined]
        self.done = 0
        output = config.output
        held = output.validation_pictures if output.validate_every or output.sample_every else 0
        self.count = len(data) - held if len(data) >= 4 * held else len(data)  # pictures that are trained on

    @property
    def rows_per_step(self) -> int:
        settings = self.config.optimisation
        return settings.batch * settings.accumulation * self.processes.num_processes

    def step(self, *, details: bool = False, stop: bool = False) -> StepReport:
        """One optimiser step. ``stop`` of any process comes back in the report of all. Raises NotFiniteError."""
        settings = self.config.optimisation
        rate = learning_rate(settings, step=self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        probe = AttentionMass() if details else None
        losses, velocities, stopped = self._gradients(probe, stop=stop)
        self.scaler.unscale_(self.optimizer)
        parts = part_norms(self.parameters) if details else {}
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip or math.inf))
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler leaves such a step out
            drawn = ", ".join(sorted({self._case(slot) for slot in range(self.rows_per_step)}))
            raise NotFiniteError(f"the gradient is not finite at step {self.done + 1} (cases {drawn})")
        cases: dict[str, list[float]] = {}
        for slot, loss in enumerate(losses):
            cases.setdefault(self._case(slot), []).append(loss)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        follow(self.average, self.parameters, decay=settings.ema, step=self.done)
        return StepReport(
            step=self.done,
            loss=sum(losses) / len(losses),
            case_losses=cases,
            velocity=sum(velocities) / len(velocities),
            gradient_norm=norm,
            learning_rate=rate,
            stop=stopped,
            part_norms=parts,
            gates=self.gates() if details else {},
            attention=probe.means() if probe else {},
        )

    def autocast(self) -> Any:
        return torch.autocast(self.host.device.type, self.dtype, enabled=self.dtype is not None)

    def gates(self) -> dict[str, float]:
        """The gate of each site, averaged over five noise levels."""
        adapter = self.host.adapter
        if "cross_attention" not in adapter.config.mechanisms:
            return {}
        with torch.no_grad():
            found = adapter.gate(torch.linspace(0.1, 0.9, 5, device=self.host.device)).float().mean(0)
        return dict(zip(adapter.config.sites, found.tolist(), strict=True))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the adapter for a while, to look at what would be saved."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(kept)

    def export(self, *, averaged: bool = True) -> DinoAdapter:
        """A copy of the adapter on the CPU, with where it comes from in its configuration."""
        about = self.config.model_dump()
        provenance: dict[str, Any] = {"steps": self.done, "pictures": self.count, "rows_per_step": self.rows_per_step}
        provenance |= {name: about[name] for name in ("conditions", "degradation", "optimisation")}
        with torch.device("meta"):
            copy = DinoAdapter(dataclasses.replace(self.host.adapter.config, provenance=provenance))
        weights = self.average if averaged else self.parameters
        on_cpu = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
        copy.load_state_dict(on_cpu, assign=True)
        return copy.requires_grad_(False).eval()

    def state(self) -> TrainState:
        """All that the next step depends on."""
        return TrainState(
            step=self.done,
            adapter=self.export(averaged=False),
            average=self.export(),
            moments=moments(self.optimizer, self.parameters),
            scaler=self.scaler.state_dict(),
        )

    def restore(self, state: TrainState) -> None:
        """Go on from a state of this adapter; ValueError where it is another's."""
        mine, theirs = (dataclasses.replace(a.config, provenance={}) for a in (self.host.adapter, state.adapter))
        if mine != theirs:
            differs = [f.name for f in dataclasses.fields(mine) if getattr(mine, f.name) != getattr(theirs, f.name)]
            raise ValueError(
                f"the checkpoint's adapter differs in {', '.join(differs)}: choose another output folder, or the settings "
                f"it was begun with"
            )
        self._write(dict(state.adapter.named_parameters()))
        for name, tensor in state.average.named_parameters():
            self.average[name].copy_(tensor)
        restore_moments(self.optimizer, self.parameters, state.moments)
        self.scaler.load_state_dict(state.scaler)
        self.done = state.step

    def _gradients(self, probe: AttentionMass | None, *, stop: bool) -> tuple[list[float], list[float], bool]:
        """Gradients of the global batch, in place; the loss and velocity of every row of it, and whether to stop."""
        total = self.rows_per_step
        counts = torch.zeros(2 * total + 1, device=self.host.device)
        counts[-1] = float(stop)
        gradients: list[Tensor] = [parameter.grad for parameter in self.parameters.values()]  # type: ignore[misc]
        for gradient in gradients:
            gradient.zero_()
        names: dict[int, str] = {}
        for micro in range(self.config.optimisation.accumulation):
            slots, first = self._slots(micro), self.done * total
            rows = draw_rows(self.preparer, slots, step=self.done, first=first, count=self.count)
            drawn, guidance = list(rows.values()), self.config.conditions.dino_guidance
            watched = probe.watching(self.host, drawn) if probe and not micro else nullcontext()
            # A context of its own: some versions of torch keep casts that were made without gradient.
            with self.autocast():
                null = null_velocities(self.host, drawn) if guidance > 1 else None
            with self.autocast(), watched:
                losses, velocities = velocity_losses(self.host, drawn, guidance=guidance, null=null)
            self.scaler.scale(losses.sum() / total).backward()
            at = torch.tensor(slots, device=counts.device)
            counts[at], counts[total + at] = losses.detach(), velocities
            names.update((slot, row.picture) for slot, row in rows.items())
        add_up([counts, *gradients], self.processes)
        found = counts.tolist()
        self._check(found[:total], names)
        return found[:total], found[total:-1], found[-1] > 0

    def _slots(self, micro: int) -> list[int]:
        """This process's places in the global batch."""
        batch = self.config.optimisation.batch
        first = (micro * self.processes.num_processes + self.processes.process_index) * batch
        return list(range(first, first + batch))

    def _case(self, slot: int) -> str:
        """What ``draw_rows`` draws there in the step that comes, in whichever process; "both", "both from source", ..."""
        conditions, seed = self.config.conditions, self.config.optimisation.seed
        case = draw_case(conditions, generator=generator_for(seed, "row", self.done, slot))
        start = draw_start(conditions, generator=generator_for(seed, "start", self.done, slot))
        return case if start is None else f"{case} from source"

    def _check(self, losses: list[float], names: Mapping[int, str]) -> None:
        for slot, loss in enumerate(losses):
            if not math.isfinite(loss):
                picture = f", picture {names[slot]}" if slot in names else ""
                raise NotFiniteError(
                    f"the loss is not finite at step {self.done + 1} (case {self._case(slot)}{picture})"
                )

    @torch.no_grad()
    def _write(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
