"""Checks for inside.py: conditionings with areas, against ComfyUI without tiles and against tiles that are cut by hand."""

from __future__ import annotations

from dataclasses import replace

import comfy.controlnet
import comfy.samplers
import node_helpers
import torch
from comfy.patcher_extension import WrappersMP
from inside_controlnets import control_model
from inside_sampling import patched, plan, project, random_latent, sample, text, tiled
from inside_tools import CONTEXT, HEIGHT, WIDTH, adapter, apart, check, features, flux, picture, using

from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.guide import PartGuide
from dinotile.flux_patch.redux import ReduxTokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy.carrier import DinoCond
from dinotile.hosts.comfy.crop import with_cond
from dinotile.hosts.comfy.place import PlaceCrop
from dinotile.hosts.comfy.shown import show
from dinotile.tiling.canvas import cut
from dinotile.tiling.moving import moved
from dinotile.tiling.plan import Box, TilePlan
from dinotile.tiling.windows import tile_windows, window
from nodes import ConditioningSetArea, ConditioningSetAreaPercentage, ConditioningSetMask

SEED = 5  # of the windows that move


def area(to: list, *place: int, strength: float = 1.0) -> list:
    return node_helpers.conditioning_set_values(to, {"area": place, "strength": strength})


def conditionings() -> dict[str, tuple[list, list]]:
    """Positive and negative of each case. Some areas begin inside tokens and have odd sides; none reaches less than eight cells
    into a tile."""
    a, b, c = text(10), text(11), text(12)
    left, soft = torch.zeros(1, HEIGHT, WIDTH), torch.linspace(0, 1, WIDTH).expand(1, HEIGHT, WIDTH)
    left[:, 24:, :160] = 1
    masked = lambda to, mask, bounds: ConditioningSetMask().append(to, mask, bounds, 0.8)[0]  # noqa: E731
    by_px = ConditioningSetArea().append(b, 112, 120, 48, 24, 0.7)[0]
    by_percent = ConditioningSetAreaPercentage().append(text(13), 0.6, 0.7, 0.2, 0.3, 1.5)[0]
    return {
        "areas": (a + by_px + by_percent, c + area(text(14), 12, 20, 8, 8, strength=2.0)),
        "masks": (a + masked(b, left, "mask bounds") + area(masked(text(13), soft, "default"), 13, 18, 2, 2), c),
        "an area alone": (area(a, 17, 21, 2, 3), c),
    }


@check
def areas():
    """One tile is the host, and many are what the host makes of each tile's latents with the area's part."""
    one, many = plan(tile=WIDTH), FLUX1.plan_tiles(HEIGHT, WIDTH, tile=144, overlap=64, fit="exact")
    out = {"tiles": many.count, "one": {}, "many": {}}
    with using("short"):
        for name, (positive, negative) in conditionings().items():
            given = {"positive": positive, "negative": negative, "cfg": 2.0, "steps": 1}
            whole = sample(flux(), **given)
            out["one"][name] = apart(sample(tiled(flux(), one), **given), whole)
            out["many"][name] = apart(sample(tiled(flux(), many), **given), sample(cut_by_hand(many), **given))
        alone = conditionings()["an area alone"][0]
        out["many"]["moving windows"] = apart(
            sample(tiled(flux(), many, moving=True), alone, steps=1, seed=SEED),
            sample(cut_by_hand(moved(many, step=0, seed=SEED)), alone, steps=1),
        )
        positive = conditionings()["areas"][0][:2]
        out["the area acts"] = apart(sample(flux(), positive, steps=1), sample(flux(), positive[:1], steps=1))
        one_place, places = PlaceCrop(one.latent), PlaceCrop(many.latent)
        said = one_place(positive, one.latent.box(0))
        out["one"]["place"] = apart(sample(flux(), said, steps=1), sample(flux(), positive, steps=1))
        masked = conditionings()["masks"][0]
        out["one"]["place of masks"] = apart(
            sample(flux(), one_place(masked, one.latent.box(0)), steps=1), sample(flux(), masked, steps=1)
        )
        redux = ReduxTokens(random_latent(3, 2, 4, CONTEXT)[:1, :4].contiguous(), 3, Strength(1.0))
        positive_shown, negative, place = show(text(15), redux), text(12), (12, 20, 8, 8)
        out["the other side keeps its text"] = apart(
            *(
                sample(tiled(flux(), many), area(positive_shown, *place), of, cfg=2.0, steps=1)
                for of in (negative, negative + area(negative, *place))
            )
        )
        out["parts of places"] = [[said.get("area") for _, said in places(positive, box)] for box in many.latent.boxes]
        led, model = project(adapter(), features(), positive=positive)[0], patched(adapter())
        out["one"]["DINO"] = apart(sample(tiled(model, one), led, steps=1), sample(model, led, steps=1))
        out["many"]["DINO"] = apart(
            sample(tiled(model, many), led, steps=1), sample(cut_by_hand(many, model), led, steps=1)
        )
        shown = {"reference_latents": [random_latent(9)], "control": control()}
        shown = node_helpers.conditioning_set_values(positive, shown)
        out["many"]["reference and hint"] = apart(
            sample(tiled(flux(), many), shown, steps=1), sample(cut_by_hand(many), shown, steps=1)
        )
    return out


