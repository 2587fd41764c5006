"""The hooks in ComfyUI's FLUX, official ones only: where the tokens of ``carrier.DinoCond`` meet the attention.

Order within one step: ``CanvasWrapper`` (CALC_COND_BATCH) gives every conditioning an entry and the canvas size; the host
batches them; ``CallWrapper`` (APPLY_MODEL) turns the rows into a ``DinoCall``, outside torch.compile, and hands its tensors
to FLUX in a keyword; ``DataWrapper`` (DIFFUSION_MODEL), inside, moves them to transformer_options; ``QueryPatch``
(attn1_patch) keeps the rotated image queries of a block, ``OutputPatch`` (attn1_output_patch) adds the cross-attention. The
objects keep no state of a run, so one patched model serves all tiles.

Why a keyword: the host's *TorchCompileModel* leaves all of transformer_options unguarded, so that a graph of FLUX without DINO
would serve FLUX with it. Keywords are guarded: with or without DINO, with a mask, with weighed context tokens, each has its
graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch._dynamo
from torch import Tensor

from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.call import DinoCall, add_attention, pad_bias
from ...flux_patch.families import ModelFamily
from ...flux_patch.geometry import RopeOptions
from ...flux_patch.memo import RunMemo
from ...flux_patch.rows import make_call
from ..finite import finite
from .carrier import DinoCond
from .tracing import INLINED, TRACE, Apart, never_alone, outside_if_broken

OPTIONS = "dinotile"  # in transformer_options: what other packs may read
DATA = "dinotile_data"  # in transformer_options inside FLUX: {key of the adapter: SiteData}
SIZES = (
    "dinotile_sizes"  # beside it: number of image tokens, and of text tokens before patches put some in front of them
)
RAW = "dinotile_raw_q"  # in a block's extra_options: queries before an adapter of several rotates them
MEMO = "dinotile_memo"  # in transformer_options: RunMemo


class SiteData(TypedDict):
    """What the attention patches read of a ``DinoCall``: tensors and constants in a dict, which torch.compile can guard."""

    sites: dict[str, int]  # numbers of the blocks with cross-attention
    keys: Tensor | None  # [sites, 2, B, H, M, D]; None with autograd
    weights: Tensor | None  # [sites, B, 1 or N, 1, 1]
    positions: bool  # whether queries are rotated
    text: Tensor | None  # [B, 1, 1, n], added to the logits of the context tokens
    text_start: int  # where they begin in the text
    call: DinoCall | None  # with autograd


def site_data(call: DinoCall, *, text_start: int) -> SiteData:
    config, keys = call.adapter.config, call.regions.keys
    names = config.sites if call.adapter.has("cross_attention") else ()
    return {
        "sites": {name: number for number, name in enumerate(names)},
        "keys": keys,
        "weights": None if keys is None else call.weights,
        "positions": config.positions,
        "text": None if call.text_weights is None else call.text_logs(),
        "text_start": text_start,
        "call": call if keys is None and names else None,
    }


def cond_key(adapter: LoadedAdapter) -> str:
    """Name of the adapter's entry in ``model_conds``."""
    return f"dinotile_{adapter.fingerprint}"


def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE: gives a sampling run its memo. ``guider.model_options`` is the run's own copy."""
    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    options[MEMO] = RunMemo()
    return finite(executor(*args, **kwargs), "sample")


