"""Pictures of the template browser: before on the left, after on the right, of a run with the demo models."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 512  # px: the browser shows squares
LABEL = 20
DEMO = "dinotile-demo.safetensors"
SMALL = {  # inputs that let the demo models stand for FLUX.1
    "UNETLoader": {"unet_name": "dinotile-demo/diffusion_pytorch_model.safetensors"},
    "VAELoader": {"vae_name": DEMO},
    "DinoTile_LoadDino": {"dino_name": DEMO},
    "DinoTile_PlanTiles": {"tile": 192, "overlap": 32},
    "BasicScheduler": {"steps": 8},
    "DinoTile_Upscale": {"tile": 192, "overlap": 32, "steps": 8, "vae_detail": 1},
    "DualCFGGuider": {"cfg_conds": 1.0, "cfg_cond2_negative": 1.0},
}
SHOWN = {  # of the photo in demo/: (left, top, side) in px, and what is said of the result
    "FLUX.1 dev guided": ((96, 16, 160), "after, demo models"),
    "FLUX.1 dev upscale": ((176, 156, 96), "after, demo models"),
    "FLUX.1 dual guidance": ((152, 0, 96), "after, demo models"),
    "FLUX.1 schnell upscale": ((84, 150, 96), "after, demo models"),
    "FLUX.1 tile ControlNet DINO": ((20, 40, 96), "demo, no ControlNet"),
    "FLUX.1 tile ControlNet guided": ((164, 72, 96), "demo, no ControlNet"),
    "FLUX.1 upscale": ((228, 66, 96), "after, demo models"),
    "FLUX.2 klein guided": ((190, 90, 160), "after, demo models"),
    "Z-Image Turbo guided": ((264, 0, 96), "after, demo models"),
    "demo": ((100, 56, 96), "after, demo models"),
}
SHAPES = {  # templates that begin with the shapes, and what is said of what they compare
    "What DINO does": ("without DINO", "with DINO"),
    "What FlatDINO keeps": ("DINO's patches", "from 1/72"),
}
LEFT_OUT = {"DualCLIPLoader", "CLIPLoader", "ControlNetLoader"}


def on_demo_models(prompt: dict, photo: str) -> dict:
    """A FLUX template's prompt with the demo models, without text and without its ControlNet."""
    sent = {key: node for key, node in prompt.items() if node["class_type"] not in LEFT_OUT}
    (flux,) = (key for key, node in sent.items() if node["class_type"] == "UNETLoader")
    (control,) = [key for key, node in sent.items() if node["class_type"] == "ControlNetApplyAdvanced"] or [None]
    passed = {0: "positive", 1: "negative"}
    for key, node in list(sent.items()):
        node["inputs"] |= SMALL.get(node["class_type"], {}) | (
            {"image": photo} if node["class_type"] == "LoadImage" else {}
        )
        if node["class_type"] == "CLIPTextEncode":
            empty = {"model": [flux, 0], "tokens": 8, "guidance": 3.5}
            sent[key] = {"class_type": "DinoTile_EmptyConditioning", "inputs": empty}
        for name, value in node["inputs"].items():
            if control and isinstance(value, list) and value[0] == control:
                node["inputs"][name] = prompt[control]["inputs"][passed[value[1]]]
    sent.pop(control, None)
    return sent


def halves(before: Image.Image, after: Image.Image, *, said: str) -> Image.Image:
    """Two squares, cut in the middle. said: what stands under the right half."""
    made = before.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    made.paste(after.resize((SIDE, SIDE), Image.Resampling.BICUBIC).crop((SIDE // 2, 0, SIDE, SIDE)), (SIDE // 2, 0))
    draw = ImageDraw.Draw(made)
    draw.line([(SIDE // 2, 0), (SIDE // 2, SIDE)], fill="white", width=3)
    label(draw, (8, SIDE - 8), "before")
    label(draw, (SIDE // 2 + 8, SIDE - 8), said)
    return made


def three(source: Image.Image, first: Image.Image, second: Image.Image, *, said: tuple[str, str]) -> Image.Image:
    """The source above, what came of it below."""
    made, half = Image.new("RGB", (SIDE, SIDE), "white"), SIDE // 2 - 2
    draw = ImageDraw.Draw(made)
    for picture, place, text in (
        (source, (SIDE // 4, 0), "source"),
        (first, (0, half + 4), said[0]),
        (second, (half + 4, half + 4), said[1]),
    ):
        made.paste(picture.resize((half, half), Image.Resampling.BICUBIC), place)
        label(draw, (place[0] + 8, place[1] + half - 8), text)
    return made


def label(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """Text on a dark ground whose lower left corner is ``place``."""
    font = ImageFont.load_default(LABEL)
    left, top, right, bottom = draw.textbbox(place, text, font=font, anchor="ld")
    draw.rounded_rectangle((left - 5, top - 4, right + 5, bottom + 4), 5, fill=(30, 26, 22))
    draw.text(place, text, font=font, anchor="ld", fill="white")


def save(picture: Image.Image, path: Path) -> None:
    picture.convert("RGB").save(path, quality=88)
