"""The templates as they are drawn: their notes, where their nodes stand, and which inputs their subgraphs show.

After a change here or in workflows/api: ``pytest -n 0 tests/comfyui/test_workflows.py --rewrite-workflows``.
"""

from __future__ import annotations

import re

from .drawing import Drawing, Inner

HUB = "https://huggingface.co/{}/resolve/main/{}"
DINO = "dinov2-with-registers-base/model.safetensors"
CONTROL = "Flux.1-dev-Controlnet-Upscaler/diffusion_pytorch_model.safetensors"
FILES = {  # as a loader names them: folder of models, repository, and path in it
    "flux1-dev.safetensors": ("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors"),
    "flux1-schnell.safetensors": ("diffusion_models", "Comfy-Org/flux1-schnell", "flux1-schnell.safetensors"),
    "t5xxl_fp16.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp16.safetensors"),
    "clip_l.safetensors": ("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors"),
    "ae.safetensors": ("vae", "Comfy-Org/Lumina_Image_2.0_Repackaged", "split_files/vae/ae.safetensors"),
    "z_image_turbo_bf16.safetensors": (
        "diffusion_models",
        "Comfy-Org/z_image_turbo",
        "split_files/diffusion_models/z_image_turbo_bf16.safetensors",
    ),
    "qwen_3_4b.safetensors": (
        "text_encoders",
        "Comfy-Org/z_image_turbo",
        "split_files/text_encoders/qwen_3_4b.safetensors",
    ),
    "flux-2-klein-4b.safetensors": (
        "diffusion_models",
        "Comfy-Org/flux2-klein",
        "split_files/diffusion_models/flux-2-klein-4b.safetensors",
    ),
    "flux2-vae.safetensors": ("vae", "Comfy-Org/flux2-dev", "split_files/vae/flux2-vae.safetensors"),
    DINO: ("dino", "facebook/dinov2-with-registers-base", "model.safetensors"),
    CONTROL: ("controlnet", "jasperai/Flux.1-dev-Controlnet-Upscaler", "diffusion_pytorch_model.safetensors"),
}
MODELS = {
    name: {"name": name, "url": HUB.format(repository, path), "directory": folder}
    for name, (folder, repository, path) in FILES.items()
}
PLACE = (
    "The DINO file is called *model.safetensors* on Hugging Face: put it into *models/dino/dinov2-with-registers-base*."
)
CONTROL_PLACE = (
    "The ControlNet is called *diffusion_pytorch_model.safetensors* there: put it into "
    "*models/controlnet/Flux.1-dev-Controlnet-Upscaler*."
)
UNTRAINED = (
    "**The adapter is new and changes nothing**: the picture is that without DINO, bit for bit. No trained FLUX.1 adapter can be "
    "downloaded yet. Open the subgraph and take **Load DINO Adapter** for **New DINO Adapter** when you have trained one."
)
RUN = "Choose your picture in **Load Image**, press **Run**, and slide over **Before and after**."


def slug(title: str) -> str:
    """The prompt of a template: FLUX.1 dev guided is workflows/api/flux1_dev_guided.json."""
    return re.sub("[^a-z0-9]+", "_", title.lower().replace(".", ""))


def loaders(dino: str, control: str = "") -> Inner:
    """The subgraph of a FLUX template's models."""
    shown = {
        "flux": ("2", "unet_name"),
        "t5": ("3", "clip_name1"),
        "clip_l": ("3", "clip_name2"),
        "vae": ("4", "vae_name"),
        "dino": (dino, "dino_name"),
    }
    return Inner("Models", shown | ({"controlnet": (control, "control_net_name")} if control else {}))


def one_node(note: str) -> Drawing:
    """Loaders, picture and prompt beside the one node that upscales. The picture's links pass above the loaders."""
    columns = ((340, 0, ("6", "1", "3")), (290, 110, ("2", "4", "5", "7")), (310, 54, ("9",)), (400, 0, ("42", "10")))
    return Drawing(note, columns, models=MODELS, heights={"6": 322, "1": 200, "7": 102, "9": 764, "42": 430})


def step_by_step(note: str, image: str, save: str, models: Inner, **shown: tuple[str, str]) -> Drawing:
    """All between the picture and the result in one subgraph."""
    columns = ((310, 0, (image, "40")), (360, 54, ("41", "1")), (460, 0, ("42", save)))
    subgraphs = {"40": models, "41": Inner("Upscale, step by step", shown)}
    return Drawing(note, columns, subgraphs, models=MODELS, heights={"1": 250, image: 322, "42": 430})


