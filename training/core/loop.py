"""A whole run: steps, log, looks at the average, checkpoints, and the task's file at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...files.errors import reason
from ...files.pictures import Picture, save_picture
from ...files.progress import Progress
from ...files.writing import make_folder
from .config import OutputSettings
from .monitor import Monitor
from .output import SAMPLES, earlier
from .state import checkpoints, read_checkpoint, write_checkpoint
from .trainer import NotFiniteError, StepReport, Trainer

log = logging.getLogger("dinotile")
SMOOTH = 0.98  # of the loss that progress tells


def fit(
    trainer: Trainer,
    output: OutputSettings,
    *,
    config: Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    cancels: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> None:
    """Run ``trainer`` to its end, with everything in ``output.folder`` (empty: only the task's file is written).

    config: what the run was told, to say at resuming what has changed. resume: go on from the newest checkpoint in the
    folder, if there is one; otherwise such a folder is refused. ``should_stop`` is asked before every step; then the state
    is saved and the task's file is of the steps so far. So it is where ``progress`` or a step raises one of ``cancels``,
    which goes on. NotFiniteError: the state after the last good step has been saved, older checkpoints are all kept.
    """
    run = _Run(trainer, output, config or {}, resume=resume)
    average = 0.0
    try:
        while trainer.share < 1:
            report = run.step(stop=should_stop is not None and should_stop())
            average = SMOOTH * average + (1 - SMOOTH) * report.loss if average else report.loss
            if progress is not None:
                total = trainer.settings.steps if trainer.minutes is None else 60 * trainer.minutes
                progress("train", min(1.0, trainer.share) * total, total, f"loss {average:.4f}")
            if report.stop:
                break
        run.finish()
    except cancels:
        if trainer.done:
            run.finish()
        raise
    finally:
        run.monitor.close()


class _Run:
    """The files of one run; only the first process writes."""

    def __init__(self, trainer: Trainer, output: OutputSettings, config: Mapping[str, Any], *, resume: bool) -> None:
        self.trainer, self.output, self.config = trainer, output, config
        self.folder = Path(output.folder) if output.folder else None
        self.writes = trainer.processes.first
        self.saved = self.exported = -1
        sums = self._resumed(resume=resume)
        trainer.task.begin(looks=self.writes and bool(output.validate_every or output.sample_every))
        place = self.folder if self.writes else None
        try:
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
            self.monitor = Monitor(place, output, step=trainer.done, sums=sums, config=self.config)
        except OSError as error:
            raise ValueError(f"folder {place} cannot be written ({reason(error)}): choose another place") from error

    def step(self, *, stop: bool) -> StepReport:
        due = self.folder is not None and (self.trainer.done + 1) % self.output.log_every == 0
        try:
            report = self.trainer.step(details=due, stop=stop)
        except NotFiniteError as error:
            raise NotFiniteError(f"{error}, {self._keep_last_good()}") from error
        try:
            self._tell(report)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written ({reason(error)}): make room and resume") from error
        if report.step % self.output.save_every == 0:
            self.save()
        return report

    def save(self) -> None:
        if self.folder is not None:
            self._write(self.folder, keep=self.output.keep)
        self.trainer.export()
        self.saved = self.exported = self.trainer.done
        self.trainer.processes.wait()

    def finish(self) -> None:
        """The state of the last step is saved, and the task's file is of this step and where this run writes it."""
        if self.saved != self.trainer.done:
            self.save()
        elif self.exported != self.trainer.done:
            self.trainer.export()

    def _tell(self, report: StepReport) -> None:
        """Log the step, and the looks at the averaged weights that are due after it."""
        if self.writes:
            self.monitor.record(report)
        for every, look in ((self.output.validate_every, self._validate), (self.output.sample_every, self._picture)):
            if every and report.step % every == 0:
                self.trainer.look(partial(look, report.step))

    def _validate(self, step: int) -> None:
        self.monitor.write({"step": step, "validation": self.trainer.task.validate()})

    def _picture(self, step: int) -> None:
        shown = self.trainer.task.picture()
        if shown is not None and self.folder is not None:
            pixels, told = shown
            if told:
                self.monitor.write({"step": step, "validation": told})
            self.monitor.picture("samples", pixels, step=step)
            place = self.folder / SAMPLES / f"step-{step:06d}.png"
            make_folder(place.parent)
            save_picture(Picture(pixels[None]), place)

    def _keep_last_good(self) -> str:
        """Save beside all older checkpoints; the task's file is only made where there is none yet. Where, and what to do."""
        trainer, advice = self.trainer, "lower the learning rate or mend the data"
        if not trainer.done or self.folder is None:
            return f"before anything was learned: {advice}" if not trainer.done else advice
        place, older = self.folder / f"step-{trainer.done:06d}", checkpoints(self.folder)
        trainer.processes.wait()  # until all have seen the same ones
        if place not in older:
            self._write(self.folder, keep=None)
            if not older:
                trainer.export()
        return f"the state before it is in {place}: {advice}, and remove {place.name} where that is too late"

    def _write(self, folder: Path, *, keep: int | None) -> None:
        state = replace(self.trainer.state(), log=self.monitor.sums, config=dict(self.config))
        if self.writes:
            write_checkpoint(folder, state, keep=keep)

    def _resumed(self, *, resume: bool) -> dict[str, Any]:
        """Restore the newest checkpoint into a trainer that has done nothing yet; the log's sums."""
        if self.folder is None or self.trainer.done:
            return {}
        newest = earlier(self.folder, resume=resume)
        if newest is None:
            return {}
        state = read_checkpoint(newest)
        self.trainer.restore(state)
        self.saved = self.trainer.done
        changed = _changed(state.config, dict(self.config))
        log.info("resumed after step %d%s", state.step, f", with other {', '.join(changed)}" if changed else "")
        return state.log


def _changed(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Names of the settings that differ; ``before`` comes from JSON, perhaps of a version without the newest ones."""
    if isinstance(now, dict):
        told = before if isinstance(before, dict) else {}
        return [name for key in now for name in _changed(told.get(key), now[key], f"{prefix}.{key}".lstrip("."))]
    return [] if before == (list(now) if isinstance(now, tuple) else now) else [prefix]
