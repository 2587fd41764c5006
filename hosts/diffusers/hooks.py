"""The same adapter on diffusers' ``FluxTransformer2DModel``, through torch's own module hooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.geometry import geometry_of
from ...flux_patch.rows import DinoCall, DinoRow, make_call
from ...flux_patch.schedule import PercentToSigma


class DinoFlux:
    """A diffusers FLUX transformer with a DINO adapter.

    ``velocity`` takes what the transformer takes plus the DINO rows. The hooks stay on the transformer until ``remove``;
    they do nothing outside ``velocity``.
    """

    def __init__(self, transformer: nn.Module, adapter: DinoAdapter) -> None:
        adapter.check_geometry(geometry_of(transformer))
        self.transformer = transformer
        self.adapter = adapter
        self._call: DinoCall | None = None
        self._q: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        for name in adapter.config.sites:
            kind, index = name.split(".")
            if kind == "double":
                self._hook_double(name, transformer.transformer_blocks[int(index)].attn)  # type: ignore[index]
            else:
                self._hook_single(name, transformer.single_transformer_blocks[int(index)].attn)  # type: ignore[index]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def velocity(
        self,
        hidden_states: Tensor,
        *,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        img_ids: Tensor,
        guidance: Tensor | None,
        rows: Sequence[DinoRow],
        token_size: tuple[int, int],
        percent_to_sigma: PercentToSigma,
        memo: dict | None = None,
    ) -> Tensor:
        """Predict the velocity of packed latents [B, N, 64] at noise levels ``timestep`` [B] (0..1).

        encoder_hidden_states: [B, n, context]; pooled_projections: [B, vector]; img_ids: [N, 3]; rows: one per batch row;
        token_size: image tokens (height, width), N = height * width.
        """
        call = make_call(
            self.adapter,
            rows,
            sigmas=timestep.tolist(),
            token_size=token_size,
            percent_to_sigma=percent_to_sigma,
            device=hidden_states.device,
            dtype=hidden_states.dtype,
            memo=memo,
        )
        keywords: dict[str, Any] = {}
        if call is not None and call.context is not None:
            text_start = encoder_hidden_states.shape[1]
            encoder_hidden_states = torch.cat([encoder_hidden_states, call.context], dim=1)
            length = encoder_hidden_states.shape[1] + hidden_states.shape[1]
            if call.text_weights is not None:
                bias = call.text_bias(start=text_start, length=length, dtype=hidden_states.dtype)
                keywords["joint_attention_kwargs"] = {"attention_mask": bias}
        if call is not None and call.vector is not None:
            pooled_projections = pooled_projections + call.vector
        attends = call is not None and call.adapter.has("cross_attention")
        with self.during(call if attends else None):
            return self.transformer(
                hidden_states=hidden_states,
                timestep=timestep,
                guidance=guidance,
                encoder_hidden_states=encoder_hidden_states,
                pooled_projections=pooled_projections,
                txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3, device=hidden_states.device),
                img_ids=img_ids,
                return_dict=False,
                **keywords,
            )[0]

    @property
    def call(self) -> DinoCall | None:
        """What the hooks add right now; None outside of ``velocity``."""
        return self._call

    @contextmanager
    def during(self, call: DinoCall | None) -> Iterator[None]:
        """Let the hooks add ``call`` for a while: for blocks that run outside of ``velocity``, as when their activations are
        computed again for the backward pass."""
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
