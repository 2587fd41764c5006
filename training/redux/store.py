"""Inputs and targets of many pictures on disk, because they do not fit in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...files.errors import reason
from ...files.writing import abandoned, hold

PREFIX = ".fit-redux-"


class TokenStore:
    """``with TokenStore(folder, shapes) as store``: tensors of equal shapes per picture, float32, gone at the end."""

    def __init__(self, folder: Path, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.shapes = shapes
        self.count = 0
        for old in folder.glob(f"{PREFIX}*"):  # of runs that were killed
            if abandoned(old / "0"):
                shutil.rmtree(old, ignore_errors=True)
        try:
            self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=PREFIX)
            # Unbuffered: what does not fit on the disk is told when it is written, and not when the file is closed.
            self._files = [
                Path(self._folder.name, str(number)).open("wb", buffering=0) for number in range(len(shapes))
            ]
            hold(self._files[0])
        except OSError as error:
            raise ValueError(f"{folder} cannot be written ({reason(error)}): write to another folder") from error

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
        self._folder.cleanup()

    def __len__(self) -> int:
        return self.count

    def add(self, *tensors: Tensor) -> None:
        """One picture's tensors; ValueError where the disk is full."""
        try:
            for file, tensor in zip(self._files, tensors, strict=True):
                content = memoryview(tensor.float().cpu().contiguous().numpy().tobytes())
                while content:
                    content = content[file.write(content) :]
        except OSError as error:
            raise ValueError(
                f"the tokens of picture {self.count + 1} cannot be kept in {self._folder.name} ({reason(error)}): make room "
                "or write the adapter to another disk"
            ) from error
        self.count += 1

    def read(self, index: int) -> tuple[Tensor, ...]:
        """The tensors of a picture."""
        tensors = []
        for file, shape in zip(self._files, self.shapes, strict=True):
            size = int(np.prod(shape))
            flat = np.fromfile(file.name, dtype=np.float32, count=size, offset=4 * size * index)
            tensors.append(torch.from_numpy(flat).view(shape))
        return tuple(tensors)
