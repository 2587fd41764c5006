"""Checks for inside.py: what other nodes put into the model meets tiles as it meets a picture without tiles."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_model_patch import SigLIPMultiFeatProjModel, USOStyleReference
from comfy_extras.nodes_nag import NAGuidance
from inside_sampling import one_by_one, patched, places, plan, project, random_latent, sample, text, tiled, watch, where
from inside_tools import COLUMNS, HOST, PACK, ROWS, TILE, adapter, apart, check, features, flux, refusal, same

import nodes as host_nodes
from dinotile.tiling.windows import tile_windows, window

STEPS = {"EasyCache": 5, "LazyCache": 5, "ContextWindowsManual": 2}  # of the others one shows all
WIDGETS = {"EasyCache": {"reuse_threshold": 3.0}, "ModelAttentionBackend": {"attention": "pytorch"}}
WIDGETS |= dict.fromkeys(
    ("SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple"),
    {"double_layers": "0", "single_layers": "0", "start_percent": 0.0, "end_percent": 1.0},
)
APART = {
    "TorchCompileModel",
    "HypernetworkLoader",
    "LoraLoaderBypassModelOnly",
    "LoraLoaderModelOnly",
}  # compiles; need files


def small(model, of=None):
    return tiled(model, of or plan(height=96, width=96))  # 2 x 2 tiles


def run(model, *, steps: int = 1, cfg: float = 2.0):
    return sample(model, text(0), text(1), cfg=cfg, steps=steps, denoise=0.9, latent=random_latent(1, 1, 12, 12))


def room_for(model, rows: int):
    """The host finds memory for that many rows of a tile at a time, for this very model (not for clones)."""
    model = model.clone()
    need = model.model.memory_required([rows, 16, 8, 8]) * 1.5 + 1
    model.get_free_memory = lambda device: need
    return model


def core_model_nodes() -> dict[str, type]:
    """Core's nodes that turn a MODEL and plain widgets into a MODEL, by id."""
    for path in sorted((HOST / "comfy_extras").glob("nodes_*.py")):
        if any(word in path.read_text(encoding="utf-8") for word in ("Model.Output", '"MODEL"')):
            asyncio.run(host_nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    plain = {"MODEL", "INT", "FLOAT", "BOOLEAN", "STRING", "COMBO"}
    found = {}
    for name, cls in sorted(host_nodes.NODE_CLASS_MAPPINGS.items()):
        kinds = [given[0] for given in cls.INPUT_TYPES().get("required", {}).values()]
        if "MODEL" in cls.RETURN_TYPES and kinds.count("MODEL") == 1:
            if name not in APART and all(isinstance(kind, list) or kind in plain for kind in kinds):
                found[name] = cls
    return found


def applied(name: str, cls: type, model):
    """A node's MODEL with its widgets as they stand in a new node."""
    inputs = {}
    for key, (kind, *more) in cls.INPUT_TYPES()["required"].items():
        options = more[0] if more else {}
        choices = kind if isinstance(kind, list) else options.get("options")
        inputs[key] = model if kind == "MODEL" else options.get("default", choices[0] if choices else None)
    inputs |= {key: value for key, value in WIDGETS.get(name, {}).items() if key in inputs}
    out = cls.execute(**inputs) if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)(**inputs)
    return (out.args if hasattr(out, "args") else out)[0]


@check
def core_patches():
    """Each of them over tiles with room for all tiles in a call, for two rows, and for one: how far apart, or what was said.
    A node that fails without tiles too is for other models."""
    out = {}
    for name, cls in core_model_nodes().items():
        steps = STEPS.get(name, 1)
        try:
            model = applied(name, cls, flux())
            whole = run(small(model), steps=steps)
        except Exception as error:
            plain = refusal(lambda n=name, c=cls: run(applied(n, c, flux())))
            out[name] = "for other models" if plain == f"{type(error).__name__}: {error}" else f"tiles: {error!r}"
            continue
        few = run(room_for(small(model), 2), steps=steps)
        said = refusal(
            lambda m=model, s=steps, w=whole, n=name: out.update({n: apart(run(one_by_one(small(m)), steps=s), w)})
        )
        out[name] = {"two rows": apart(few, whole), "one row": out.get(name, said)}
    return out


