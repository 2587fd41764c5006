"""What people call models that are no row of ``families.py``, by what the hosts call their classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

NAMES = {  # ComfyUI's configurations; diffusers' transformers without the end of their names
    "AuraFlow": "AuraFlow",
    "Anima": "Anima",
    "Bria": "Bria",
    "Chroma": "Chroma",
    "ChromaRadiance": "Chroma Radiance",
    "CogView4": "CogView 4",
    "CosmosT2IPredict2": "Cosmos Predict 2",
    "ErnieImage": "Ernie-Image",
    "HiDream": "HiDream I1",
    "HiDreamImage": "HiDream I1",
    "HiDreamO1": "HiDream O1",
    "HunyuanDiT": "HunyuanDiT",
    "HunyuanDiT1": "HunyuanDiT",
    "HunyuanImage": "HunyuanImage 2.1",
    "HunyuanImage21": "HunyuanImage 2.1",
    "HunyuanVideo": "HunyuanVideo",
    "Ideogram4": "Ideogram 4",
    "JoyImage": "JoyImage",
    "Kandinsky5": "Kandinsky 5",
    "Kandinsky5Image": "Kandinsky 5",
    "Krea2": "Krea 2",
    "LongCatImage": "LongCat-Image",
    "Lumina2": "Lumina 2",
    "MageFlow": "MageFlow",
    "OmniGen": "OmniGen",
    "Omnigen2": "OmniGen 2",
    "PixArt": "PixArt",
    "PixArtAlpha": "PixArt",
    "PixArtSigma": "PixArt",
    "QwenImage": "Qwen-Image",
    "SD15": "SD 1.5",
    "SD20": "SD 2",
    "SD3": "SD 3",
    "SDXL": "SDXL",
    "SDXLRefiner": "SDXL's refiner",
    "Sana": "Sana",
    "UNet2DCondition": "Stable Diffusion",
    "WAN21_I2V": "Wan 2.1",
    "WAN21_T2V": "Wan 2.1",
    "WAN22_T2V": "Wan 2.2",
    "Wan": "Wan",
    "ZImage": "Z-Image",
}
TENSORS = {  # how names of tensors begin that no FLUX has, in files for ComfyUI and in diffusers'
    "distilled_guidance_layer.": "Chroma",
    "txtfusion.": "Krea 2",
    "text_fusion.": "Krea 2",
    "cap_embedder.": "Z-Image or Lumina 2",
    "transformer_blocks.0.img_mod.": "Qwen-Image",
    "caption_projection.": "HiDream I1",
    "joint_blocks.": "SD 3",
    "input_blocks.": "Stable Diffusion",
    "down_blocks.": "Stable Diffusion",
}


def called(kind: str) -> str:
    """The name that people know for a class of a host, else the class's own."""
    known = NAMES.get(re.sub(r"(Transformer[23]D)?Model$", "", kind))
    return known or f"{'an' if kind.startswith(tuple('AEIO')) else 'a'} {kind}"


def of_tensors(names: Iterable[str]) -> str:
    """What a file with such tensors is called, where it is a transformer or UNet that is known; else empty."""
    return next((TENSORS[mark] for name in names for mark in TENSORS if name.startswith(mark)), "")
