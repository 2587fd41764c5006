"""Checks for inside.py: what people plug into models of other families than FLUX.1, by hand as in inside_controls.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.hooks
import comfy.sd
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import LazyCacheNode
from comfy_extras.nodes_flux import FluxKVCache
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from inside_controls import Apply, Hint, by_hand
from inside_families import latent, planned, sample, small
from inside_sampling import tiled
from inside_tools import CHECKS, apart, check, node, refusal, same
from inside_zoo import built, decoder, drawn
from torch import Tensor

from dinotile import nodes


def low_rank(model: Any, layer: str, seed: int) -> dict[str, Tensor]:
    out, inner = model.model.diffusion_model.get_submodule(layer).weight.shape
    name = f"diffusion_model.{layer}"
    return {
        f"{name}.lora_up.weight": drawn(out, 4, seed=seed) * 0.1,
        f"{name}.lora_down.weight": drawn(4, inner, seed=seed + 1) * 0.3,
    }


def loras(model: Any, vae: Any) -> Apply:
    """One beside the model's weights, and one of the positive alone."""
    beside, own = (
        low_rank(model, f"layers.0.{layer}", number)
        for number, layer in enumerate(("attention.out", "feed_forward.w1"))
    )

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        model, _ = comfy.sd.load_bypass_lora_for_models(model, None, beside, 1.0, 0.0)
        hook = comfy.hooks.create_hook_lora(own, 1.0, 0.0)
        return model, comfy.hooks.set_hooks_for_conditioning(positive, hook), negative

    return apply


def unet_nodes(model: Any, vae: Any) -> Apply:
    def apply(model: Any, *given: Any) -> tuple[Any, list, list]:
        (model,) = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args
        return PerturbedAttentionGuidance.execute(model, 3.0).args[0], given[0], given[1]

    return apply


def skipped_layer(model: Any, vae: Any) -> Apply:
    def apply(model: Any, *given: Any) -> tuple[Any, list, list]:
        return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, double_layers="0").args[0], given[0], given[1]

    return apply


@check
def plugged_refused():
    model = built("FLUX.2")
    windows = ContextWindowsManualNode.execute(model, 2, 1, "standard_static", 1, False, "pyramid", 2, False).args[0]
    patched = {"windows": windows, "cache": FluxKVCache.execute(model).args[0]}
    found = {
        name: refusal(lambda each=each: sample(tiled(each, planned(model)), "FLUX.2", latent(model), steps=1))
        for name, each in patched.items()
    }
    larger = latent(model, extra=2)
    other = refusal(lambda: sample(tiled(windows, planned(model)), "FLUX.2", larger, steps=1))
    return found | {"windows, another size": other}


@check
def cached_estimates():
    """LazyCache, which gives a former estimate again, before an anchor and after it."""
    model = built("Z-Image")
    latents = latent(model)

    def cache(model):
        return LazyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]

    def anchor(model):
        return node(nodes.SourceAnchor, model, small(model), decoder(model), 0.5, 1.0, 0.0, 1)

    before, after, alone = (
        sample(tiled(patched, planned(model)), "Z-Image", latents, steps=5)
        for patched in (anchor(cache(model)), cache(anchor(model)), anchor(model))
    )
    return {"same": same(before, after), "cached": apart(before, alone)}


PLUGGED = {
    "Z-Image, LoRAs": Hint("Z-Image", loras),
    "SDXL, FreeU and Perturbed-Attention Guidance": Hint("SDXL", unet_nodes),
    "Qwen-Image, Skip Layer Guidance": Hint("Qwen-Image", skipped_layer),
}
for name, plugged in PLUGGED.items():
    CHECKS[f"by hand {name}"] = partial(by_hand, plugged)