class CanvasWrapper:
    """CALC_COND_BATCH: every conditioning gets an entry of this adapter (an empty one where it has none) and the canvas."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, executor: Any, model: Any, conds: Any, x_in: Tensor, *args: Any, **kwargs: Any) -> Any:
        height, width = x_in.shape[-2:]
        conds = [None if cond is None else [self._entry(c, height, width) for c in cond] for cond in conds]
        return executor(model, conds, x_in, *args, **kwargs)

    def _entry(self, cond: dict, height: int, width: int) -> dict:
        entries = dict(cond["model_conds"])
        entries[self.key] = entries.get(self.key, DinoCond()).on_canvas(height, width)
        return {**cond, "model_conds": entries}


class CallWrapper:
    """APPLY_MODEL: takes the rows out of the keywords and prepares the call."""

    def __init__(self, adapter: LoadedAdapter) -> None:
        self.adapter = adapter
        self.key = cond_key(adapter)

    def __call__(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows = kwargs.pop(self.key, None)
        c_concat, c_crossattn, control, options = call_arguments(args, kwargs)
        model, family = executor.class_obj, self.adapter.config.family
        call = None
        if rows is not None:
            call = make_call(
                self.adapter,
                rows,
                sigmas=t.to(x.device),
                token_size=family.tokens(*x.shape[-2:]),
                percent_to_sigma=model.model_sampling.percent_to_sigma,
                dtype=model.get_dtype_inference(),
                rope_options=RopeOptions.read(options.get("rope_options") if family.rope_options else None),
                memo=options.get(MEMO),
            )
        if call is None:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        text_start = c_crossattn.shape[1]
        if call.context is not None:
            mask = kwargs.get("attention_mask")
            if mask is not None:
                kwargs["attention_mask"] = widen_mask(mask, at=text_start, by=call.context.shape[1])
            c_crossattn = torch.cat([c_crossattn.to(call.context), call.context], dim=1)
        if call.vector is not None:
            y = kwargs.get("y")
            kwargs["y"] = call.vector if y is None else y.to(call.vector) + call.vector
        kwargs[self.key] = site_data(call, text_start=text_start)
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def call_arguments(args: tuple, kwargs: dict) -> tuple[Any, Any, Any, dict]:
    """c_concat, c_crossattn, control and a copy of transformer_options of an APPLY_MODEL call, taken out of its keywords."""
    names = ("c_concat", "c_crossattn", "control", "transformer_options")
    named = dict(zip(names, args, strict=False))
    c_concat, c_crossattn, control, options = (named.get(n, kwargs.pop(n, None)) for n in names)
    return c_concat, c_crossattn, control, dict(options or {})


class DataWrapper:
    """DIFFUSION_MODEL: from the keyword to transformer_options, with the sizes that only FLUX's inputs tell."""

    def __init__(self, key: str, family: ModelFamily) -> None:
        self.key, self.family = key, family
        self.apart = type(f"Apart_{key}", (Apart,), {})()

    @never_alone
    def __call__(self, executor: Any, x: Tensor, timestep: Any, context: Tensor, *others: Any, **kwargs: Any) -> Any:
        """others: what each family's model is given between the text and transformer_options, and these."""
        *between, options = others
        data = kwargs.pop(self.key, None)
        if data is not None:
            rows, columns = self.family.tokens(*x.shape[-2:])
            sizes = {"image": rows * columns, "text": context.shape[1]}
            options = {**options, DATA: {**options.get(DATA, {}), self.key: data}, SIZES: sizes}
        TRACE.whole = INLINED and torch.compiler.is_compiling()
        inner = (x, timestep, context, *between, options)
        if data is None or TRACE.whole or not torch._dynamo.eval_frame.cached_backends:
            return executor(*inner, **kwargs)
        with self.apart:
            return executor(*inner, **kwargs)


class BlockPatch:
    """Base of the two attention patches. The host moves and casts patches; these hold nothing to move."""

    def __init__(self, key: str) -> None:
        self.key = key

    def to(self, device_or_dtype: Any) -> BlockPatch:
        return self

    def models(self) -> list:
        """ModelPatchers that the host loads together with FLUX."""
        return []


