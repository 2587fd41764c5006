"""Checks for inside.py: what of FLUX.2, Chroma and Krea 2 is unlike FLUX.1, in front of the adapter."""

from __future__ import annotations

import torch
from inside_sampling import patched, project, random_latent, sample, text
from inside_tools import adapter, apart, check_every_family, dino, features, flux, node, refusal, same, used

from dinotile import nodes


@check_every_family
def own_tokens():
    """Which tokens of a block DINO is added to, beside reference latents and the host's padding of the text."""
    chosen, found, latent = adapter("cross"), features(), random_latent(1, rows=8, columns=12)
    text_with = text(0, reference_latents=[random_latent(3, rows=8, columns=8)], reference_latents_method="index")
    kept, changed = [], []

    def before(attn, extra_options):
        kept.append(attn.clone())
        return attn

    def after(attn, extra_options):
        moved = (attn != kept.pop()).any(-1).any(0).nonzero().flatten()  # of all tokens
        image = moved - extra_options["img_slice"][0]
        name, of = f"{extra_options['block_type']}.{extra_options['block_index']}", attn.shape[1] - len(moved)
        if len(moved):
            changed.append([name, int(image.min()), int(image.max()) + 1, len(moved), of])
        return attn

    model = flux().clone()
    model.set_model_attn1_output_patch(before)
    model = patched(chosen, model)
    model.set_model_attn1_output_patch(after)
    sample(model, project(chosen, found, positive=text_with)[0], latent=latent, steps=1)
    plain = sample(flux(), text_with, latent=latent)
    alone = sample(flux(), text(0), latent=latent)
    return {
        "site, first, end, how many, others": changed,
        "sites": chosen.adapter.config.sites,
        "strength 0 is plain": same(
            sample(patched(chosen), project(chosen, found, 0.0, positive=text_with)[0], latent=latent), plain
        ),
        "references change it by": apart(plain, alone),
    }


@check_every_family
def empty_text():
    """The widths of an empty conditioning, what it says beside the tokens, and a run with it."""
    ((context, more),) = empty = node(nodes.EmptyConditioning, flux(), 8, 3.5)
    made = sample(flux(), empty)
    zeros = torch.zeros(1, 6, context.shape[-1])
    others = [[zeros, {"pooled_output": torch.zeros(1, 48)} if "pooled_output" in more else {}]]
    return {
        "context": list(context.shape),
        "beside it": {name: list(value.shape) if torch.is_tensor(value) else value for name, value in more.items()},
        "finite": bool(made.isfinite().all()),
        "zeros of another number change it by": apart(sample(flux(), others), made),
    }


@check_every_family
def made_for():
    """What a new adapter has, and what is refused."""
    config = node(nodes.NewAdapter, flux(), dino(), "2/3", "all", 32, 8, 1, 2, 0).adapter.config
    other = "flux" if used().flux != "flux" else "flux2"

    def refused(mechanism: str) -> str:
        return refusal(lambda: node(nodes.NewAdapter, flux(), dino(), "2/3", mechanism, 32, 8, 1, 2, 0))

    return {
        "mechanisms": config.mechanisms,
        "sites": config.sites,
        "vector": refused("vector"),
        "context": refused("context"),
        "empty text of dev": list(node(nodes.EmptyConditioning, flux("flux2-dev"), 8, 3.5)[0][1]),
        "the other family": refusal(lambda: patched(adapter(), flux(other))),
    }
