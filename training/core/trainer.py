"""One optimiser step of a task after another; what comes around it is in loop.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...hosts.attention import differentiable_attention
from .average import Average, write
from .config import OptimisationSettings
from .optimiser import adamw, memory_of, part_norms, rate_at, remember
from .processes import Processes, held, joined
from .state import TrainState
from .task import Task


class NotFiniteError(ValueError):
    """The loss or the gradient of a step is NaN or infinite; the weights are those of the step before."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step did, over all processes. step: number of steps done with it.

    case_losses: of every row. measures: means of what the task tells of rows. gradient_norm: before clipping. The dicts
    below are empty where details were not asked for: gradient norm of each part, and the task's own.
    """

    step: int
    loss: float
    case_losses: dict[str, list[float]]
    measures: dict[str, float]
    gradient_norm: float
    learning_rate: float
    stop: bool = False
    part_norms: dict[str, float] = field(default_factory=dict)
    details: dict[str, dict[str, float]] = field(default_factory=dict)


class Trainer:
    """Trains ``task``, with AdamW unless ``optimizers`` of its parameters are given.

    processes: None for this one alone; those that spread a model have done so. minutes: of computing, instead of
    ``settings.steps``; the weights then depend on the machine's speed. least: the learning rate at the end, as a part of
    its peak; hold: the share of the run up to which it stays there.
    """

    def __init__(
        self,
        task: Task,
        settings: OptimisationSettings,
        *,
        processes: Processes | None = None,
        optimizers: Sequence[Optimizer] = (),
        minutes: float | None = None,
        least: float = 0.1,
        hold: float = 0.0,
    ) -> None:
        self.task, self.settings = task, settings
        self.processes = processes or Processes()
        self.parameters = dict(task.parameters)
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)  # a part that a step does not use has a gradient of zero
        self.average = Average(self.parameters, decay=settings.ema)
        self.optimizers = list(optimizers) or [adamw(self.parameters, settings, device=task.device)]
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=settings.precision == "fp16")  # type: ignore[attr-defined]
        self.minutes, self.least, self.hold = minutes, least, hold
        self.done, self.seconds = 0, 0.0

    @property
    def rows_per_step(self) -> int:
        return self.settings.batch * self.settings.accumulation * self.processes.count

    @property
    def share(self) -> float:
        """Of the run that is done; it ends at 1."""
        return self.done / self.settings.steps if self.minutes is None else self.seconds / (60 * self.minutes)

    def step(self, *, details: bool = False, stop: bool = False) -> StepReport:
        """One optimiser step. ``stop`` of any process comes back in the report of all. Raises NotFiniteError."""
        start = time.perf_counter()
        share = rate_at(self.share, step=self.done, warmup=self.settings.warmup, least=self.least, hold=self.hold)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = share * group.setdefault("initial_lr", group["lr"])
        cases = [self.task.case(slot, step=self.done) for slot in range(self.rows_per_step)]
        losses, measures, stopped = self._finite_gradients(cases, watch=details, stop=stop)
        parts = part_norms(self.parameters, self.processes) if details else {}
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.done += 1
        self.average.follow(step=self.done)
        by_case: dict[str, list[float]] = {}
        for case, loss in zip(cases, losses, strict=True):
            by_case.setdefault(case, []).append(loss)
        self.seconds += time.perf_counter() - start
        return StepReport(
            step=self.done,
            loss=sum(losses) / len(losses),
            case_losses=by_case,
            measures={name: sum(values) / len(values) for name, values in measures.items()},
            gradient_norm=float(joined(norm)),
            learning_rate=self.optimizers[0].param_groups[0]["lr"],
            stop=stopped,
            part_norms=parts,
            details=self.task.details() if details else {},
        )

    def look(self, at: Callable[[], None]) -> None:
        """Call ``at`` in the first process, with the averaged weights in the task's model; all processes have to."""
        self.processes.look(self.task, self.average, at)

    def export(self) -> None:
        self.look(lambda: self.task.export(steps=self.done, rows_per_step=self.rows_per_step))

    def state(self) -> TrainState:
        """All that the next step depends on, with the tensors themselves: write it before that step, in the first process. All
        processes have to ask."""
        memory, numbers = memory_of(self.optimizers, self.parameters)
        return TrainState(
            identity=self.task.identity(),
            step=self.done,
            seconds=self.seconds,
            weights=self.processes.whole(self.parameters),
            average=self.processes.whole(self.average.weights),
            memory=self.processes.whole(memory),
            numbers=numbers,
            scaler=self.scaler.state_dict(),
            precision=self.settings.precision,
        )

    def restore(self, state: TrainState) -> None:
        """Go on from a state of this task; ValueError where it is another's."""
        mine, theirs = self.task.identity(), state.identity
        differs = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        shapes, kept = ({name: t.shape for name, t in each.items()} for each in (self.parameters, state.weights))
        if differs or shapes != kept:
            raise ValueError(
                f"the checkpoint differs in {', '.join(differs) or 'its parameters'}: choose another output folder, or the "
                f"settings it was begun with"
            )
        self._check_precision(state)
        write(self.parameters, self._own(state.weights))
        write(self.average.weights, self._own(state.average))
        remember(self.optimizers, self.parameters, {**self._own(state.memory, kinds=True), **state.numbers})
        self.scaler.load_state_dict(state.scaler)
        self.done, self.seconds = state.step, state.seconds

    def _own(self, tensors: Mapping[str, Tensor], *, kinds: bool = False) -> dict[str, Tensor]:
        """What this process holds of whole tensors; kinds: they are an optimiser's, some of which are not parted."""
        found = {}
        for name, tensor in tensors.items():
            like = self.parameters.get(name.partition(".")[2] if kinds else name)
            parted = like is not None and like.shape == tensor.shape
            found[name] = self.processes.own(tensor, like=like) if parted else tensor  # type: ignore[arg-type]
        return found

    def _check_precision(self, state: TrainState) -> None:
        mine, scaled = self.settings.precision, bool(state.scaler)
        dtypes = {name: parameter.dtype for name, parameter in self.parameters.items()}
        odd = [t.dtype for name, t in state.memory.items() if t.dtype != dtypes.get(name.partition(".")[2], t.dtype)]
        if odd or state.precision not in ("", mine) or scaled != self.scaler.is_enabled():
            begun = f"an optimizer state in {odd[0]}" if odd else f"precision {state.precision or 'of another kind'!r}"
            raise ValueError(
                f"the checkpoint is of a run with {begun}, this one has precision {mine!r} and learns in float32: set "
                "optimisation.precision to that run's, or begin anew in another output folder with adapter.warm_start"
            )

    def _finite_gradients(
        self, cases: Sequence[str], *, watch: bool, stop: bool
    ) -> tuple[list[float], dict[str, list[float]], bool]:
        """``_gradients``, unscaled; where they are too large for fp16, of the same rows again at half the scale of the loss."""
        while True:
            told = self._gradients(cases, watch=watch, stop=stop)
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            odd = [(~held(parameter.grad).isfinite()).any() for parameter in self.parameters.values()]  # type: ignore[arg-type]
            if not bool(self.processes.completed(torch.stack(odd).float().sum())):
                return told
            if not self.scaler.is_enabled() or self.scaler.get_scale() <= 1:
                drawn = ", ".join(sorted(set(cases)))
                raise NotFiniteError(f"the gradient is not finite at step {self.done + 1} (cases {drawn})")
            self.scaler.update()

    def _gradients(
        self, cases: Sequence[str], *, watch: bool, stop: bool
    ) -> tuple[list[float], dict[str, list[float]], bool]:
        """Gradients of the global batch, in place; loss and measures of every row of it, and whether to stop."""
        total, names = self.rows_per_step, ("loss", *self.task.measures)
        counts = torch.zeros(len(names) * total + 1, device=self.task.device)
        counts[-1] = float(stop)
        gradients: list[Tensor] = [parameter.grad for parameter in self.parameters.values()]  # type: ignore[misc]
        for gradient in gradients:
            gradient.zero_()
        shown: dict[int, str] = {}
        for micro in range(self.settings.accumulation):
            first = (micro * self.processes.count + self.processes.number) * self.settings.batch
            slots = range(first, first + self.settings.batch)  # this process's places in the global batch
            rows = self.task.rows(slots, step=self.done, total=total)
            with differentiable_attention():
                told = self.task.losses(rows, watch=watch and not micro)
                self.scaler.scale(told["loss"].sum() / total).backward()
            for place, name in enumerate(names):
                at = torch.tensor(slots, device=counts.device) + place * total
                counts[at] = told[name].detach().to(counts)
            shown.update((slot, self.task.name(row)) for slot, row in zip(slots, rows, strict=True))
        self.processes.add_up_rows(counts, gradients)
        *values, stopped = counts.tolist()
        losses, *measures = (values[place : place + total] for place in range(0, len(values), total))
        self._check(losses, cases, shown)
        return losses, dict(zip(self.task.measures, measures, strict=True)), stopped > 0

    def _check(self, losses: Sequence[float], cases: Sequence[str], shown: Mapping[int, str]) -> None:
        for slot, loss in enumerate(losses):
            if not math.isfinite(loss):
                told = ", ".join(part for part in (f"case {cases[slot]}", shown.get(slot)) if part)
                raise NotFiniteError(f"the loss is not finite at step {self.done + 1} ({told})")
