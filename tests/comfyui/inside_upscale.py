"""Checks for inside.py: pictures enlarged by upscale models beside ComfyUI's own loader (spandrel) and node."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import folder_paths
import torch
from comfy_extras.nodes_upscale_model import UpscaleModelLoader
from inside_tools import DEMO, check
from safetensors.torch import save_file

from dinotile.hosts.comfy.images import upscale_with_model
from dinotile.hosts.diffusers import upscale_model

SIZES = {"whole": (40, 52), "tiled": (24, 1000), "tiled both ways": (70, 150)}  # the last in smaller tiles


@check
def upscale_models():
    import comfy.utils

    found, cpu = {}, torch.device("cpu")
    scaled = comfy.utils.tiled_scale
    for name in (f"{DEMO}.safetensors", "inverting-4x.safetensors"):
        path = Path(folder_paths.get_full_path_or_raise("upscale_models", name))
        (theirs,) = UpscaleModelLoader.execute(name).args
        ours = upscale_model.load_upscale_model(path)
        found[name] = {"kind": ours.kind, "theirs": theirs.architecture.name, "scale": [ours.scale, theirs.scale]}
        for case, (height, width) in SIZES.items():
            pixels = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
            if case == "tiled both ways":
                upscale_model.TILE = 64
                comfy.utils.tiled_scale = lambda *args, **said: scaled(*args, **said | {"tile_x": 64, "tile_y": 64})
            larger = upscale_model.enlarge(ours, pixels, device=cpu)
            wanted = upscale_with_model(theirs, pixels)
            assert larger.shape == wanted.shape and larger.dtype == wanted.dtype
            found[name][case] = float((larger - wanted).abs().max())
        comfy.utils.tiled_scale, upscale_model.TILE = scaled, 512
    found["windows"] = _windows(Path(folder_paths.get_temp_directory()))
    vae = Path(folder_paths.get_full_path_or_raise("vae", f"{DEMO}.safetensors"))
    try:
        upscale_model.load_upscale_model(vae)
    except ValueError as error:
        found["refused"] = str(error)
    return found


def _windows(folder: Path) -> dict[str, str | float]:
    """A model with attention in windows, whose file also holds whole numbers."""
    arch = import_module("spandrel.architectures.SwinIR.__arch.SwinIR")
    torch.manual_seed(0)
    sizes = {"img_size": 64, "window_size": 8, "embed_dim": 12, "depths": [1], "num_heads": [2], "mlp_ratio": 2}
    network = arch.SwinIR(**sizes, upscale=2, upsampler="pixelshuffle", resi_connection="1conv").eval()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "windows.safetensors"
    save_file({name: tensor.clone() for name, tensor in network.state_dict().items()}, path)
    pixels = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    loaded = upscale_model.load_upscale_model(path)
    larger = upscale_model.enlarge(loaded, pixels, device=pixels.device)
    with torch.no_grad():
        return {"kind": loaded.kind, "apart": float((larger - network(pixels).clamp(0, 1)).abs().max())}
