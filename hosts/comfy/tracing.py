"""How the hooks of ``inject.py`` stand to torch.compile: in FLUX's graph where it sees FLUX in one piece, else beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch.overrides import TorchFunctionMode


class Apart(TorchFunctionMode):
    """Changes nothing. torch.compile guards which classes of modes are active: each adapter has its own, so that blocks that
    are compiled one by one keep graphs with DINO apart from those without."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Trace:
    """whole: torch.compile sees this call of FLUX in one piece, from ``DataWrapper`` to the patches.

    Otherwise (blocks that are compiled one by one, or somebody's break in the graph) a block's frame would read
    transformer_options as constants, unguarded, in a graph that other blocks share: there the patches stay outside of the
    graph. A global object, because those are guarded.
    """

    whole = False


TRACE = Trace()
INLINED = hasattr(torch._dynamo.eval_frame, "skip_code")


def never_alone(function: Callable) -> Callable:
    """A function that torch.compile traces as a part of FLUX or not at all; as a frame of its own it would be the whole."""
    if INLINED:
        torch._dynamo.eval_frame.skip_code(function.__code__)
    return function


def outside_if_broken(method: Callable) -> Callable:
    """A patch that torch.compile traces where it sees FLUX in one piece."""
    outside = torch.compiler.disable(method)

    @never_alone
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() and not TRACE.whole:
            return outside(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return call
