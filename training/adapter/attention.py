"""How much of the image tokens' attention goes to the text, to CLS and to the patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...hosts.host import Host
from .step import TrainRow

QUERIES = 64  # image tokens that are looked at


class AttentionMass(TorchFunctionMode):
    """Looks at torch's attention calls and averages softmax shares over blocks, heads, and rows that have DINO.

    FLUX's own attention: ``text``, ``context_cls``, ``context_patches`` (of an adapter with context tokens) and ``image``,
    which sum to 1. The adapter's cross-attention: ``site_cls`` and ``site_patches``, which sum to 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, list[Tensor]] = {}
        self._rows: list[int] = []
        self._parts: dict[tuple[int, int], dict[str, slice]] = {}  # by numbers of queries and keys
        self._image = 0

    @contextmanager
    def watching(self, host: Host, rows: Sequence[TrainRow]) -> Iterator[None]:
        """Watch one FLUX call on these rows, which have one size and text length (others are not looked at)."""
        self._rows = [i for i, row in enumerate(rows) if row.features is not None]
        uniform = len({(*row.clean.shape, row.text.context.shape[1]) for row in rows}) == 1
        if not self._rows or not uniform:
            yield
            return
        assert host.adapter is not None
        config = host.adapter.config
        rows_of_tokens, columns = host.latents.tokens(*rows[0].clean.shape[-2:])
        text, self._image = rows[0].text.of_length(host.family.text_length).context.shape[1], rows_of_tokens * columns
        parts = {"text": slice(0, text)}
        at = text
        if "context" in config.mechanisms:
            at = text + 1 + config.context_grid**2
            parts |= {"context_cls": slice(text, text + 1), "context_patches": slice(text + 1, at)}
        parts["image"] = slice(at, at + self._image)
        every, site = at + self._image, config.tokens
        sites = {"site_cls": slice(0, 1), "site_patches": slice(1, 1 + config.grid**2)}
        if config.shared:
            sites["site_shared"] = slice(1 + config.grid**2, site)
        self._parts = {(every, every): parts, (self._image, site): sites}
        with self:
            yield

    def means(self) -> dict[str, float]:
        return {name: float(torch.stack(values).mean()) for name, values in self._sums.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key")))
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            self._look(query, key, mask)
        return func(*args, **kwargs)

    @torch.no_grad()
    def _look(self, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        parts = self._parts.get((query.shape[-2], key.shape[-2]))
        if parts is None:
            return
        every = max(1, self._image // QUERIES)
        rows = torch.tensor(self._rows, device=query.device)
        q, k = query[rows, :, -self._image :: every].float(), key[rows].float()
        with torch.autocast(query.device.type, enabled=False):
            logits = q @ k.mT * q.shape[-1] ** -0.5  # [R, heads, queries, keys]
        if mask is not None:
            logits = logits + (mask[rows] if mask.shape[0] > 1 else mask)
        shares = logits.softmax(-1)
        for name, part in parts.items():
            self._sums.setdefault(name, []).append(shares[..., part].sum(-1).mean())