@check
def nag():
    """Each tile gets what NAGuidance does to a picture of its own."""
    seen = []

    def see(call):
        seen.append((call.options["cond_or_uncond"], [row["tile"] for row in call.options["dinotile"]["tiles"]]))

    model = NAGuidance.execute(flux(), 5.0, 0.5, 1.5).args[0]
    latent, noise = random_latent(1, 1, 12, 12), random_latent(2, 1, 12, 12)
    sigmas = torch.tensor([0.8, 0.0])

    def step(model, box=None):
        def crop(tensor):
            return tensor if box is None else tensor[..., box.top : box.bottom, box.left : box.right]

        return sample(model, text(0), text(1), cfg=2.0, sigmas=sigmas, latent=crop(latent), noise=crop(noise))

    step(watch(small(model), see))
    fused, weights = torch.zeros_like(latent), torch.zeros_like(latent)
    of = plan(height=96, width=96)
    for box, pair in zip(of.latent.boxes, tile_windows(of.latent), strict=True):
        place = (..., slice(box.top, box.bottom), slice(box.left, box.right))
        fused[place] += step(model, box) * window(pair)
        weights[place] += window(pair)
    reference = fused / weights
    return {
        "slots": [sorted(slots) for slots, _ in seen],
        "tiles": sorted(tiles for _, tiles in seen),
        "differs from tile after tile by": apart(step(small(model)), reference),
        "acts by": apart(reference, step(small(flux()))),
        "one tile is the whole": same(step(tiled(model, plan(tile=256, height=96, width=96))), step(model)),
        "no room": refusal(lambda: step(one_by_one(small(model)))),
        "without negative": refusal(lambda: run(one_by_one(small(flux())), cfg=1.0)),
    }


def example_of_the_docs():
    """What docs/other-packs.md shows, run as it stands there: ``look_at_the_tile``."""
    blocks = (PACK / "docs" / "other-packs.md").read_text(encoding="utf-8").split("```python\n")[1:]
    code = next(block.split("```")[0] for block in blocks if "def look_at_the_tile" in block)
    names: dict = {}
    exec(code.split("\n\nmodel = ")[0], names)  # noqa: S102
    return names["look_at_the_tile"]


@check
def contract():
    """An IP-Adapter-like patch whose values are places of the picture: keys of zero give each tile the mean of its part."""
    values = torch.zeros(ROWS, COLUMNS, 256)
    values[..., 0] = torch.arange(ROWS)[:, None] + 0.5
    values[..., 1] = torch.arange(COLUMNS)[None, :] + 0.5
    patch = look = example_of_the_docs()(torch.zeros_like(values), values)
    out = {}
    for name, limit in (("all", None), ("two pictures", None), ("one by one", 1)):
        batch = 2 if name == "two pictures" else 1
        given, seen, worst = [], [], [0.0]

        def see(attn, extra_options, given=given, worst=worst):
            before = attn.clone()
            attn = look(attn, extra_options)
            added = (attn - before)[:, extra_options["img_slice"][0] :, :2].mean(1) * 8
            for (left, top, right, bottom), mean in zip(given[-1], added.tolist(), strict=True):
                worst[0] = max(worst[0], abs(mean[0] - (top + bottom) / 2), abs(mean[1] - (left + right) / 2))
            return attn

        model = flux().clone()
        model.set_model_attn1_output_patch(see)
        wrapped = tiled(model)

        def shows(call, seen=seen, given=given, wrapped=wrapped):
            rows = call.options["dinotile"]["tiles"]
            boxes = [(8 * left, 8 * top, 8 * left + TILE, 8 * top + TILE) for top, left, _ in places(call, wrapped)]
            seen.extend(
                (row["tile"], row["tiles"], row["canvas"], row["box"] == box)
                for row, box in zip(rows, boxes, strict=True)
            )
            given.append(boxes)

        latent = where(batch)
        watched = watch(wrapped, shows)
        sample(
            one_by_one(watched) if limit else watched,
            text(0), None if limit else text(1), cfg=1.0 if limit else 2.0, steps=1, denoise=0.5, latent=latent,
            noise=torch.zeros_like(latent),
        )  # fmt: skip
        out[name] = {"worst, px": worst[0], "rows": [len(boxes) for boxes in given], "seen": seen}
    model = flux().clone()
    model.set_model_attn1_output_patch(patch)
    out["whole picture is plain"] = same(run(model), run(flux()))
    return out | {"elsewhere": elsewhere()}


