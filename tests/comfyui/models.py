"""Tiny model files of the real kinds, written into a ComfyUI base directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinotile.dino.backbone import build_model
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter_config import AdapterConfig, spread_sites
from dinotile.flux_patch.checkpoint import new_adapter, save_adapter
from dinotile.flux_patch.families import FAMILIES
from dinotile.flux_patch.geometry import FluxGeometry

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

CONTEXT, VECTOR = 64, 48
FOLDERS = (
    "diffusion_models",
    "vae",
    "vae_approx",
    "model_patches",
    "dino",
    "clip_vision",
    "upscale_models",
    "controlnet",
)
FLUX, FLUX_DEV, FLUX_WIDE, FLUX2 = (
    "flux.safetensors",
    "flux-dev.safetensors",
    "flux-wide.safetensors",
    "flux2.safetensors",
)
DINO = "dino.safetensors"
FLUX_STILL, FLUX_POOLED, FLUX_THIN = "flux-still.safetensors", "flux-pooled.safetensors", "flux-thin.safetensors"
TAEF2 = "taef2"  # as the host lists the two halves in models/vae_approx
FLUX_SHORT = "flux-short.safetensors"
VAE, VAE_NAN, VAE_WHITE = "vae.safetensors", "vae-nan.safetensors", "vae-white.safetensors"
FLUX_NAN, ADAPTER_NAN = "flux-nan.safetensors", "adapter-nan.safetensors"
ESRGAN = "inverting-4x.safetensors"
CONTROLNET = "controlnet.safetensors"
TRAINED, SECOND, CROSS = "trained.safetensors", "second.safetensors", "cross.safetensors"
FLUX2_DEV, FLUX2_TRAINED, FLUX2_FOR_DEV = "flux2-dev.safetensors", f"flux2-{TRAINED}", "flux2-for-dev.safetensors"
FLAT = "flat.safetensors"  # without positions
FOR_OTHER_DINO, FOR_OTHER_LAYERS = "for-other-dino.safetensors", "for-other-layers.safetensors"
PICKLE, TRUNCATED, FOREIGN = "pickle.safetensors", "truncated.safetensors", "foreign.safetensors"


def write_models(base: Path) -> None:
    """All of the above below ``base``/models."""
    for folder in FOLDERS:
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
    write_flux(base / "models" / "diffusion_models")
    write_vae(base / "models" / "vae")
    write_taef2(base / "models" / "vae_approx")
    write_dino(base / "models" / "dino")
    save_file(esrgan_state(), base / "models" / "upscale_models" / ESRGAN)
    save_file(controlnet_state(), base / "models" / "controlnet" / CONTROLNET)
    write_adapters(base / "models" / "model_patches")
    for folder in ("dino", "model_patches"):
        write_bad_files(base / "models" / folder)


# FLUX

SIZES = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": CONTEXT,
    "pooled_projection_dim": VECTOR,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 56, 56),
}


def controlnet_state(**sizes: int | bool) -> dict[str, Tensor]:
    """A ControlNet of a FLUX.1 in diffusers' layout: one double block, whose output is about as large as its input."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(2)
    net = FluxControlNetModel(**SIZES | {"num_layers": 1, "num_single_layers": 0} | sizes)
    return {name: torch.randn_like(tensor) * 0.05 for name, tensor in net.state_dict().items()}


def flux_state(*, seed: int = 0, **sizes: int | bool) -> dict[str, Tensor]:
    """A FLUX.1 in diffusers' layout with velocities of about the size of its input."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    state = FluxTransformer2DModel(**SIZES | sizes).state_dict()
    for name, tensor in state.items():
        if name.endswith("weight") and tensor.ndim == 2 and "norm" in name:
            tensor.mul_(3)  # modulation: the text and the noise level matter
        if name.endswith(("to_out.0.weight", "proj_out.weight")):
            tensor.mul_(2)
    return state


def flux_transformer(path: Path) -> FluxTransformer2DModel:
    """diffusers' model of one of these files."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(**SIZES)
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


