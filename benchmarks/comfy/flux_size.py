"""FLUX.1's geometry with random weights inside ComfyUI: part ``host`` of `benchmarks/gpu.sh`, run by the host's own Python.

Random tensors go through the host's own loaders, and pictures through the path of the node *DINO Tiled Upscale*, with DINO and
without in turns. What they show is time and memory: random weights draw nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("comfyui", type=Path)
parser.add_argument("json", type=Path)
parser.add_argument("--rehearse", action="store_true", help="tiny geometry on the CPU")
OPTIONS = parser.parse_args()
sys.argv[1:], sys.path[0] = [], str(OPTIONS.comfyui)  # the host reads the one and imports by the other

from comfy.cli_args import args  # noqa: E402

args.cpu = OPTIONS.rehearse

import comfy.ldm.flux.model  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder  # noqa: E402
from comfy_extras.nodes_torch_compile import TorchCompileModel  # noqa: E402

from dinotile import demo  # noqa: E402
from dinotile.benchmarks.figures import about  # noqa: E402
from dinotile.dino.encode import EncodeSettings  # noqa: E402
from dinotile.flux_patch.adapter_config import adapter_config  # noqa: E402
from dinotile.flux_patch.checkpoint import described, new_adapter  # noqa: E402
from dinotile.flux_patch.families import FLUX1  # noqa: E402
from dinotile.hosts.comfy.adapter import HostAdapter, managed  # noqa: E402
from dinotile.hosts.comfy.dino import load_host_dino  # noqa: E402
from dinotile.hosts.comfy.folders import register_folders  # noqa: E402
from dinotile.hosts.comfy.host import ComfyHost  # noqa: E402
from dinotile.hosts.comfy.model import empty_conditioning, flux_geometry  # noqa: E402
from dinotile.hosts.comfy.sampling import ComfySampler  # noqa: E402
from dinotile.upscaling.guides import whole_picture  # noqa: E402
from dinotile.upscaling.pipeline import upscale  # noqa: E402
from dinotile.upscaling.report import peak_memory, restart_peak  # noqa: E402
from dinotile.upscaling.settings import UpscaleSettings  # noqa: E402

DEVICE = comfy.model_management.get_torch_device()
FULL = {"hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38}
PART = FULL | {"depth": 4, "depth_single_blocks": 8}  # the default sites are the same share of its blocks
TINY = {"hidden_size": 256, "num_heads": 2, "depth": 2, "depth_single_blocks": 4}
TILE, OVERLAP, STEPS, TOKENS = (64, 16, 2, 32) if OPTIONS.rehearse else (1024, 128, 4, 512)
DENOISE = 0.3
VAE = {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
VAE |= {
    "double_z": True,
    "z_channels": FLUX1.channels,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "dropout": 0.0,
}
FIGURES: dict[str, Any] = {}


def stage(name: str, run: Callable[[], Any]) -> None:
    """Keep a stage's figures, or why there are none, and write all that there is."""
    start = time.perf_counter()
    try:
        FIGURES[name] = run()
    except Exception as error:  # one stage's failure is no reason to lose the others
        traceback.print_exc()
        FIGURES[name] = {"failed": f"{type(error).__name__}: {error}"[:400]}
    FIGURES[name]["stage s"] = round(time.perf_counter() - start, 1)
    gc.collect()
    OPTIONS.json.write_text(json.dumps(FIGURES, indent=2) + "\n", encoding="utf-8")


