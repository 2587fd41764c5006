"""What a run says about itself: one JSON line per ``log_every`` steps, and the same numbers on its boards."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files.writing import write_text
from .boards import boards
from .config import OutputSettings
from .trainer import StepReport

LOG = "log.jsonl"


class Monitor:
    """Averages steps into lines of ``folder/log.jsonl``; without a folder it says nothing.

    ``sums``: since the last line, for checkpoints.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: OutputSettings,
        *,
        step: int,
        sums: dict[str, Any],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings, self.path = settings, None
        self.sums = sums
        self.boards = [] if folder is None else boards(folder, settings, step=step, config=config or {})
        self.clock = time.perf_counter()
        if folder is not None:
            self.path = folder / LOG
            _forget_after(self.path, step)

    def due(self, step: int) -> bool:
        """Whether the line of this step, which wants its details, is written."""
        return self.path is not None and step % self.settings.log_every == 0

    def record(self, report: StepReport) -> dict[str, Any] | None:
        """Add a step; the line, where one is due."""
        sums, before, self.clock = self.sums, self.clock, time.perf_counter()
        for name, value in {**_numbers(report), "seconds": self.clock - before, "steps": 1}.items():
            sums[name] = sums.get(name, 0) + value
        for case, losses in report.case_losses.items():
            count, total = sums.get(f"case {case}", (0, 0.0))
            sums[f"case {case}"] = (count + len(losses), total + sum(losses))
        if not self.due(report.step):
            return None
        line = self._line(report)
        self.sums = {}
        self.write(line)
        return line

    def write(self, line: dict[str, Any]) -> None:
        """Append a line with at least its step."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for board in self.boards:
            board.numbers(dict(_flat(line)), step=line["step"])
        self.clock = time.perf_counter()  # what came since the last step, for example a validation, is no step's time

    def picture(self, name: str, pixels: Any, *, step: int) -> None:
        """Show ``pixels`` [3, H, W] on the boards."""
        for board in self.boards:
            board.picture(name, pixels, step=step)
        self.clock = time.perf_counter()

    def close(self) -> None:
        for board in self.boards:
            board.close()

    def _line(self, report: StepReport) -> dict[str, Any]:
        sums, steps = self.sums, self.sums["steps"]
        cases = {name[5:]: value for name, value in sums.items() if name.startswith("case ")}
        rows = sum(count for count, _ in cases.values())
        return {
            "step": report.step,
            **{name: sums[name] / steps for name in _numbers(report)},
            "learning_rate": report.learning_rate,
            "seconds_per_step": round(sums["seconds"] / steps, 4),
            "case_share": {case: count / rows for case, (count, _) in sorted(cases.items())},
            "case_loss": {case: total / count for case, (count, total) in sorted(cases.items())},
            "gradient_norms": report.part_norms,
            **report.details,
        }


def _numbers(report: StepReport) -> dict[str, float]:
    return {"loss": report.loss, **report.measures, "gradient_norm": report.gradient_norm}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; empty where there is none."""
    path = folder / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _forget_after(path: Path, step: int) -> None:
    """Remove lines of steps that a resumed run will do again, and lines that a crash cut short or left as rubbish."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_text(path, "".join(kept))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}/")
        elif name != "step":
            flat.append((f"{prefix}{name}", float(value)))
    return flat
