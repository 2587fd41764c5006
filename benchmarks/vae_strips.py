"""A VAE whole and in strips: `python -m benchmarks.vae_strips --sizes 2048 4096 --device cuda`.

FLUX's VAE with random weights on square pictures, whole as diffusers runs it and in strips as hosts/vae_walk.py does: seconds
(the best of --rounds after a first one; the processor's are those that others on the machine do not lengthen), peak bytes, and
the largest difference of latents, and of pixels in -1..1. The scheme, in short: layers are walked one by one, over all strips; a
convolution's strip has a halo; a map's mean and variance are gathered while it is stored, for the group norm that follows; the
attention runs whole, on CUDA in parts (hosts/wide_attention.py), which is measured beside torch's kernel.
--free 11 measures it as where no more GiB are free: maps are made twice, or lie in the CPU's memory (--free 0).
--device meta computes nothing, and counts floating-point operations, bytes moved, kernels and peak bytes; that needs no GPU.
--tiny measures TAESD instead, --width another width than FLUX's. Where the whole does not fit, its entry is a sentence.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dinotile.benchmarks.counts import Counts, Fused
from dinotile.benchmarks.figures import about, publish
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.wide_attention import attention_in_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024], help="sides of the pictures, pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cpu or meta")
    parser.add_argument("--dtype", default="", help="default: bfloat16, on the CPU float32")
    parser.add_argument("--width", type=int, default=128, help="channels of the maps at the picture's size")
    parser.add_argument("--tiny", action="store_true", help="TAESD instead of FLUX's VAE")
    parser.add_argument("--halves", nargs="+", choices=["encode", "decode"], default=["encode", "decode"])
    parser.add_argument("--free", type=float, help="GiB that strips may take, instead of what the device has free")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    vae = random_vae(options.width, tiny=options.tiny, device=device, dtype=dtype)
    figures: dict[str, Any] = {}
    for side in options.sizes:
        for half in options.halves:
            figures[f"{half} {side}"] = measured(vae, half, side, free=options.free, rounds=options.rounds)
        if device.type == "cuda" and dtype != torch.float32 and not options.tiny:
            figures[f"attention {side}"] = attention(vae, side, rounds=options.rounds)
    told = {"vae": "TAESD" if options.tiny else f"FLUX's, {options.width} wide", "dtype": str(dtype)}
    publish({"about": {**about(device), **told}, "figures": figures}, options.json)


def random_vae(width: int, *, tiny: bool, device: torch.device, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, AutoencoderTiny

    torch.manual_seed(0)
    kinds: Any = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths: Any = (width, 2 * width, 4 * width, 4 * width)
    bare = {"layers_per_block": 2, "use_quant_conv": False, "use_post_quant_conv": False}
    with torch.device(device):
        if tiny:
            vae = AutoencoderTiny(latent_channels=16)
        else:
            vae = AutoencoderKL(block_out_channels=widths, latent_channels=16, **kinds, **bare)
    cast: Any = vae.to(dtype)  # type: ignore[arg-type]
    return cast.eval().requires_grad_(False)


@torch.no_grad()
def measured(vae: Any, half: str, side: int, *, free: float | None, rounds: int) -> dict[str, Any]:
    """Of one half, whole and in strips, and how far apart they are."""
    encodes, module = half == "encode", vae.encoder if half == "encode" else vae.decoder
    network = vae_path.encoder_network(vae) if encodes else vae_path.decoder_network(vae)
    given = int(free * 2**30) if free is not None else vae_path.free_bytes(vae.device)
    strips, needed = network.plan((side, side), vae.dtype, device=vae.device, free=given)
    if vae.device.type == "meta":
        strips = replace(strips, keep=vae.device)
    cells = side // 8
    picture, latents = (1, 3, side, side), (1, 16 if hasattr(module, "layers") else 32, cells, cells)
    canvas = (torch.rand(picture if encodes else (1, 16, cells, cells), device=vae.device) * 2 - 1).to(vae.dtype)
    out = canvas.new_empty(latents if encodes else picture)
    kinds: dict[str, Callable[[], Tensor]] = {
        "strips": lambda: network.run(canvas, out, strips),
        "whole": lambda: module(canvas),
    }
    found, results = {}, []
    for name, run in kinds.items():
        try:
            figures, result = counted(run) if vae.device.type == "meta" else timed(run, rounds, device=vae.device)
            results.append(result)
        except torch.cuda.OutOfMemoryError:
            figures = "does not fit into the device's memory"
        found[name] = figures
    found["strips"] |= {"planned_bytes": needed, "maps_on": str(strips.keep), "keeps_upsampled": strips.roomy}
    if len(results) == 2 and vae.device.type != "meta":
        found["largest_difference"] = (results[0] - results[1]).abs().max().item()
        found["spread"] = results[1].std().item()
    return found


@torch.no_grad()
def attention(vae: Any, side: int, *, rounds: int) -> dict[str, Any]:
    """The one in the middle of the VAE: torch's kernel, and in parts."""
    cells, width = (side // 8) ** 2, vae.decoder.conv_in.out_channels
    query, key, value = torch.randn(3, 1, 1, cells, width, device=vae.device, dtype=vae.dtype)
    torchs, torchs_result = timed(lambda: F.scaled_dot_product_attention(query, key, value), rounds, device=vae.device)
    parts, result = timed(lambda: attention_in_parts(query, key, value), rounds, device=vae.device)
    difference = (result - torchs_result).abs().max().item()
    return {"torch": torchs, "in parts": parts, "largest_difference": difference}


def timed(run: Callable[[], Tensor], rounds: int, *, device: torch.device) -> tuple[dict[str, Any], Tensor]:
    """The best of some runs after a first one, whose memory is counted, by operators where there is no GPU that does it."""
    cuda = device.type == "cuda"
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        peak = counted(run)[0]["peak_bytes"]
    seconds: list[float] = []
    processor: list[float] = []
    for _ in range(rounds):
        start, spent = time.perf_counter(), time.process_time()
        result = run()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    return {"seconds": min(seconds), "processor_seconds": min(processor), "peak_bytes": peak}, result.clone()


def counted(run: Callable[[], Tensor]) -> tuple[dict[str, Any], Tensor]:
    with Fused(), Counts() as counts:
        result = run()
    return {
        "flops": counts.flops,
        "moved_bytes": counts.moved,
        "kernels": counts.kernels,
        "peak_bytes": counts.peak,
    }, result


if __name__ == "__main__":
    main()