def elsewhere() -> dict[str, bool]:
    """Whether each other hook of a model finds the entries that an APPLY_MODEL wrapper after Tile Model finds."""
    found: dict[str, list] = {
        name: [] for name in ("function wrapper", "outer", "DIFFUSION_MODEL", "replaced block", "inner")
    }

    def called(apply, given):
        found["function wrapper"].append(given["c"]["dinotile_tiles"])
        return apply(given["input"], given["timestep"], **given["c"])

    def outer(executor, *args, **kwargs):
        found["outer"].append(kwargs["dinotile_tiles"])
        return executor(*args, **kwargs)

    def inside(executor, *args, **kwargs):
        found["DIFFUSION_MODEL"].append(args[-1]["dinotile"]["tiles"])
        return executor(*args, **kwargs)

    def block(given, original):
        found["replaced block"].append(given["transformer_options"]["dinotile"]["tiles"])
        return original["original_block"](given)

    model = flux().clone()
    model.set_model_unet_function_wrapper(called)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_outer", outer)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test_inside", inside)
    model.set_model_patch_replace(block, "dit", "double_block", 0)
    run(watch(small(model), lambda call: found["inner"].append(call.options["dinotile"]["tiles"])))
    return {name: len(rows) == 4 and rows == found["inner"] for name, rows in found.items()}


def with_style(model, share: float = 1.0):
    """Core's *USO Style Reference*, its projector tiny and fresh: 12 style tokens before the text."""
    torch.manual_seed(7)
    with torch.inference_mode(False):
        projector = SigLIPMultiFeatProjModel(
            siglip_token_nums=9,
            style_token_nums=4,
            siglip_token_dims=32,
            hidden_size=256,
            operations=comfy.ops.manual_cast,
        )
        for parameter in projector.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(projector, load_device=cpu, offload_device=cpu)
    shown = torch.randn(1, 27, 9, 32) * share
    output = SimpleNamespace(all_hidden_states=shown, penultimate_hidden_states=shown[:, -2])
    return USOStyleReference().apply_patch(model, patcher, output)[0]


@check
def style_tokens():
    """Core's patch that puts tokens before the text of one row, in tiles and beside DINO's context tokens."""
    styled = with_style(flux())
    whole, few = run(small(styled), cfg=1.0), run(one_by_one(small(styled)), cfg=1.0)
    biases = []

    def look(q, k, v, pe=None, attn_mask=None, extra_options=None):
        weighed = attn_mask[0, 0, 0].nonzero().flatten().tolist()
        biases.append([column - extra_options["img_slice"][0] for column in weighed])
        return {}

    watched = patched(adapter(), with_style(flux()))
    watched.set_model_attn1_patch(look)
    positive, _ = project(adapter(), features(), 0.5)
    sample(tiled(watched), positive, steps=1)
    return {
        "one by one differs by": apart(few, whole),
        "acts by": apart(whole, run(small(flux()), cfg=1.0)),
        "weighed, counted from the picture": sorted({tuple(found) for found in biases}),
    }
