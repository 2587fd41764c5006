"""The adapter's cross-attention in diffusers' ``FluxTransformer2DModel``, through torch's own module hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...flux_patch.adapter import AdapterConfig
from ...flux_patch.rows import DinoCall


class DinoHooks:
    """Hooks at an adapter's sites. They stay until ``remove``, and do nothing outside of ``during``."""

    def __init__(self, transformer: nn.Module, config: AdapterConfig) -> None:
        self._call: DinoCall | None = None
        self._q: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        hooks = {"double": self._hook_double, "single": self._hook_single}
        blocks = {kind.name: getattr(transformer, kind.diffusers) for kind in config.family.blocks}
        for site in config.sites:
            kind, _, number = site.partition(".")
            hooks[kind](site, blocks[kind][int(number)].attn)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def call(self) -> DinoCall | None:
        """What the hooks add right now."""
        return self._call

    @contextmanager
    def during(self, call: DinoCall | None) -> Iterator[None]:
        """Let the hooks add ``call`` for a while; also for blocks whose activations are computed again in a backward pass."""
        before, self._call = self._call, call
        try:
            yield
        finally:
            self._call = before
            self._q.clear()

    def _hook_double(self, site: str, attn: nn.Module) -> None:
        def keep_q(module: nn.Module, args: Any, q: Tensor) -> None:  # q: [B, N, H, D], image tokens only
            if self._call is not None:
                self._q[site] = q.transpose(1, 2)

        def add(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            if self._call is None:
                return None
            return (args[0] + self._call.attend(site, self._q.pop(site)),)

        self._handles.append(attn.norm_q.register_forward_hook(keep_q))  # type: ignore[union-attr]
        self._handles.append(attn.to_out[0].register_forward_pre_hook(add))  # type: ignore[index]

    def _hook_single(self, site: str, attn: nn.Module) -> None:
        def keep_q(module: nn.Module, args: Any, q: Tensor) -> None:  # q: [B, text + N, H, D]
            if self._call is not None:
                self._q[site] = q[:, -self._call.image_tokens :].transpose(1, 2)

        def add(module: nn.Module, args: Any, attended: Tensor) -> Tensor | None:
            if self._call is None:
                return None
            image = self._call.image_tokens
            added = attended[:, -image:] + self._call.attend(site, self._q.pop(site))
            return torch.cat([attended[:, :-image], added], dim=1)

        self._handles.append(attn.norm_q.register_forward_hook(keep_q))  # type: ignore[union-attr]
        self._handles.append(attn.register_forward_hook(add))
