"""What a site of the adapter adds to a block of FLUX, counted and not timed: `python -m benchmarks.cost`.

Bytes that are read and written, as multiples of those of the image queries, and kernels: every operation that is no view counts
as one, attention as one that reads queries, keys and values and writes its output, as fused kernels do. The tensors have
FLUX.1's width and no contents (torch's meta device), so that any machine counts the same. With COMFYUI_PATH set to a ComfyUI's
folder it counts that one's blocks too, where the rotation of the queries is shared with the host.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dinotile.benchmarks.counts import Counts, Fused
from dinotile.benchmarks.figures import about, publish
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter import LoadedAdapter
from dinotile.flux_patch.adapter_config import adapter_config
from dinotile.flux_patch.checkpoint import described, new_adapter
from dinotile.flux_patch.geometry import FluxGeometry
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import DinoRow, make_call
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.hosts.diffusers.hooks import DinoHooks

META = torch.device("meta")
GEOMETRY = FluxGeometry(3072, 24, 1, 1, 4096, 768)
SIDE, TEXT = 64, 512  # image tokens per side of a tile, text tokens
SITES = ("double.0", "single.0")


def counted(action: Callable[[], Any]) -> Counts:
    with torch.no_grad(), Counts() as counts, Fused():
        action()
    return counts


def full_adapter(dtype: torch.dtype) -> LoadedAdapter:
    config = adapter_config(SPECS["dinov2-base"], GEOMETRY, layers="2/3", sites=SITES)
    module = new_adapter(config).module
    for name, parameter in module.named_parameters():
        if name.endswith("v.weight"):
            parameter.normal_(std=0.02)
    adapter = described(module, trained=True)  # whose weights are looked at
    module.to(META, dtype)
    return adapter


class Case:
    """One row of a full-width call."""

    def __init__(self, dtype: torch.dtype, *, mask: bool) -> None:
        self.dtype, self.adapter, self.memo = dtype, full_adapter(dtype), RunMemo()
        width = self.adapter.config.width
        self.tokens = DinoTokens(torch.zeros(1, 74, 74, width), torch.zeros(1, width))
        self.strength = Strength(mask=torch.ones(8, 8) / 2 if mask else None)

    @torch.no_grad()
    def call(self) -> Any:
        return make_call(
            self.adapter,
            [DinoRow(self.tokens, settings=self.strength)],
            sigmas=torch.full((1,), 0.5, device=META),
            token_size=(SIDE, SIDE),
            percent_to_sigma=lambda percent: 1 - percent,
            dtype=self.dtype,
            memo=self.memo,
        )


def diffusers_forward(dtype: torch.dtype) -> tuple[Any, Callable[[], Any]]:
    """FLUX.1's width with a block of each kind in diffusers, and one evaluation of it."""
    from diffusers import FluxTransformer2DModel

    with META:
        flux = FluxTransformer2DModel(guidance_embeds=True, num_layers=1, num_single_layers=1).to(dtype).eval()
        inputs = {
            "hidden_states": torch.empty(1, SIDE**2, 64, dtype=dtype),
            "encoder_hidden_states": torch.empty(1, TEXT, GEOMETRY.context, dtype=dtype),
            "pooled_projections": torch.empty(1, GEOMETRY.vector, dtype=dtype),
            "timestep": torch.empty(1),
            "guidance": torch.empty(1),
            "img_ids": torch.empty(SIDE**2, 3),
            "txt_ids": torch.empty(TEXT, 3),
        }
    return flux, lambda: flux(**inputs, return_dict=False)


def in_diffusers(case: Case) -> dict[str, float]:
    flux, forward = diffusers_forward(case.dtype)
    plain = counted(forward)
    hooks, call = DinoHooks(flux, case.adapter.config), case.call()
    with hooks.during(call):
        return added(counted(forward), plain, case.dtype)


def added(dino: Counts, plain: Counts, dtype: torch.dtype) -> dict[str, float]:
    """Per site, over no adapter."""
    q = SIDE**2 * GEOMETRY.hidden * dtype.itemsize
    return {
        "x q": round((dino.moved - plain.moved) / q / len(SITES), 3),
        "kernels": (dino.kernels - plain.kernels) / len(SITES),
    }


def of_calls(case: Case) -> list[dict[str, float]]:
    """What a run's first and second model call make before FLUX: its bytes over q's, kernels, tensors made on the host."""
    q = SIDE**2 * GEOMETRY.hidden * case.dtype.itemsize
    calls = [counted(case.call) for _ in range(2)]
    return [
        {"x q": round(each.moved / q, 3), "kernels": each.kernels, "made on the host": each.on_host} for each in calls
    ]


def kinds() -> Iterator[tuple[str, Case]]:
    for dtype in (torch.bfloat16, torch.float32):
        for mask in (False, True):
            yield f"{str(dtype).removeprefix('torch.')}{', a mask' if mask else ''}", Case(dtype, mask=mask)


def figures() -> dict[str, Any]:
    return {
        "a site in diffusers": {name: in_diffusers(case) for name, case in kinds()},
        "first and second call": {name: of_calls(case) for name, case in kinds()},
    }


def inside(host: Path) -> dict[str, Any]:
    """What ``comfy/cost.py`` counts in a ComfyUI's own process."""
    python = next((path for path in host.glob(".venv/*/python*") if path.stem == "python"), Path(sys.executable))
    script = Path(__file__).parent / "comfy" / "cost.py"
    run = subprocess.run([python, script, host], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    told = {**about(torch.device("cpu")), "image_tokens": SIDE**2, "text_tokens": TEXT, "sites": SITES}
    found = figures()
    if os.environ.get("COMFYUI_PATH"):
        found["a site in ComfyUI"] = inside(Path(os.environ["COMFYUI_PATH"]).expanduser().absolute())
    publish({"about": told, "figures": found}, options.json)


if __name__ == "__main__":
    main()
