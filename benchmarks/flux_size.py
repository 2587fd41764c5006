"""What DINO costs per step: `python benchmarks/flux_size.py` on a CUDA device, `python benchmarks/flux_size.py --demo` anywhere.

FLUX.1's geometry with random weights in bfloat16: the time of one step on 1024 x 1024 px (4096 image and 512 text tokens)
without an adapter and with each mechanism at the default sites, measured in turns in one run, peak memory, and one training
step at batch 1 with gradient checkpointing. Without a CUDA device it says so and leaves.
--blocks 2 4 measures FLUX.1's width at that depth (2 double and 4 single blocks) on any device: the default sites, every second
and every fourth block, are the same share of them as of all, so the ratios hold for the whole, but seconds and memory do not.
--demo measures the demo's FLUX and adapter instead, on 512 x 512 px (1024 image and 8 text tokens) in float32
(the training step under bfloat16 autocast).
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.dino.feature_map import FeatureMap
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter import LoadedAdapter
from dinotile.flux_patch.adapter_config import AdapterConfig, adapter_config
from dinotile.flux_patch.checkpoint import described, load_adapter, new_adapter
from dinotile.flux_patch.families import FLUX1, MECHANISMS, Mechanism
from dinotile.flux_patch.geometry import geometry_of
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.attention import differentiable_attention
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.hosts.host import Text
from dinotile.upscaling.report import peak_memory, restart_peak

ADAPTERS: dict[str, tuple[Mechanism, ...]] = {
    "no adapter": (),
    **{mechanism: (mechanism,) for mechanism in MECHANISMS},
    "all": MECHANISMS,
}


@dataclass(frozen=True)
class Setting:
    """A FLUX and what it is measured on. side: image tokens per side. text: tokens. patches: per side of DINO's map."""

    flux: Any
    adapter: AdapterConfig
    side: int
    text: int
    patches: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each kind")
    parser.add_argument("--demo", action="store_true", help="the demo's models, on any device")
    parser.add_argument(
        "--blocks", type=int, nargs=2, metavar=("DOUBLE", "SINGLE"), help="a less deep FLUX.1, anywhere"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.demo and not options.blocks:
        print("no CUDA device: FLUX.1's size is not measured here (--blocks and --demo measure less on any device)")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    setting = demo_setting(device) if options.demo else full_setting(device, blocks=options.blocks)
    figures: dict[str, Any] = steps(setting, rounds=options.rounds)
    figures["training step, cross_attention"] = training_step(setting)
    told = {
        **about(device),
        "image_tokens": setting.side**2,
        "text_tokens": setting.text,
        "dino_tokens": setting.adapter.grid**2 + 1,
        "sites": setting.adapter.sites,
        "dtype": str(setting.flux.dtype),
    }
    publish({"about": told, "figures": figures}, options.json)


def full_setting(device: torch.device, *, blocks: Sequence[int] | None = None) -> Setting:
    """FLUX.1 dev, or so many double and single blocks of it, with small random weights, DINOv2-B's features of a 1036 px
    picture, and the default adapter."""
    from diffusers import FluxTransformer2DModel

    depth = dict(zip(("num_layers", "num_single_layers"), blocks, strict=True)) if blocks else {}
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True, **depth)
    flux = flux.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in flux.parameters():
        parameter.normal_(std=0.02, generator=generator)
    adapter = adapter_config(SPECS["dinov2-base"], geometry_of(flux), layers="2/3")
    return Setting(flux, adapter, side=64, text=512, patches=74)


def demo_setting(device: torch.device) -> Setting:
    flux: Any = load_transformer(demo.FLUX).to(device).requires_grad_(False).eval()  # type: ignore[arg-type]
    return Setting(flux, load_adapter(demo.ADAPTER).config, side=32, text=8, patches=12)


def adapter_for(setting: Setting, mechanisms: tuple[Mechanism, ...]) -> LoadedAdapter:
    """An adapter with random output weights, so that nothing is skipped."""
    sites = setting.adapter.sites if "cross_attention" in mechanisms else ()
    module = new_adapter(replace(setting.adapter, mechanisms=mechanisms, sites=sites)).module
    for name, parameter in module.named_parameters():
        if name.endswith("v.weight") or name.startswith(("context.", "vector.")):
            parameter.normal_(std=0.02)
    return described(module, trained=True)


