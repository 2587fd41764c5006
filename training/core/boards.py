"""Where the numbers and pictures of a run are shown beside its own log: TensorBoard, Weights & Biases."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ...files.errors import reason
from ...files.writing import write_text
from .config import OutputSettings

RUN = "wandb.id"  # the file that tells a resumed run its name
log = logging.getLogger("dinotile")


class Board(Protocol):
    """Something that draws curves."""

    def numbers(self, values: Mapping[str, float], *, step: int) -> None: ...

    def picture(self, name: str, pixels: Any, *, step: int) -> None:
        """pixels: [3, H, W] in 0..1."""
        ...

    def close(self) -> None: ...


def boards(folder: Path, settings: OutputSettings, *, step: int, config: Mapping[str, Any]) -> list[Board]:
    """The boards that are asked for, of a run that has done ``step`` steps; ValueError where one cannot be had.

    config: what the run was told, to be shown with it.
    """
    asked: list[Board | None] = [WandbBoard(folder, settings.wandb, config)] if settings.wandb else []
    asked += [_tensorboard(folder, step)] if settings.tensorboard else []
    return [board for board in asked if board is not None]


class TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: Any, *, step: int) -> None:
        self.writer.add_image(name, pixels, step)

    def close(self) -> None:
        self.writer.close()


def _tensorboard(folder: Path, step: int) -> TensorBoard | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("tensorboard is not installed, so there is only the log: pip install tensorboard")
        return None
    return TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))


class WandbBoard:
    """A run of a project at Weights & Biases; WANDB_MODE=offline keeps it in the folder."""

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError as error:
            raise ValueError(
                'output.wandb needs wandb, which is not installed: pip install "dinotile[wandb]", or leave it out'
            ) from error
        place = folder / RUN
        if not place.is_file():
            write_text(place, secrets.token_hex(8))
        name = place.read_text(encoding="utf-8").strip()
        options: dict[str, Any] = {"project": project, "dir": str(folder), "config": dict(config)}
        try:
            self.run = wandb.init(**options, id=name, resume="allow")
        except (wandb.Error, OSError, ValueError) as error:
            raise ValueError(
                f"output.wandb {project} cannot be opened ({reason(error)}): run `wandb login`, set WANDB_MODE=offline, or "
                "leave it out"
            ) from error
        self.run.define_metric("*", step_metric="step")  # its own step never goes back, as a resumed run does
        self.image = wandb.Image

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        self.run.log({"step": step, **values})

    def picture(self, name: str, pixels: Any, *, step: int) -> None:
        self.run.log({"step": step, name: self.image(pixels.clamp(0, 1).permute(1, 2, 0).cpu().numpy())})

    def close(self) -> None:
        self.run.finish()
