"""A custom node for ``beside.py`` to link into ComfyUI: measures what lies between its two nodes.

It needs nothing of the host but the objects on the wires: forward hooks on their modules count the calls and the processor time
of the models. Who walks a VAE layer by layer works for it between its layers too: that time is the VAE's.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Meter:
    """What happened since ``start``. Seconds are the process' processor time, of all threads; wall: of the clock."""

    def start(self) -> None:
        self.calls = self.rows = self.pixels = 0
        self.inside = dict.fromkeys(("flux", "others"), 0.0)
        self.depth, self.entered = 0, 0.0
        self.last, self.left = "", 0.0  # half of a VAE that ran last, and until when
        restart_peak()
        self.memory = memory("VmRSS")
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def told(self) -> dict[str, float]:
        cpu = time.process_time() - self.cpu
        return {
            "wall_s": time.perf_counter() - self.begun,
            "cpu_s": cpu,
            "flux_cpu_s": self.inside["flux"],
            "other_models_cpu_s": self.inside["others"],
            "outside_cpu_s": cpu - sum(self.inside.values()),
            "calls": self.calls,
            "rows": self.rows,
            "sampled_px": self.pixels,
            "peak_mib": peak() - self.memory,
        }

    def watch(self, module: nn.Module, kind: str, *, cell: int = 0) -> None:
        """Time a model with all of its parts, whichever of them the host calls; cell: px of a latent cell of its input."""
        if getattr(module, "watched_by_beside", False):
            return
        for name, part in module.named_modules():
            half = name.split(".")[0] if kind == "others" else ""
            part.register_forward_pre_hook(lambda *_, half=half: self.enter(half))
            part.register_forward_hook(lambda *_, half=half: self.leave(kind, half))
        if cell:
            module.register_forward_pre_hook(lambda module, args: self.count(args[0], cell))
        module.watched_by_beside = True  # type: ignore[assignment]

    def enter(self, half: str) -> None:
        self.depth += 1
        if self.depth == 1:
            self.entered = self.left if half and half == self.last else time.process_time()

    def leave(self, kind: str, half: str) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.last, self.left = half, time.process_time()
            self.inside[kind] += self.left - self.entered

    def count(self, x: torch.Tensor, cell: int) -> None:
        self.calls += 1
        self.rows += len(x)
        self.pixels += len(x) * x.shape[-2] * x.shape[-1] * cell**2


METER = Meter()


class Begin:
    """Measures from here: every wire of the work goes through it."""

    CATEGORY, FUNCTION = "beside", "begin"
    RETURN_TYPES = ("IMAGE", "MODEL", "VAE", "CONDITIONING")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        wires = {"image": ("IMAGE",), "model": ("MODEL",), "vae": ("VAE",), "conditioning": ("CONDITIONING",)}
        return {
            "required": {**wires, "run": ("INT", {"default": 0, "max": 2**31})},
            "optional": {"dino": ("DINOTILE_DINO",)},
        }

    def begin(self, image: Any, model: Any, vae: Any, conditioning: Any, run: int, dino: Any = None) -> tuple:
        METER.watch(model.model.diffusion_model, "flux", cell=8)
        METER.watch(vae.first_stage_model, "others")
        if dino is not None:
            METER.watch(dino.model, "others")
        METER.start()
        return image, model, vae, conditioning


class End:
    """Tells what was measured until a picture is there."""

    CATEGORY, FUNCTION, OUTPUT_NODE = "beside", "end", True
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def end(self, image: Any) -> dict[str, Any]:
        return {"ui": {"beside": [METER.told()]}, "result": (image,)}


def restart_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is now what is in use
    except OSError:
        pass


def memory(name: str) -> float:
    """MiB on the GPU where there is one, else of the process; name: as in Linux' /proc/self/status."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak() -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else memory("VmHWM")


NODE_CLASS_MAPPINGS = {"BesideBegin": Begin, "BesideEnd": End}
