"""The adapter's cross-attention in diffusers' FLUX transformers, through torch's own module hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...flux_patch.adapter_config import AdapterConfig
from ...flux_patch.call import DinoCall


class DinoHooks:
    """Hooks at an adapter's sites. They stay until ``remove``, and do nothing outside of ``during``."""

    def __init__(self, transformer: nn.Module, config: AdapterConfig) -> None:
        self.call: DinoCall | None = None  # what the hooks add right now
        self._q: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        blocks = {kind.name: getattr(transformer, kind.diffusers) for kind in config.family.blocks}
        for site in config.sites:
            kind, _, number = site.partition(".")
            attn = blocks[kind][int(number)].attn
            self._handles.append(attn.norm_q.register_forward_hook(partial(self._keep_q, site)))
            if kind == "double":
                self._handles.append(attn.to_out[0].register_forward_pre_hook(partial(self._add_double, site)))
            elif hasattr(attn, "to_out"):  # of attention and MLP together, in FLUX.2
                self._handles.append(attn.to_out.register_forward_pre_hook(partial(self._add_fused, site)))
            else:
                self._handles.append(attn.register_forward_hook(partial(self._add_single, site)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def during(self, call: DinoCall | None) -> Iterator[None]:
        """Let the hooks add ``call`` for a while; also for blocks whose activations are computed again in a backward pass."""
        before, self.call = self.call, call
        try:
            yield
        finally:
            self.call = before
            self._q.clear()

    def _keep_q(self, site: str, module: nn.Module, args: Any, q: Tensor) -> None:
        """q: [B, N, H, D] of the image tokens, in single blocks behind those of the text."""
        if self.call is not None:
            self._q[site] = q[:, -self.call.image_tokens :].transpose(1, 2)

    def _add_double(self, site: str, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if self.call is None:
            return None
        others = args[0].shape[1] - self.call.image_tokens  # of references, before the image's
        added = self.call.attend(site, self._q.pop(site), args[0][:, others:])
        if others:  # written into args[0] where autograd is off
            return (torch.cat([args[0][:, :others], added], dim=1),) if torch.is_grad_enabled() else None
        return (added,)

    def _add_single(self, site: str, module: nn.Module, args: Any, attended: Tensor) -> Tensor | None:
        if self.call is None:
            return None
        text = attended.shape[1] - self.call.image_tokens
        added = self.call.attend(site, self._q.pop(site), attended[:, text:])
        return torch.cat([attended[:, :text], added], dim=1) if torch.is_grad_enabled() else attended

    def _add_fused(self, site: str, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """args: [attention | MLP] of [text | image], channels beside channels."""
        if self.call is None:
            return None
        both, q = args[0], self._q.pop(site)
        text, width = both.shape[1] - self.call.image_tokens, q.shape[1] * q.shape[3]
        attended = both[:, text:, :width]
        added = self.call.attend(site, q, attended)  # written into ``both`` where autograd is off
        if not torch.is_grad_enabled():
            return None
        image = torch.cat([added, both[:, text:, width:]], dim=2)
        return (torch.cat([both[:, :text], image], dim=1),)