class QueryPatch(BlockPatch):
    """attn1_patch: keeps the block's image queries for ``OutputPatch`` and weighs the context tokens.

    FLUX rotates queries and keys after this patch. A site does it here, once for both, and gives them back with no positions
    to rotate by. patcher: the adapter's, None where the host need not load it. apply_rope, apply_rope1: the host's rotation of
    (q, k, positions) and of (q, positions).
    """

    def __init__(self, key: str, patcher: Any, *, apply_rope: Callable, apply_rope1: Callable) -> None:
        super().__init__(key)
        self.patcher, self.apply_rope, self.apply_rope1 = patcher, apply_rope, apply_rope1

    def models(self) -> list:
        return [] if self.patcher is None else [self.patcher]

    @outside_if_broken
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, pe: Any = None, attn_mask: Any = None, extra_options: Any = None
    ):
        data: SiteData | None = extra_options.get(DATA, {}).get(self.key)
        if data is None:
            return {}
        out = {}
        first, sizes = extra_options["img_slice"][0], extra_options[SIZES]
        if block_name(extra_options) in data["sites"]:
            image = slice(first, first + sizes["image"])
            raw = q if len(extra_options[DATA]) == 1 else extra_options.setdefault(RAW, q)
            if data["call"] is not None or not data["positions"]:
                kept = raw[:, :, image]
            elif pe is None:
                kept = q[:, :, image]
            elif last_of_ours(self, extra_options["patches"]["attn1_patch"]):
                q, k = self.apply_rope(q, k, pe)
                out, kept = {"q": q, "k": k, "pe": None}, q[:, :, image]
            else:  # another pack's patch comes after and wants what FLUX gives
                kept = self.apply_rope1(q[:, :, image], pe[:, :, image])
            extra_options[f"{self.key}_q"] = kept
        if data["text"] is not None:
            start = data["text_start"] + first - sizes["text"]
            out["attn_mask"] = merge_masks(
                attn_mask, pad_bias(data["text"], start=start, length=k.shape[2], dtype=q.dtype)
            )
        return out


class OutputPatch(BlockPatch):
    """attn1_output_patch: adds the cross-attention to the block's image tokens."""

    @outside_if_broken
    def __call__(self, attn: Tensor, extra_options: dict) -> Tensor:
        q = extra_options.pop(f"{self.key}_q", None)
        if q is None:
            return attn
        data: SiteData = extra_options[DATA][self.key]
        name, first = block_name(extra_options), extra_options["img_slice"][0]
        call, number = data["call"], data["sites"][name]
        if call is not None or not fresh(extra_options):
            attn = attn.clone()
        image = attn[:, first : first + q.shape[2]]
        if call is not None:
            image.copy_(call.attend(name, q, image))
        else:
            add_attention(image, q, data["keys"][number], data["weights"][number])
        return attn


def block_name(options: dict) -> str:
    return f"{options['block_type']}.{options['block_index']}"


def last_of_ours(patch: Any, patches: list) -> bool:
    """Whether no other pack's patch comes after this one."""
    at = next(number for number, each in enumerate(patches) if each is patch)
    return all(isinstance(each, BlockPatch) for each in patches[at:])


def fresh(options: dict) -> bool:
    """Whether the attention's output is nobody else's: the host's is not, that of an override or of a patch before may be."""
    return "optimized_attention_override" not in options and isinstance(
        options["patches"]["attn1_output_patch"][0], BlockPatch
    )


def widen_mask(mask: Tensor, *, at: int, by: int) -> Tensor:
    """Give an attention mask [..., L, L] open rows and columns for ``by`` tokens inserted at ``at``.

    Columns that are alike for all tokens, such as closed ones of padding, are so for these too.
    """
    value = mask.dtype == torch.bool
    column = mask.new_full((*mask.shape[:-1], by), value)
    mask = torch.cat([mask[..., :at], column, mask[..., at:]], dim=-1)
    least, most = mask.aminmax(dim=-2, keepdim=True)
    row = torch.where(least == most, most, value)
    return torch.cat([mask[..., :at, :], row.expand(*mask.shape[:-2], by, -1), mask[..., at:, :]], dim=-2)


def merge_masks(mask: Tensor | None, bias: Tensor) -> Tensor:
    """Add a bias [B, 1, 1, L] to an attention mask (bool or additive, 2 to 4 dimensions) or to none."""
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, float("-inf"))
    while mask.ndim < 4:
        mask = mask.unsqueeze(0 if mask.ndim == 2 else 1)
    return mask.to(bias.dtype) + bias