TOYS = Inner("Demo models", {})

TEMPLATES = {
    "FLUX.1 upscale": one_node(
        "Choose your picture above, press **Run**, slide over **Before and after**."
        "\n\nStock FLUX.1 dev, no adapter. At every step **anchor** pulls the picture to the source, and **guide** to "
        "where DINO sees the same. **denoise**: how much is redrawn.\n\nDINO's file *model.safetensors* goes "
        "to *models/dino/dinov2-with-registers-base*.\n\nFaster: a TAESD (*taef1*) by **Load VAE** into *decoder*."
    ),
    "FLUX.1 dev guided": one_node(
        "For clean sources. **anchor** 1 keeps every step true to the source, so that **denoise** can be high: 0.35 to 0.7. "
        "Then, by **retry**, DINO looks at every tile, and those that lost their likeness are done again.\n\nDINO's file "
        "*model.safetensors* goes to *models/dino/dinov2-with-registers-base*.\n\nFaster: a TAESD (*taef1*) by **Load VAE** "
        "into *decoder*."
    ),
    "FLUX.1 dev upscale": step_by_step(
        "## FLUX.1 dev, 2x, every step a node\n\nEnlarges a picture 2x and redraws 30 % of it in 20 steps at guidance 3.5, in "
        f"tiles of 1024 px. {RUN}\n\nThe two subgraphs open by the icon in their corner: all of the pack's nodes are in there, "
        f"to be changed.\n\n{UNTRAINED}\n\n{PLACE}",
        "6", "27", loaders("5"), prompt=("10", "text"), scale=("7", "scale_by"), denoise=("24", "denoise"),
        steps=("24", "steps"), tile=("16", "tile"), dino_strength=("19", "strength"), seed=("21", "noise_seed"),
    ),
    "FLUX.1 schnell upscale": step_by_step(
        "## FLUX.1 schnell, 2x, every step a node\n\nEnlarges a picture 2x and redraws 30 % of it in 4 steps, in tiles of 1024 "
        f"px. {RUN}\n\nThe two subgraphs open by the icon in their corner: all of the pack's nodes are in there, to be changed."
        f"\n\n{UNTRAINED}\n\n{PLACE}",
        "6", "26", loaders("5"), prompt=("10", "text"), scale=("7", "scale_by"), denoise=("23", "denoise"),
        steps=("23", "steps"), tile=("15", "tile"), dino_strength=("18", "strength"), seed=("20", "noise_seed"),
    ),
    "FLUX.1 dual guidance": step_by_step(
        "## FLUX.1 dev, text and DINO guided apart, 2x\n\n**text_guidance** leads from the *negative* prompt to the prompt, and "
        "**dino_guidance** from the prompt alone to the prompt with DINO. At 1 each is off; usual: 1.5 to 3. Each takes one "
        f"more evaluation of FLUX.\n\n{RUN}\n\n{UNTRAINED}\n\n{PLACE}",
        "7", "28", loaders("5"), prompt=("11", "text"), negative=("29", "text"), scale=("8", "scale_by"),
        denoise=("25", "denoise"), dino_guidance=("23", "cfg_conds"), text_guidance=("23", "cfg_cond2_negative"),
        seed=("22", "noise_seed"),
    ),
    "FLUX.1 tile ControlNet DINO": step_by_step(
        "## Tile ControlNet + DINO, 2x\n\nThe ControlNet holds every tile to the enlarged picture, so that half of it can be "
        "redrawn (**denoise** 0.5); with a trained adapter DINO tells each tile what it is a part of. "
        f"{RUN}\n\n{UNTRAINED}\n\n{PLACE} {CONTROL_PLACE}",
        "7", "28", loaders("5", "6"), prompt=("11", "text"), scale=("8", "scale_by"), denoise=("25", "denoise"),
        controlnet=("19", "strength"), tile=("17", "tile"), dino_strength=("20", "strength"), seed=("22", "noise_seed"),
    ),
    "FLUX.1 tile ControlNet guided": step_by_step(
        "## Tile ControlNet + DINO guidance, 2x, no adapter\n\nThe ControlNet holds every tile to the enlarged picture, so that "
        "half of it can be redrawn (**denoise** 0.5). At every step **anchor** keeps it true to the source at the source's own "
        "size, and **guide** leads it to where DINO sees the same. At 1 the anchor alone does best on a clean source, and leaves "
        f"DINO nothing to do. Stock weights, no training. {RUN}\n\n{PLACE} {CONTROL_PLACE}",
        "7", "28", loaders("5", "6"), prompt=("11", "text"), scale=("8", "scale_by"), denoise=("25", "denoise"),
        controlnet=("19", "strength"), anchor=("13", "strength"), guide=("14", "strength"), seed=("22", "noise_seed"),
    ),
    "What DINO does": Drawing(
        "## What DINO does\n\nA small world in which every shape has a texture of its own: crescents have slanted stripes, "
        "bars are sandy. The source has lost all texture, and a tile shows a piece of an outline.\n\nThe same toy FLUX redraws "
        "it twice with the same noise, in 16 tiles, at denoise 0.9: above with **dino_strength** 0, below with 1. Press **Run** "
        "(a minute, on a CPU too; all files are there) and look at both side by side, or slide over **Without and with DINO**: "
        "without, FLUX has lost what the tiles are parts of; with DINO each shape is there and "
        "has its own texture.\n\nThe encoder is a toy that was taught "
        "these shapes. FLUX.1 needs an adapter of its own for this, which must be trained first.",
        ((250, 0, ("1",)), (250, 0, ("6", "40")), (260, 160, ("43", "44")), (230, 0, ("45",)), (330, 0, ("9", "42"))),
        {
            "40": TOYS,
            "43": Inner("Without DINO", {name: ("8", name) for name in ("dino_strength", "denoise", "steps", "seed")}),
            "44": Inner("With DINO", {name: ("14", name) for name in ("dino_strength", "denoise", "steps", "seed")}),
        },
        heights={"1": 640, "6": 322, "45": 130, "42": 400},
        seeds="fixed",
    ),
    "What FlatDINO keeps": Drawing(
        "Press **Run** (a second, on a CPU), slide over **DINO's and restored**: patches that DINO sees as alike have one colour."
        "\n\nA FlatDINO turns a picture's patches, 12 x 12 of 128 numbers, into 16 tokens of 16, a 72nd, and back. What each "
        "thing is and where stays; outlines are lost: the crescent is an oval.\n\n*Restore DINO Features* gives what goes where "
        "DINO features go. This FlatDINO is a toy that knows these shapes, and takes square pictures.",
        (
            (210, 0, ("6", "2")), (210, 0, ("3", "4")), (205, 240, ("5",)), (205, 480, ("7",)), (200, 0, ("8", "9")),
            (230, 0, ("42", "1")),
        ),
        heights={"6": 322, "3": 280, "8": 300, "9": 300, "42": 380, "1": 300},
    ),
    "FLUX.2 klein guided": one_node(
        "Choose your picture above, press **Run**, slide over **Before and after**."
        "\n\nStock FLUX.2 klein 4B. At every step **anchor** pulls the picture to the source, and **guide** to "
        "where DINO sees the same; **retry** does tiles again that lost their likeness. FLUX.2's schedule is steep: "
        "**denoise** 0.15 begins at noise 0.57, 0.3 at 0.76.\n\nDINO's file *model.safetensors* goes to "
        "*models/dino/dinov2-with-registers-base*.\n\nFaster: FLUX.2's small VAE (*taef2*) by **Load VAE** into *decoder*."
    ),
    "Z-Image Turbo guided": one_node(
        "Choose your picture above, press **Run**, slide over **Before and after**."
        "\n\nStock Z-Image Turbo. At every step **anchor** pulls the picture to the source, and **guide** to "
        "where DINO sees the same; **retry** does tiles again that lost their likeness. New detail: "
        "**denoise** 0.4 to 0.6.\n\nDINO's file *model.safetensors* goes to "
        "*models/dino/dinov2-with-registers-base*.\n\nFaster: a TAESD (*taef1*) by **Load VAE** into *decoder*."
    ),
    "demo": Drawing(
        "## DINOTile demo\n\nEnlarges a picture 2x and redraws its detail in tiles. All models come with DINOTile, so it runs at "
        f"once, on a CPU too. {RUN}\n\nThe models are toys (a FLUX of 128 channels): they show the whole path, not FLUX's "
        "quality. For real work open *FLUX.1 upscale*; what DINO is for shows *What DINO does*.",
        ((310, 0, ("6", "40", "1")), (320, 54, ("8",)), (460, 0, ("42", "9"))),
        {"40": TOYS},
        heights={"1": 180, "6": 322, "8": 764, "42": 430},
        seeds="fixed",
    ),
}  # fmt: skip
