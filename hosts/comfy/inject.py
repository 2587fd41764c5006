"""The hooks in ComfyUI's FLUX, official ones only: where the tokens of ``carrier.DinoCond`` meet the attention.

Order within one step: ``CanvasWrapper`` (CALC_COND_BATCH) gives every conditioning an entry and the canvas size; the host
batches them; ``CallWrapper`` (APPLY_MODEL) turns the rows into a ``DinoCall``, outside torch.compile, and leaves it in a copy
of transformer_options; ``QueryPatch`` (attn1_patch) keeps the image queries of a block, ``OutputPatch``
(attn1_output_patch) adds the cross-attention. The objects keep no state of a run, so one patched model serves all tiles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.geometry import RopeOptions
from ...flux_patch.rows import DinoCall, make_call
from ..finite import finite
from .carrier import DinoCond

OPTIONS = "dinotile"  # in transformer_options: {key of the adapter: DinoCall and where its context tokens start}
TEXT = "text_tokens"  # beside them: length of the text as it enters FLUX, before patches put tokens in front of it
MEMO = "dinotile_memo"  # in transformer_options: RunMemo


def cond_key(adapter: LoadedAdapter) -> str:
    """Name of the adapter's entry in ``model_conds``."""
    return f"dinotile_{adapter.fingerprint}"


class RunMemo:
    """Tokens sampled for each tile, kept for one sampling run. An object, because the host copies dicts at every step."""

    def __init__(self) -> None:
        self.values: dict = {}


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
        model = executor.class_obj
        call = None
        if rows is not None:
            memo = options.get(MEMO)
            call = make_call(
                self.adapter,
                rows,
                sigmas=t.tolist(),
                token_size=self.adapter.config.family.tokens(*x.shape[-2:]),
                percent_to_sigma=model.model_sampling.percent_to_sigma,
                device=x.device,
                dtype=model.get_dtype_inference(),
                rope_options=RopeOptions.read(options.get("rope_options")),
                memo=None if memo is None else memo.values,
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
        options[OPTIONS] = {**options.get(OPTIONS, {}), self.key: (call, text_start), TEXT: c_crossattn.shape[1]}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def call_arguments(args: tuple, kwargs: dict) -> tuple[Any, Any, Any, dict]:
    """c_concat, c_crossattn, control and a copy of transformer_options of an APPLY_MODEL call, taken out of its keywords."""
    names = ("c_concat", "c_crossattn", "control", "transformer_options")
    named = dict(zip(names, args, strict=False))
    c_concat, c_crossattn, control, options = (named.get(n, kwargs.pop(n, None)) for n in names)
    return c_concat, c_crossattn, control, dict(options or {})


class BlockPatch:
    """Base of the two attention patches. The host moves and casts patches; these hold nothing to move."""

    def __init__(self, key: str, patcher: Any = None) -> None:
        self.key = key
        self.patcher = patcher

    def to(self, device_or_dtype: Any) -> BlockPatch:
        return self

    def models(self) -> list:
        """The adapter's ModelPatcher, so that the host loads it together with FLUX; of one patch is enough."""
        return [] if self.patcher is None else [self.patcher]

    def _call(self, options: dict) -> tuple[DinoCall, int] | None:
        return options.get(OPTIONS, {}).get(self.key)

    def _site(self, call: DinoCall, options: dict) -> str | None:
        site = f"{options['block_type']}.{options['block_index']}"
        return site if call.adapter.has("cross_attention") and site in call.adapter.config.sites else None


class QueryPatch(BlockPatch):
    """attn1_patch: keeps the block's image queries for ``OutputPatch`` and weighs the context tokens."""

    @torch.compiler.disable()
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, pe: Any = None, attn_mask: Any = None, extra_options: Any = None
    ):
        found = self._call(extra_options)
        if found is None:
            return {}
        call, text_start = found
        first = extra_options["img_slice"][0]
        if self._site(call, extra_options):
            extra_options[f"{self.key}_q"] = q[:, :, first : first + call.image_tokens]
        if call.text_weights is None:
            return {}
        start = text_start + first - extra_options[OPTIONS][TEXT]
        return {"attn_mask": merge_masks(attn_mask, call.text_bias(start=start, length=k.shape[2], dtype=q.dtype))}


class OutputPatch(BlockPatch):
    """attn1_output_patch: adds the cross-attention to the block's image tokens."""

    @torch.compiler.disable()
    def __call__(self, attn: Tensor, extra_options: dict) -> Tensor:
        q = extra_options.pop(f"{self.key}_q", None)
        if q is None:
            return attn
        call, _ = self._call(extra_options)  # type: ignore[misc]
        first = extra_options["img_slice"][0]
        site = self._site(call, extra_options)
        attn = attn.clone()
        attn[:, first : first + call.image_tokens] += call.attend(site, q)  # type: ignore[arg-type]
        return attn


def widen_mask(mask: Tensor, *, at: int, by: int) -> Tensor:
    """Give an attention mask [..., L, L] open rows and columns for ``by`` tokens inserted at ``at``.

    Columns that are closed to all tokens, such as padding, are closed to these too.
    """
    value, closed = (True, False) if mask.dtype == torch.bool else (0.0, -torch.inf)
    column = mask.new_full((*mask.shape[:-1], by), value)
    mask = torch.cat([mask[..., :at], column, mask[..., at:]], dim=-1)
    row = mask.new_full(mask.shape[-1:], value).where((mask != closed).any(-2, keepdim=True), closed)
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