def random_flux(geometry: dict[str, int], *, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A MODEL of FLUX.1 dev's kind, by the host's own loader."""
    with torch.device("meta"):
        net = comfy.ldm.flux.model.Flux(
            image_model="flux", in_channels=FLUX1.channels, out_channels=FLUX1.channels, vec_in_dim=768,
            patch_size=FLUX1.patch, context_in_dim=4096, mlp_ratio=4.0, axes_dim=list(FLUX1.axes), theta=10_000,
            qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.bfloat16, operations=torch.nn, **geometry,
        )  # fmt: skip
    generator, weights = torch.Generator(DEVICE).manual_seed(0), {}
    for name, tensor in net.state_dict().items():
        made = torch.empty(tensor.shape, device=DEVICE, dtype=torch.bfloat16)
        norm = "norm" in name and tensor.ndim == 1
        made = made.fill_(1) if norm else made.normal_(std=0.02, generator=generator)
        weights[name] = made.to(torch.bfloat16 if norm else dtype).cpu()
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})
    assert model is not None, "the host does not know these tensors"
    return model


def random_vae() -> Any:
    """A VAE of FLUX.1's kind, or in a rehearsal the demo's."""
    if OPTIONS.rehearse:
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(demo.VAE)))
    parts = {"encoder": Encoder(**VAE), "decoder": Decoder(**VAE)}
    return comfy.sd.VAE(
        sd={f"{half}.{name}": each for half, part in parts.items() for name, each in part.state_dict().items()}
    )


def random_adapter(model: Any) -> HostAdapter:
    """The default adapter for DINOv2-B with random output weights, so that nothing is skipped."""
    config = adapter_config(ENCODER.spec, flux_geometry(model), layers="2/3")
    module = new_adapter(config, operations=comfy.ops.manual_cast).module
    for name, parameter in module.named_parameters():
        if name.endswith("v.weight"):
            parameter.data.normal_(std=0.02)
    return HostAdapter(described(module, trained=True), managed(module))


def run(model: Any, adapter: HostAdapter | None, *, side: int, steps: int) -> dict[str, Any]:
    """One picture of ``side`` px from half of it: seconds of each stage, tiles, peak memory."""
    settings = UpscaleSettings(denoise=DENOISE, steps=steps, tile=TILE, overlap=OVERLAP)
    text = empty_conditioning(model, tokens=TOKENS, guidance=3.5)
    host = ComfyHost(model, VAE_MODEL, adapter=adapter)
    guide = None if adapter is None else whole_picture(host, ENCODER, adapter.project, strength=1.0)
    sampler = ComfySampler(host, text, text, "euler", "simple", 1.0, steps, DENOISE, 0)
    restart_peak(DEVICE)
    start = time.perf_counter()
    _, report = upscale(host, torch.rand(1, 3, side // 2, side // 2), settings, sampler=sampler, make_guide=guide)
    tiles, taken = report["tiles"], time.perf_counter() - start
    share = tiles["count"] * tiles["height"] * tiles["width"] / side**2
    peak = (peak_memory(DEVICE)["device"] or 0) / 2**30
    found = {"whole s": round(taken, 3), **{f"{stage} s": value for stage, value in report["seconds"].items()}}
    return found | {"tiles": tiles["count"], "sampled / output": round(share, 3), "peak GiB": round(peak, 2)}


def in_turns(model: Any, *, side: int, rounds: int, steps: int = STEPS) -> dict[str, Any]:
    """Medians of ``run`` without and with DINO, taken in turns after a first run of each, and what DINO costs the sampling."""
    adapter = random_adapter(model)
    kinds = {"plain": None, "dino": adapter}
    first = {name: run(model, each, side=side if rounds > 1 else TILE, steps=1) for name, each in kinds.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for _ in range(1 if OPTIONS.rehearse else rounds):
        for name, each in kinds.items():
            runs[name].append(run(model, each, side=side, steps=steps))
    found: dict[str, Any] = {}
    for name, each in runs.items():
        found[name] = {key: statistics.median(figures[key] for figures in each) for key in each[0]}
        found[name]["first s"] = first[name]["whole s"]
    found["dino / plain"] = round(found["dino"]["sample s"] / found["plain"]["sample s"], 4)
    found["decode / four steps"] = round(found["plain"]["decode s"] / found["plain"]["sample s"] * steps / 4, 4)
    found["memory"] = (
        round(found["dino"]["peak GiB"] / found["plain"]["peak GiB"], 4) if DEVICE.type == "cuda" else None
    )
    return found


def compiled() -> dict[str, Any]:
    """Eager beside what core's *TorchCompileModel* makes of the same model, patched afterwards as the node does."""
    model = random_flux(TINY if OPTIONS.rehearse else PART)
    torch._dynamo.reset()
    found = {"eager": in_turns(model, side=TILE, rounds=3)}
    made = TorchCompileModel.execute(model, "eager" if OPTIONS.rehearse else "inductor").args[0]
    found["compiled"] = in_turns(made, side=TILE, rounds=3)
    counters = torch._dynamo.utils.counters
    return found | {"graphs": counters["stats"]["unique_graphs"], "graph breaks": sum(counters["graph_break"].values())}


def dino_seconds() -> dict[str, Any]:
    """Of encoding a square picture at the encoder's own side, the median of five."""
    taken = []
    for _ in range(5):
        picture = torch.rand(1, 3, 1024, 1024)
        start = time.perf_counter()
        ENCODER.encode(picture, settings=EncodeSettings(layers="2/3"))
        taken.append(time.perf_counter() - start)
    return {"encoder": ENCODER.spec.name, "s": round(statistics.median(taken), 4)}


def random_dino(folder: Path) -> str:
    """DINOv2-B's architecture as a file that the host finds, or in a rehearsal the demo's encoder; its name."""
    register_folders()
    if OPTIONS.rehearse:
        return demo.DINO.name
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).save_pretrained(folder)
    folder_paths.add_model_folder_path("dino", str(folder))
    return "model.safetensors"


def main() -> None:
    comfy.utils.PROGRESS_BAR_ENABLED = False
    stage("about", lambda: about(DEVICE) | {"tile": TILE, "steps": STEPS})
    geometry = TINY if OPTIONS.rehearse else FULL
    model = random_flux(geometry)
    for side, rounds, steps in ((TILE, 4, STEPS), (2 * TILE, 2, STEPS), (4 * TILE, 1, 2)):
        stage(f"{side} px", partial(in_turns, model, side=side, rounds=rounds, steps=steps))
    stage("dino", dino_seconds)
    del model
    comfy.model_management.unload_all_models()
    stage("compiled, 4 + 8 blocks", compiled)
    comfy.model_management.unload_all_models()
    stage("fp8", lambda: in_turns(random_flux(geometry, dtype=torch.float8_e4m3fn), side=TILE, rounds=4))
    sys.exit(any("failed" in figures for figures in FIGURES.values()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as FOLDER, torch.inference_mode():
        ENCODER, VAE_MODEL = load_host_dino(random_dino(Path(FOLDER))), random_vae()
        main()
