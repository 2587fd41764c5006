"""A whole run: models, data, steps, log, checkpoints, and the adapter at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...files.progress import Progress
from ...hosts.diffusers.host import load_host
from ...upscaling.api import find_device
from ..adapter.config import TrainConfig
from ..adapter.validate import Validation
from ..adapter.warm import warm_start
from .monitor import Monitor
from .state import ADAPTER, TrainState, checkpoints, read_checkpoint, write_adapter, write_checkpoint
from .trainer import NotFiniteError, StepReport, Trainer

__all__ = ["NotFiniteError", "StepReport", "Trainer", "fit", "train"]

log = logging.getLogger("dinotile")


def train(
    config: TrainConfig,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Load everything that ``config`` names, train, and return the adapter's file.

    Runs in one process, or in each of those that ``accelerate launch`` started. ``resume``: go on from the newest checkpoint
    in the output folder, if there is one; otherwise such a folder is refused. Raises ValueError for what the user can mend.
    """
    from accelerate import Accelerator

    from ..data.pictures import open_data

    for name, value in (("data.path", config.data.path), ("output.folder", config.output.folder)):
        if not value:
            raise ValueError(f"{name} is empty: say where it is")
    processes = Accelerator(cpu=config.model.device == "cpu")
    device = find_device(config.model.device) if processes.num_processes == 1 else processes.device
    host = load_host(config.model, config.adapter, device=device, seed=config.optimisation.seed)
    adapter = host.adapter.config
    needed = (adapter.dino, adapter.layers) if config.data.features else None
    data = open_data(config.data, needs_features=needed, encoder=host.dino.fingerprint if needed else "")
    if config.adapter.warm_start:
        log.info("warm start: %s", warm_start(host.adapter, config.adapter.warm_start))
    trainer = Trainer(host, data, config, processes=processes)
    return fit(trainer, resume=resume, progress=progress, should_stop=should_stop)


def fit(
    trainer: Trainer,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Run ``trainer`` to its last step, with everything in the folder ``config.output.folder``; the adapter's file.

    ``should_stop`` is asked before every step; then the state is saved and the adapter so far returned. NotFiniteError:
    the state after the last good step has been saved, older checkpoints are all kept.
    """
    run, steps, loss = _Run(trainer, resume=resume), trainer.config.optimisation.steps, None
    try:
        while trainer.done < steps:
            wanted = should_stop is not None and should_stop()
            report = run.step(stop=wanted)
            if progress is not None:
                loss = report.loss if loss is None else 0.98 * loss + 0.02 * report.loss
                progress("train", report.step, steps, f"loss {loss:.4f}")
            if report.stop:
                break
        return run.finish()
    finally:
        run.close()


class _Run:
    """The files of one run; only the first process writes."""

    def __init__(self, trainer: Trainer, *, resume: bool) -> None:
        self.trainer, self.settings = trainer, trainer.config.output
        self.folder = Path(self.settings.folder)
        self.writes = trainer.processes.process_index == 0
        self.saved = -1
        self.validation = Validation(trainer, self.folder)
        window = self._begin(resume=resume)
        if self.writes and (self.settings.validate_every or self.settings.sample_every):
            self.validation.shown()  # raises before the first step, not at the first validation
        self.monitor = None
        if self.writes:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.monitor = Monitor(self.folder, self.settings, step=trainer.done, window=window)
            except OSError as error:
                raise ValueError(
                    f"folder {self.folder} cannot be written ({error.strerror}): choose another place"
                ) from error

    def step(self, *, stop: bool) -> StepReport:
        trainer = self.trainer
        due = (trainer.done + 1) % self.settings.log_every == 0
        try:
            report = trainer.step(details=due, stop=stop)
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}, {self._keep_last_good()}") from None
        try:
            if self.monitor is not None:
                self.monitor.record(report, skipped=trainer.data.skipped)
                self.validation.run(self.monitor, step=report.step)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written ({error.strerror}): make room and resume") from error
        if report.step % self.settings.save_every == 0:
            self.save()
        return report

    def save(self) -> None:
        if self.writes:
            state = self._state()
            write_checkpoint(self.folder, state, keep=self.settings.keep)
            write_adapter(self.folder, state.average)
        self.saved = self.trainer.done
        self.trainer.processes.wait_for_everyone()

    def finish(self) -> Path:
        if self.saved != self.trainer.done:
            self.save()
        return self.folder / ADAPTER

    def close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def _keep_last_good(self) -> str:
        """Save beside all older checkpoints; the adapter's file is only made where there is none yet. Where, and what to do."""
        trainer, advice = self.trainer, "lower the learning rate or mend the data"
        if not trainer.done:
            return f"before anything was learned: {advice}"
        place = self.folder / f"step-{trainer.done:06d}"
        if self.writes and place not in checkpoints(self.folder):
            state = self._state()
            write_checkpoint(self.folder, state, keep=None)
            if not (self.folder / ADAPTER).is_file():
                write_adapter(self.folder, state.average)
        return f"the state before it is in {place}: {advice}, and remove {place.name} where that is too late"

    def _state(self) -> TrainState:
        window = {} if self.monitor is None else self.monitor.window
        return replace(self.trainer.state(), log=window, config=self.trainer.config.model_dump())

    def _begin(self, *, resume: bool) -> dict[str, Any]:
        """Restore the newest checkpoint into a trainer that has done nothing yet; the log's sums."""
        data, count = self.trainer.data, self.trainer.count
        if count == len(data) and (self.settings.validate_every or self.settings.sample_every):
            log.warning("the data has only %d pictures, so validation shows pictures that are trained on", count)
        found = checkpoints(self.folder)
        if not found or self.trainer.done:
            return {}
        if not resume:
            raise ValueError(
                f"{self.folder} holds {found[-1].name} of an earlier run: resume it, remove it, or choose another folder"
            )
        state = read_checkpoint(found[-1])
        self.trainer.restore(state)
        self.saved = self.trainer.done
        changed = _changed(state.config, self.trainer.config.model_dump())
        log.info("resumed after step %d%s", state.step, f", with other {', '.join(changed)}" if changed else "")
        return state.log


def _changed(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Names of the settings that differ; ``before`` comes from JSON, perhaps of a version without the newest ones."""
    if isinstance(now, dict):
        told = before if isinstance(before, dict) else {}
        return [name for key in now for name in _changed(told.get(key), now[key], f"{prefix}.{key}".lstrip("."))]
    return [] if before == (list(now) if isinstance(now, tuple) else now) else [prefix]
