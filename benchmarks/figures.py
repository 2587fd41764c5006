"""What every file of figures says about the run that made it."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile.upscaling.report import environment


def about(device: torch.device) -> dict[str, Any]:
    """The command as it was typed, the machine, the versions and the date."""
    cpu = f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "versions": environment(device)["versions"],
        "date": time.strftime("%Y-%m-%d"),
    }


def interval(values: Tensor) -> tuple[float, float]:
    """Mean of independent values [N] and half the width of its 95 % interval, Student's t; nan where there are too few."""
    from scipy.stats import t as student

    mean = float(values.mean()) if len(values) else math.nan
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan
    return mean, float(student.ppf(0.975, max(1, len(values) - 1))) * error


def publish(found: dict[str, Any], path: Path | None) -> None:
    """Print figures, and write them where there is a path."""
    text = json.dumps(found, indent=2)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
