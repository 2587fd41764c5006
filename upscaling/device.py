"""Where models compute, and in which numbers, by the names that the command line has for them."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cuda", "mps", "cpu"):
            raise RuntimeError(f"nothing here was tried on {device.type}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        here += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"device {name!r} cannot be used ({reason}): use auto or {', '.join(here)}") from error
    return device


def find_dtype(name: str, *, variant: str) -> torch.dtype:
    """The dtype of that name; "auto" is float32 for the demo models and bfloat16, FLUX's own, for the others."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.float32 if variant == "demo" else torch.bfloat16
    if name not in known:
        raise ValueError(f"dtype {name!r} must be one of auto, {', '.join(known)}")
    return known[name]