def caller(setting: Setting, host: DiffusersHost) -> Callable[[], Tensor]:
    """One evaluation of FLUX as the upscaler does it: features projected once, tokens sampled once per run."""
    latents, text, features = random_inputs(setting)
    sigmas, memo = torch.full((1,), 0.5, device=host.device), RunMemo()
    rows = []
    if host.adapter is not None:
        tokens = host.adapter.module.project(features.to(host.device, host.dtype))
        rows = [DinoRow(tokens, settings=Strength(1.0))]
    return lambda: host.velocity(latents, sigmas, text=text, rows=rows, memo=memo)


def random_inputs(setting: Setting) -> tuple[Tensor, Text, FeatureMap]:
    adapter, geometry, device = setting.adapter, setting.adapter.geometry, setting.flux.device
    cells, side = FLUX1.patch * setting.side, FLUX1.token * setting.side
    latents = torch.randn(1, FLUX1.channels, cells, cells, device=device)
    text = Text(torch.randn(1, setting.text, geometry.context), torch.randn(1, geometry.vector))
    patches = torch.randn(1, setting.patches, setting.patches, adapter.dino_width, device=device)
    return latents, text, FeatureMap(patches, patches.mean((1, 2)), adapter.dino, adapter.layers, (side, side))


@torch.no_grad()
def steps(setting: Setting, *, rounds: int) -> dict[str, Any]:
    """Median seconds of a step of each kind, taken in turns, over that without an adapter, and the peak memory."""
    adapters = {name: adapter_for(setting, kinds) if kinds else None for name, kinds in ADAPTERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ADAPTERS}
    peaks: dict[str, float] = {}
    vae = load_vae(demo.VAE)
    for _ in range(rounds):
        for name, adapter in adapters.items():
            host = DiffusersHost(setting.flux, vae, adapter=adapter, device=setting.flux.device)
            seconds[name].append(_seconds(caller(setting, host), host.device))
            peaks[name] = _peak(host.device)
            host.remove()
            if adapter is not None:  # it waits elsewhere and does not count for the others' peak
                adapter.module.to("cpu")
    taken = {name: statistics.median(values) for name, values in seconds.items()}
    bare = taken["no adapter"]
    return {
        name: {"seconds": round(each, 5), "over no adapter": round(each / bare, 4), "peak GiB": peaks[name]}
        for name, each in taken.items()
    }


def training_step(setting: Setting) -> dict[str, float]:
    """Forward, backward and AdamW of the trainer's host at batch 1: seconds of the third step, peak memory."""
    adapter = adapter_for(setting, ("cross_attention",))
    host = DiffusersHost(
        setting.flux,
        load_vae(demo.VAE),
        adapter=adapter,
        adapter_dtype=torch.float32,
        gradient_checkpointing=True,
        device=setting.flux.device,
    )
    step = learner(setting, host)
    taken = _seconds(step, host.device)
    host.remove()
    return {"seconds": round(taken, 4), "peak GiB": _peak(host.device)}


def learner(setting: Setting, host: DiffusersHost) -> Callable[[], Tensor]:
    """A training step of a host's adapter at batch 1; the loss."""
    assert host.adapter is not None
    module = host.adapter.module.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    noise, text, features = random_inputs(setting)

    def step() -> Tensor:
        with differentiable_attention():
            with torch.autocast(host.device.type, torch.bfloat16):
                rows = [DinoRow(module.project(features), settings=Strength(1.0))]
                velocity = host.velocity(noise, torch.full((1,), 0.5, device=host.device), text=text, rows=rows)
                loss = (velocity - noise).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Of the third call: the timer makes two before, which warm up and fill the memo. The peak is of all three."""
    restart_peak(device)
    return Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads()).timeit(1).mean


def _peak(device: torch.device) -> float:
    """GiB allocated on the device at most; 0 on the CPU, where nobody counts."""
    return round((peak_memory(device)["device"] or 0) / 2**30, 3)


if __name__ == "__main__":
    main()