def write_flux(folder: Path) -> None:
    save_file(flux_state(), folder / FLUX)
    save_file(flux_state(guidance_embeds=True), folder / FLUX_DEV)
    save_file(flux_state(num_attention_heads=1), folder / FLUX_WIDE)
    thin = {"num_attention_heads": 1, "num_layers": 3, "num_single_layers": 6, "joint_attention_dim": 4096}
    save_file(flux_state(pooled_projection_dim=768, **thin), folder / FLUX_THIN)
    save_file(still(flux_state()), folder / FLUX_STILL)
    save_file(pooled_only(flux_state()), folder / FLUX_POOLED)
    state = flux_state()
    state["proj_out.bias"][0] = float("nan")
    save_file(state, folder / FLUX_NAN)
    save_file(flux_state(num_layers=1, num_single_layers=1), folder / FLUX_SHORT)
    save_file(flux2_state(), folder / FLUX2)
    save_file(flux2_state(heads=2, guidance=True), folder / FLUX2_DEV)


def still(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A FLUX whose velocity is zero, so that sampling gives back what it got."""
    return {name: tensor * 0 if name.startswith("proj_out") else tensor for name, tensor in state.items()}


def pooled_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A FLUX whose velocity is the same in every latent cell and depends on the pooled text only."""
    for part in ("weight", "bias"):
        four = state[f"proj_out.{part}"].unflatten(0, (16, 4))  # the cells of one token
        state[f"proj_out.{part}"] = four[:, :1].expand_as(four).flatten(0, 1)
    silent = ("x_embedder.", "time_text_embed.timestep_embedder.linear_2")
    modulations = (".norm1.linear.", ".norm1_context.linear.", ".norm.linear.")
    return {
        name: tensor * 0 if name.startswith(silent) or any(m in name for m in modulations) else tensor
        for name, tensor in state.items()
    }


def flux2_state(*, heads: int = 1, double: int = 1, single: int = 2, guidance: bool = False) -> dict[str, Tensor]:
    """A FLUX.2 in the layout of its makers, the only one that ComfyUI reads, with velocities of about the size of its input."""
    hidden = 128 * heads
    shapes = {
        "img_in.weight": (hidden, 128),
        "txt_in.weight": (hidden, CONTEXT),
        "time_in.in_layer.weight": (hidden, 256),
        "time_in.out_layer.weight": (hidden, hidden),
        "double_stream_modulation_img.lin.weight": (6 * hidden, hidden),
        "double_stream_modulation_txt.lin.weight": (6 * hidden, hidden),
        "single_stream_modulation.lin.weight": (3 * hidden, hidden),
        "final_layer.linear.weight": (128, hidden),
        "final_layer.adaLN_modulation.1.weight": (2 * hidden, hidden),
    }
    if guidance:
        shapes |= {"guidance_in.in_layer.weight": (hidden, 256), "guidance_in.out_layer.weight": (hidden, hidden)}
    for block in (f"double_blocks.{number}" for number in range(double)):
        for stream in ("img", "txt"):
            shapes |= {
                f"{block}.{stream}_attn.qkv.weight": (3 * hidden, hidden),
                f"{block}.{stream}_attn.proj.weight": (hidden, hidden),
                f"{block}.{stream}_mlp.0.weight": (6 * hidden, hidden),
                f"{block}.{stream}_mlp.2.weight": (hidden, 3 * hidden),
            }
            shapes |= {f"{block}.{stream}_attn.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    for block in (f"single_blocks.{number}" for number in range(single)):
        shapes |= {f"{block}.linear1.weight": (9 * hidden, hidden), f"{block}.linear2.weight": (hidden, 4 * hidden)}
        shapes |= {f"{block}.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    generator = torch.Generator().manual_seed(9)
    return {
        name: 1 + torch.randn(shape, generator=generator) / 10
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * shape[1] ** -0.5
        for name, shape in shapes.items()
    }


# VAE and DINO


def write_vae(folder: Path) -> None:
    """TAESD with fresh weights, its outputs stretched: latents of about 1, pictures of all colours."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    vae = AutoencoderTiny(latent_channels=16).requires_grad_(False)
    picture = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), scale_factor=8, mode="bicubic").clamp(0, 1)
    stretch(vae.encoder.layers[-1], lambda: vae.encoder(picture * 2 - 1), std=1.0, mean=0.0)
    latents = torch.nn.functional.interpolate(torch.randn(4, 16, 4, 4), scale_factor=4, mode="bicubic")
    stretch(vae.decoder.layers[-1], lambda: vae.decoder(latents) / 2 + 0.5, std=0.25, mean=0.5)
    state = {"vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)}
    for name, tensor in vae.state_dict().items():
        half, _, number, rest = name.split(".", 3)
        state[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = tensor
    save_file(state, folder / VAE)
    save_file({name: tensor * float("nan") for name, tensor in state.items()}, folder / VAE_NAN)
    last = max((name for name in state if name.startswith("taesd_decoder.")), key=lambda name: int(name.split(".")[1]))
    last = f"{last.rsplit('.', 1)[0]}.bias"
    save_file(state | {last: torch.full_like(state[last], float("inf"))}, folder / VAE_WHITE)


def write_taef2(folder: Path) -> None:
    """FLUX.2's small VAE with random weights, in the halves and the layout of its maker."""
    plain, pooled, shrink, grow = (1, 3, 4, 5, 7, 8, 9), (11, 12, 13), (2, 6, 10), (7, 12, 17)
    encoder = {0: (64, 3), 14: (32, 64)} | dict.fromkeys(shrink, (64, 64))
    decoder = {1: (64, 32), 19: (3, 64)} | dict.fromkeys(grow, (64, 64))
    halves = {
        "encoder": (encoder, shrink, plain, pooled),
        "decoder": (decoder, grow, (8, 9, 10, 13, 14, 15, 18), (3, 4, 5)),
    }
    generator = torch.Generator().manual_seed(17)
    for half, (convolutions, bare, blocks, with_pool) in halves.items():
        shapes = {f"{number}.weight": (*sizes, 3, 3) for number, sizes in convolutions.items()}
        shapes |= {f"{number}.bias": (sizes[0],) for number, sizes in convolutions.items() if number not in bare}
        for number in (*blocks, *with_pool):
            shapes |= {f"{number}.conv.{layer}.weight": (64, 64, 3, 3) for layer in (0, 2, 4)}
            shapes |= {f"{number}.conv.{layer}.bias": (64,) for layer in (0, 2, 4)}
        for number in with_pool:
            shapes |= {f"{number}.pool.0.weight": (256, 64, 1, 1), f"{number}.pool.3.weight": (64, 256, 1, 1)}
            shapes |= {f"{number}.pool.1.{part}": (256,) for part in ("weight", "bias")}
        state = {
            name: torch.randn(shape, generator=generator) * (0.05 if len(shape) == 1 else (shape[0] * 9) ** -0.5)
            for name, shape in shapes.items()
        }
        save_file(state, folder / f"{TAEF2}_{half}.safetensors")


def stretch(last: torch.nn.Conv2d, output: Callable[[], Tensor], *, std: float, mean: float) -> None:
    """Scale a network's last layer so that each channel of its output has this spread and mean."""
    found = output()
    factor = std / found.std((0, 2, 3))
    last.weight.mul_(factor[:, None, None, None])
    last.bias.mul_(factor).add_(mean - found.mean((0, 2, 3)) * factor)


PUBLISHED = {  # transformers 5 has new names, the published files and ComfyUI the old ones
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
}


def write_dino(folder: Path) -> None:
    torch.manual_seed(0)
    state = {}
    for name, tensor in build_model(SPECS["dinov2-demo"]).state_dict().items():
        for new, published in PUBLISHED.items():
            name = name.replace(new, published)
        lively = tensor.ndim > 1 and "mask" not in name
        state[name] = torch.randn_like(tensor) * (tensor[0].numel() ** -0.5) if lively else tensor
    save_file(state, folder / DINO)


def esrgan_state(width: int = 4, growth: int = 32) -> dict[str, Tensor]:
    """An ESRGAN of one block that repeats every pixel 4 x 4 times and inverts the colours."""
    shapes = {name: (width, width) for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr")}
    shapes |= {"conv_first": (width, 3), "conv_last": (3, width)}
    for block in ("rdb1", "rdb2", "rdb3"):
        for number in range(5):
            out = width if number == 4 else growth
            shapes[f"body.0.{block}.conv{number + 1}"] = (out, width + number * growth)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.zeros(*shape, 3, 3)
        state[f"{name}.bias"] = torch.zeros(shape[0])
        if "body" not in name:
            state[f"{name}.weight"][:, :, 1, 1] = torch.eye(*shape)
    state["conv_last.weight"].neg_()
    state["conv_last.bias"].fill_(1)
    return state


# Adapters


def adapter_config(
    *, heads: int = 2, double: int = 2, single: int = 3, context: int = CONTEXT, vector: int = VECTOR, **other
) -> AdapterConfig:
    geometry = other.pop("geometry", None) or FluxGeometry(128 * heads, heads, double, single, context, vector)
    settings = {
        "dino": "dinov2-demo",
        "dino_width": 128,
        "layers": "3",
        "width": 32,
        "grid": 8,
        "context_grid": 2,
        "mechanisms": ("cross_attention", "context", "vector"),
        "sites": spread_sites(geometry, double_every=1, single_every=2),
    }
    return AdapterConfig(geometry=geometry, **settings | other)


def write_adapter(path: Path, config: AdapterConfig, *, seed: int) -> None:
    """An adapter as training would leave it: no weight is zero."""
    adapter = new_adapter(config, seed=seed).module
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapter.named_parameters():
        if not parameter.any() or name.endswith(".v.weight"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save_adapter(adapter, path, trained=True)


def flux2_adapter_config(**other) -> AdapterConfig:
    """Of an adapter for ``flux2_state``."""
    heads = other.pop("heads", 1)
    geometry = FluxGeometry(128 * heads, heads, 1, 2, CONTEXT, 0, "flux2")
    sites = spread_sites(geometry, double_every=1, single_every=1)
    return adapter_config(geometry=geometry, sites=sites, **{"mechanisms": ("cross_attention", "context")} | other)


def other_adapter_config(family: str, **other) -> AdapterConfig:
    """Of an adapter for inside_tools.py's Chroma and Krea 2."""
    geometry = {
        "chroma": FluxGeometry(128, 1, 1, 2, CONTEXT, 0, "chroma"),
        "krea2": FluxGeometry(256, 2, 0, 3, 640, 0, "krea2"),
    }[family]
    sites = spread_sites(geometry, double_every=1, single_every=2)
    return adapter_config(geometry=geometry, sites=sites, **{"mechanisms": FAMILIES[family].mechanisms} | other)


def write_adapters(folder: Path) -> None:
    only = {"mechanisms": ("cross_attention",)}
    for number, family in enumerate(("chroma", "krea2")):
        write_adapter(folder / f"{family}-{TRAINED}", other_adapter_config(family), seed=21 + number)
        write_adapter(folder / f"{family}-{CROSS}", other_adapter_config(family, **only), seed=23 + number)
    write_adapter(folder / FLUX2_TRAINED, flux2_adapter_config(), seed=11)
    write_adapter(folder / FLUX2_FOR_DEV, flux2_adapter_config(heads=2), seed=11)
    write_adapter(folder / f"flux2-{SECOND}", flux2_adapter_config(width=24, grid=4), seed=12)
    write_adapter(folder / f"flux2-{CROSS}", flux2_adapter_config(**only), seed=13)
    write_adapter(folder / f"flux2-{FLAT}", flux2_adapter_config(**only, positions=False), seed=16)
    for name, mechanisms in ((TRAINED, {}), (CROSS, only)):
        write_adapter(folder / f"short-{name}", adapter_config(double=1, single=1, **mechanisms), seed=1)
    write_adapter(folder / TRAINED, adapter_config(), seed=1)
    write_adapter(folder / SECOND, adapter_config(width=24, grid=4), seed=2)
    write_adapter(folder / CROSS, adapter_config(mechanisms=("cross_attention",)), seed=3)
    write_adapter(folder / FLAT, adapter_config(mechanisms=("cross_attention",), positions=False), seed=6)
    write_adapter(folder / FOR_OTHER_DINO, adapter_config(dino="dinov2-small", dino_width=384, layers="8"), seed=4)
    write_adapter(folder / FOR_OTHER_LAYERS, adapter_config(layers="2,4"), seed=5)
    write_adapter(folder / ADAPTER_NAN, adapter_config(), seed=1)
    weights = load_file(folder / ADAPTER_NAN)
    name = next(name for name in weights if name.endswith(".v.weight"))
    weights[name][0, 0] = float("nan")
    with safe_open(folder / ADAPTER_NAN, framework="pt") as file:
        metadata = file.metadata()
    save_file(weights, folder / ADAPTER_NAN, metadata=metadata)


# Files that are something else


def write_bad_files(folder: Path) -> None:
    torch.save({"weight": torch.zeros(4)}, folder / PICKLE)
    whole = next(path for path in sorted(folder.glob("*.safetensors")) if path.name in (DINO, TRAINED))
    (folder / TRUNCATED).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    save_file({"weight": torch.zeros(4)}, folder / FOREIGN)