def control():
    net = comfy.controlnet.ControlNet(
        control_model(
            latent_input=False
        ),  # its own: the host collects garbage before each load while one outlives its patcher
        load_device=torch.device("cpu"),
        extra_conds=["y", "guidance"],
    )
    return net.set_cond_hint(picture(4).movedim(-1, 1), 1.0)


def cut_by_hand(plan: TilePlan, model=None):
    """A model whose every estimate is put together of the host's for each tile, as a latent of its own, by the tiles' windows.

    What a conditioning weighs at a place is what the host says of the whole canvas.
    """
    model, plan = (model or flux()).clone(), plan.latent

    def estimate(executor, inner, conds, x, timestep, options):
        total = [torch.zeros_like(x) for _ in conds]
        for box, pair in zip(plan.boxes, tile_windows(plan), strict=True):
            own = [
                None if c is None else [of for each in c for of in part(each, x, timestep, box, inner)] for c in conds
            ]
            for canvas, found in zip(total, executor(inner, own, cut(x, box), timestep, options), strict=True):
                cut(canvas, box).add_(found * window(pair))
        return total

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "by hand", estimate)
    return model


def part(cond, x, timestep, box, inner):
    """The conditioning of a tile: its area in the tile, and what it shows of that; none where it misses the tile."""
    found = comfy.samplers.get_area_and_mult({**cond, "model_conds": {}}, x, timestep)
    height, width, top, left = found.area or (*x.shape[-2:], 0, 0)
    first, start = max(top, box.top), max(left, box.left)
    rows, columns = min(top + height, box.bottom) - first, min(left + width, box.right) - start
    if rows <= 0 or columns <= 0:
        return
    if "control" in cond:  # whose model takes whole tokens only
        last, end = (-(-side // 2) * 2 for side in (first + rows, start + columns))
        first, start = first // 2 * 2, start // 2 * 2
        rows, columns = last - first, end - start
    inside = Box(first, start, rows, columns)
    weight = torch.zeros(1, *x.shape[-2:])
    weight[:, top : top + height, left : left + width] = found.mult[:, 0]
    entries = dict(cond["model_conds"])
    if "ref_latents" in entries:
        entries["ref_latents"] = with_cond(entries["ref_latents"], [cut(entries["ref_latents"].cond[0], inside)])
    for key, entry in entries.items():
        if isinstance(entry, DinoCond) and entry.guide is not None:
            entries[key] = replace(
                entry, guide=PartGuide(entry.guide, box, tuple(x.shape[-2:])), canvas=(box.height, box.width)
            )
    own = {
        **cond,
        "area": (rows, columns, first - box.top, start - box.left),
        "mask": cut(weight, box),
        "model_conds": entries,
    }
    own |= {"strength": 1.0, "mask_strength": 1.0}
    if "control" in cond:
        own["control"] = cond["control"].copy()
        px = Box(8 * first, 8 * start, 8 * rows, 8 * columns)
        own["control"].set_cond_hint(cut(cond["control"].cond_hint_original, px), 1.0).pre_run(
            inner, inner.model_sampling.percent_to_sigma
        )
    yield own
