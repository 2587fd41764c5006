"""``dinotile doctor``: what is here, what is missing, and the command that mends it. Nothing is loaded, sent or changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import typer

from .. import demo
from ..files.errors import reason

PACK = Path(__file__).parents[1]
VERSIONS = (
    "dinotile",
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
    "pillow",
    "accelerate",
    "websocket-client",
)
EXTRAS = {  # modules: what they are for, and the extra of the package that brings them
    ("webdataset", "tensorboard"): ("training", "train"),
    ("wandb",): ("Weights & Biases logs", "wandb"),
    ("bitsandbytes",): ("--weights nf4", "nf4"),
    ("spandrel",): ("upscale models other than RealESRGAN Compact", "upscale"),
    ("ray",): ("--ray, many machines", "ray"),
    ("vector_quantize_pytorch",): ("FlatDINO with quantised tokens", "flatdino"),
}
FLUX = tuple(  # of the variants, named here without torch
    f"black-forest-labs/{name}"
    for name in ("FLUX.1-schnell", "FLUX.1-dev", "FLUX.2-klein-4B", "FLUX.2-klein-base-4B", "FLUX.2-dev")
)
DINO = re.compile(r"dinov[23]", re.IGNORECASE)
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line. mend: the command or step that helps, empty where all is well. needed: without it nothing runs."""

    what: str
    mend: str = ""
    needed: bool = False

    def __str__(self) -> str:
        mark = "ok" if not self.mend else "MISSING" if self.needed else "-"
        return f"  {mark:<8}{self.what}" + (f": {self.mend}" if self.mend else "")


def doctor() -> None:
    """Tell what is installed, which devices and models are there, and what is missing. Exit code 1 where nothing can run."""
    stops = False
    for title, look in (("Software", software), ("Devices", devices), ("Models", models), ("ComfyUI", comfyui)):
        typer.echo(title)
        for finding in look():
            typer.echo(str(finding))
            stops |= finding.needed and bool(finding.mend)
    if stops:
        raise typer.Exit(1)


def software() -> Iterator[Finding]:
    # here, as it is slow to import and this file is read for the help of every command
    from importlib.metadata import PackageNotFoundError, version

    yield Finding(f"Python {platform.python_version()}, {platform.platform()}")
    for package in VERSIONS:
        try:
            yield Finding(f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(package, 'pip install "dinotile[cli]"', needed=True)
    for modules, (purpose, extra) in EXTRAS.items():
        lacking = [module for module in modules if find_spec(module) is None]
        yield Finding(f"for {purpose}", f'pip install "dinotile[{extra}]"' if lacking else "")
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cl"))), None)
    yield Finding("a C++ compiler, for --compile", "" if compiler else "install one, or do without")


def devices() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding(f"cpu: {os.cpu_count()} cores{_memory()}; {free / GIB:.0f} GiB of disk free here")
    try:
        import torch
    except (ImportError, OSError) as error:  # not there, or built for another machine
        yield Finding(
            f"torch does not load ({reason(error)})", "install it anew, by the line of pytorch.org", needed=True
        )
        return
    for index in range(torch.cuda.device_count()):
        left, whole = torch.cuda.mem_get_info(index)
        yield Finding(
            f"cuda:{index}: {torch.cuda.get_device_name(index)}, {left / GIB:.1f} of {whole / GIB:.1f} GiB free"
        )
    if torch.backends.mps.is_available():
        yield Finding("mps: Apple Metal")
    elif not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        wanted = (
            "its driver does not answer: look at nvidia-smi"
            if built
            else "this torch is a CPU build: pytorch.org has others"
        )
        yield Finding("no GPU is used, so FLUX.1 is slow", f"if there is one, {wanted}")


def models() -> Iterator[Finding]:
    for path in (demo.FLUX, demo.VAE, demo.DINO, demo.ADAPTER, demo.UPSCALER):
        yield Finding(f"demo: {path.name} in {path.parent.name}", "" if path.exists() else "clone again", needed=True)
    kept = _cached()
    for name in FLUX:
        here = name in kept
        yield Finding(name, "" if here else f"hf download {name}, after accepting its licence and hf auth login")
    dinos = sorted(name for name in kept if DINO.search(name))
    for name in dinos:
        yield Finding(name)
    if not dinos:
        yield Finding("a DINO", "hf download facebook/dinov2-with-registers-base")


def comfyui() -> Iterator[Finding]:
    root = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI")
    if not (root / "main.py").exists():
        yield Finding(f"none at {root}", "set COMFYUI_PATH, where there is one")
        return
    held = re.search(r'__version__ = "([^"]+)"', _text(root / "comfyui_version.py"))
    yield Finding(f"{root}, version {held[1] if held else 'unknown'}")
    packs = [place for place in (root / "custom_nodes").glob("*") if (place / "flux_patch" / "families.py").exists()]
    mend = f"clone DINOTile into {root / 'custom_nodes'}, or link {PACK} there"
    yield Finding(
        f"pack in custom_nodes: {packs[0].name}" if packs else "the pack in custom_nodes", "" if packs else mend
    )
    for folder in ("diffusion_models", "vae", "text_encoders", "dino", "model_patches"):
        files = sorted(place.name for place in (root / "models" / folder).rglob("*.safetensors"))
        shown = ", ".join(files[:4]) + (f" and {len(files) - 4} more" if files[4:] else "")
        yield Finding(f"models/{folder}: {shown or 'empty'}", "" if files else "docs/nodes.md names what goes there")


def _cached() -> set[str]:
    """Names of the repositories in the hub's folder on this disk."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = Path(HF_HUB_CACHE).glob("models--*")
    return {
        place.name.removeprefix("models--").replace("--", "/")
        for place in places
        if any(place.glob("snapshots/*/**/*.safetensors"))
    }


def _memory() -> str:
    """Of the machine, as Linux tells it."""
    read = dict(re.findall(r"(?m)^(MemTotal|MemAvailable):\s+(\d+)", _text(Path("/proc/meminfo"))))
    if not read:
        return ""
    return f", {int(read['MemAvailable']) / 2**20:.1f} of {int(read['MemTotal']) / 2**20:.1f} GiB of memory free"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
