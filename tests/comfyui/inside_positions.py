"""Checks for inside.py: where DINO's keys and FLUX's queries stand, beside the host's own and scaled positions."""

from __future__ import annotations

from comfy_extras.nodes_rope import ScaleROPE
from inside_sampling import last_call, patched, project, sample, tiled, watch
from inside_tools import adapter, apart, check_every_family, check_families, features, flux, node, same

ROPES = {  # scale and shift of x, y, t
    "neutral": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
    "scale": (0.5, 0.0, 2.0, 0.0, 1.0, 0.0),
    "shift": (1.0, 3.0, 1.0, -2.5, 1.0, 1.0),
}


@check_every_family
def own_positions():
    """How far the positions that DINO's keys are set beside are from those that the model rotates its image tokens by."""
    chosen, given, out = adapter("cross"), [], {}

    def query(q, k, v, pe=None, attn_mask=None, extra_options=None):
        first = extra_options["img_slice"][0]
        given.append(apart(last_call().q_rotation, pe[0, 0, first : first + last_call().image_tokens]))
        return {}

    model = flux().clone()
    model.set_model_attn1_patch(query)
    positive, _ = project(chosen, features())
    for name in ("neutral", "shift"):
        sample(node(ScaleROPE, tiled(patched(chosen, model)), *ROPES[name]), positive, steps=1)
        out[name] = [len(given) > 1, max(given)]
        given.clear()
    return out


@check_families
def scaled_rope():
    """ComfyUI's ScaleROPE on the patched model; the cross-attention's positions are FLUX's own."""
    chosen, out = adapter(), {}
    positive, negative = project(chosen, features())
    for shape, wrap in (("whole", lambda model: model), ("tiled", tiled)):
        model = wrap(patched(chosen))
        reference = sample(model, positive, negative, cfg=2.0)
        out[shape] = {}
        for name, options in ROPES.items():
            worst = [0.0]

            def see(call, worst=worst, model=model):
                made = last_call()
                inner = model.model.diffusion_model
                _, ids = inner.process_img(call.x, transformer_options=call.options)
                worst[0] = max(worst[0], apart(made.q_rotation, inner.pe_embedder(ids[:1])[0, 0]))

            scaled = node(ScaleROPE, model, *options)
            result = sample(watch(scaled, see), positive, negative, cfg=2.0)
            out[shape][name] = {
                "equal": same(result, reference),
                "differs by": apart(result, reference),
                "finite": bool(result.isfinite().all()),
                "positions differ from FLUX's by": worst[0],
            }
        out[shape]["without it again is equal"] = same(sample(model, positive, negative, cfg=2.0), reference)
    return out


@check_families
def shared_rotation():
    """Who else looks at queries and attention sees what FLUX gives, and DINO adds the same beside it."""
    a, flat, found = adapter("cross"), adapter("flat"), features()
    alone = sample(patched(a), project(a, found)[0])
    positions, kept = [], []

    def query(q, k, v, pe=None, attn_mask=None, extra_options=None):
        positions.append(pe is not None)
        return {}

    def output(attn, extra_options):
        kept.append((attn, attn.clone()))
        return attn

    def override(func, *args, **kwargs):
        out = func(*args, **kwargs)
        kept.append((out, out.clone()))
        return out

    def with_both(model, kind):
        model = model.clone()
        if kind == "attention":
            model.model_options["transformer_options"]["optimized_attention_override"] = override
        elif kind == "output":
            model.set_model_attn1_output_patch(output)
        else:
            model.set_model_attn1_patch(query)
        return model

    out = {}
    for kind in ("query", "output", "attention"):
        out[f"{kind} before"] = apart(sample(patched(a, with_both(flux(), kind)), project(a, found)[0]), alone)
        out[f"{kind} after"] = apart(sample(with_both(patched(a), kind), project(a, found)[0]), alone)
    both = project(flat, found, positive=project(a, found)[0])[0]
    orders = [sample(patched(flat, patched(a)), both), sample(patched(a, patched(flat)), both)]
    return {
        "differs by": out,
        "positions are there": [all(positions), len(positions) > 0],
        "what others keep changes": max(apart(*pair) for pair in kept),
        "orders of adapters with and without positions differ by": apart(*orders),
        "both differ from one by": apart(orders[0], alone),
    }
