"""Runs inside the host's Python like inside.py: adapters fitted to ComfyUI's own SigLIP and Redux, measured.

python inside_redux.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json and the files that test_redux.py loads.
"""

from __future__ import annotations

from inside_sampling import project, sample, text
from inside_tools import (  # makes the host's and the pack's modules importable
    OUT,
    apart,
    check,
    dino,
    flux,
    folder,
    host_clip_vision,
    main,
    node,
    once,
    picture,
    refusal,
    saved,
)

# isort: split

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from inside_redux_tiles import siglip_and_redux
from safetensors.torch import save_file
from torch import Tensor

from dinotile import nodes
from dinotile.flux_patch.rows import WHOLE
from dinotile.hosts.comfy.folders import temporary_folder
from dinotile.hosts.comfy.redux import HostTeacher


def fit(name: str, *, model=None, redux=None, **changed):
    siglip, style = redux or once("redux", siglip_and_redux)
    settings = {
        "folder": folder("many", [(56, 56)] * 24),
        "filename_prefix": f"made/{name}",
        "layers": "2/3",
        "side": 112,
        "grid": 3,
        "hidden_layer": False,
        "epochs": 2,
        "held_out": 0.1,
        "seed": 0,
    }
    return node(nodes.FitProjection, model or flux(), dino(), siglip, style, **settings | changed)


@check
def fitted():
    """The node with SigLIP and Redux from ComfyUI's sockets."""
    siglip, style = once("redux", siglip_and_redux)
    made, report = fit("fitted")
    refined, longer = fit("refined", hidden_layer=True)
    teacher = HostTeacher(siglip, style)
    shown = [picture(seed, height=56, width=56).mul(255).round().div(255) for seed in range(4)]
    tokens = torch.cat([teacher.tokens(one.movedim(-1, 1)).float().cpu() for one in shown])  # [4, 4, 4, C]
    context = torch.stack([context_of(made, one) for one in shown])  # [4, C], the CLS place
    wanted = tokens.mean((1, 2))
    own = torch.cosine_similarity(context - wanted.mean(0), wanted - wanted.mean(0)).mean()
    swapped = torch.cosine_similarity(context.roll(1, 0) - wanted.mean(0), wanted - wanted.mean(0)).mean()
    save_file(
        {"pixels": torch.cat(shown).movedim(-1, 1).contiguous(), "tokens": tokens.contiguous()},
        OUT / "redux.safetensors",
    )
    state = {
        f"vision_model.{n.removeprefix('vision_model.')}": t for n, t in siglip.model.vision_model.state_dict().items()
    }
    save_file({name: tensor.float().contiguous() for name, tensor in state.items()}, OUT / "siglip.safetensors")
    save_file({name: t.float().contiguous() for name, t in style.model.state_dict().items()}, OUT / "style.safetensors")
    patched = node(nodes.PatchFlux, flux(), made)
    found = node(nodes.ExtractPatches, dino(), shown[0], "2/3", 112, 1)
    return {
        "report": report.splitlines(),
        "report with hidden layer": longer.splitlines(),
        "mechanisms": list(made.adapter.config.mechanisms),
        "own": float(own),
        "swapped": float(swapped),
        "files": len(saved("fitted")),
        "hidden": refined.adapter.config.context_hidden,
        "effect": apart(sample(patched, project(made, found)[0]), sample(flux(), text(0))),
        "left in temp": [path.name for path in temporary_folder().glob(".fit*")],
    }


def context_of(made, image: Tensor) -> Tensor:
    """The adapter's first text token for a whole picture."""
    found = node(nodes.ExtractPatches, dino(), image, "2/3", 112, 1)
    tokens = made.project(found)
    grid = made.adapter.config.grid
    return made.adapter.module.context_tokens(tokens.sequence(0, WHOLE, grid)[None])[0, 0]


@check
def fit_interrupted():
    def hook(value, total, preview, node_id=None):
        management.interrupt_current_processing()  # the first picture is always shown, others may be left out

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        fit("fit stopped")
        said = "nothing"
    except BaseException as error:
        said = type(error).__name__
    comfy.utils.set_progress_bar_global_hook(None)
    return {
        "said": said,
        "files": len(saved("fit stopped")),
        "left in temp": [path.name for path in temporary_folder().glob(".fit*")],
        "next": fit("fit next")[0].adapter.trained,
    }


@check
def fit_refusals():
    siglip, style = once("redux", siglip_and_redux)
    wide, _ = siglip_and_redux(64)
    clip = host_clip_vision({**siglip.config, "model_type": "clip_vision_model"})
    no_redux = comfy.sd.StyleModel(torch.nn.Linear(2, 2))
    return {
        "no Redux": refusal(lambda: fit("bad fit", redux=(siglip, no_redux))),
        "no SigLIP": refusal(lambda: fit("bad fit", redux=(clip, style))),
        "SigLIP of another width": refusal(lambda: fit("bad fit", redux=(wide, style))),
        "few pictures": refusal(lambda: fit("bad fit", folder=folder("few", [(56, 56)] * 3))),
        "no folder": refusal(lambda: fit("bad fit", folder="")),
        "FLUX of another width": refusal(lambda: fit("bad fit", model=flux("flux-thin"))),
        "files": [path.name for path in saved("bad fit")],
    }


if __name__ == "__main__":
    main()
