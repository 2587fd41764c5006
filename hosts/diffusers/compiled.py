"""torch.compile, and the same work without it where its backend is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...files.errors import printable

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

SHAPES = 8  # graphs of a block over many pictures: one tile and several, other sizes, a mask; beyond them it is eager

log = logging.getLogger("dinotile")


class OrEager:
    """``compiled``, which is asked first, and from the first time that its backend fails on ``eager``."""

    def __init__(self, compiled: Callable[..., Any], eager: Callable[..., Any]) -> None:
        self.call, self.eager = compiled, eager

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.call(*args, **kwargs)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # slow to import, and there by now

            if self.call is self.eager or not isinstance(error, TorchDynamoException):
                raise
            log.warning(
                "torch.compile cannot be had here (%s), and the work goes on without, more slowly: it needs a C++ compiler, and "
                "on a GPU triton",
                printable(str(error).strip().split("\n")[0], most=200),
            )
            self.call = self.eager
            return self.eager(*args, **kwargs)


def compile_blocks(
    transformer: FluxTransformer2DModel, *, sites: int, backend: str = "inductor", dynamic: bool | None = None
) -> None:
    """Compile FLUX's blocks, each kind once, and once more for every site of an adapter; all that for some ``SHAPES``.
    dynamic: False for a graph of its own for each shape."""
    import torch._dynamo.config as config

    config.recompile_limit = max(config.recompile_limit, SHAPES * (sites + 1))
    transformer.compile_repeated_blocks(backend=backend, dynamic=dynamic)


def uncompile(transformer: FluxTransformer2DModel) -> None:
    for module in transformer.modules():
        module._compiled_call_impl = None
