"""``--store`` and ``--redo``: finished tiles on disk, and which of them are done again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.kinds import MOST_STORED
from ..files.paths import expanded

if TYPE_CHECKING:
    from ..upscaling.settings import UpscaleSettings


@dataclass(frozen=True)
class Store:
    """folder: of finished tiles, or None. size: GiB of it at most. redo: tiles that are done again; redone: instead of it, by
    numbers from 0, in that order."""

    folder: Path | None = None
    size: float = MOST_STORED
    redo: str = ""
    redone: tuple[int, ...] = ()

    @property
    def painted(self) -> Path | None:
        """The picture that says which tiles are done again."""
        path = expanded(self.redo)  # or many numbers, which are longer than a name may be
        return path if os.path.isfile(path) else None

    @property
    def absolute(self) -> Store:
        """The same for a process that works in another folder."""
        folder = None if self.folder is None else self.folder.absolute()
        return replace(self, folder=folder, redo=str(self.painted.absolute()) if self.painted else self.redo)

    def check(self, settings: UpscaleSettings, *, jobs: int, compare: bool) -> None:
        """ValueError for what does not go together."""
        from ..tiling.store import check_store
        from ..upscaling.sequential import check_sequential

        if self.size != MOST_STORED and self.folder is None:
            raise ValueError("--store-size bounds a store, and none was named: leave it out, or name one with --store")
        if self.redo and self.folder is None:
            raise ValueError("--redo takes all other tiles from a store, and none was named: name one with --store")
        if self.redo and jobs > 1:
            raise ValueError(f"--redo means tiles of one picture, and {jobs} were given: give one")
        if self.folder is not None and settings.mode == "joint":
            raise ValueError(
                "--store keeps finished tiles, which mode joint has none of: leave out --store or --mode joint"
            )
        if self.folder is not None:
            check_store(self.folder, most=self.size)
        if self.folder is not None or settings.mode == "sequential":
            check_sequential(settings)
            if compare:
                raise ValueError(
                    "--compare needs the whole result, and mode sequential never has it: leave out one of them"
                )
