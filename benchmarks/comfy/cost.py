"""Counts what a site adds to ComfyUI's own blocks: `python benchmarks/comfy/cost.py COMFYUI` in ComfyUI's Python.

`benchmarks/cost.py` starts it, and says what is counted. The last line that it prints is JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":  # before anything of the host, which reads its arguments
    sys.path.insert(0, sys.argv[1])
    pack = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        "dinotile", pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["dinotile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["dinotile"])
    from comfy.cli_args import args

    args.cpu = True

from comfy.ldm.flux import layers, math
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ops import disable_weight_init

from dinotile.benchmarks import cost
from dinotile.hosts.comfy.inject import DATA, SIZES, OutputPatch, QueryPatch, site_data


def in_comfy(case: cost.Case) -> dict[str, float]:
    """Per site, over no adapter, in ComfyUI's own blocks."""
    hidden, heads, dtype = cost.GEOMETRY.hidden, cost.GEOMETRY.heads, case.dtype
    make = {"dtype": dtype, "device": cost.META, "operations": disable_weight_init}
    blocks = {
        "double": layers.DoubleStreamBlock(hidden, heads, 4.0, qkv_bias=True, **make),
        "single": layers.SingleStreamBlock(hidden, heads, 4.0, **make),
    }
    rope = {"apply_rope": math.apply_rope, "apply_rope1": math.apply_rope1}
    patches = {"attn1_patch": [QueryPatch("key", None, **rope)], "attn1_output_patch": [OutputPatch("key")]}
    call = case.call()

    def forward(options: dict[str, Any]) -> None:
        with cost.META:
            image, text = (torch.empty(1, n, hidden, dtype=dtype) for n in (cost.SIDE**2, cost.TEXT))
            vec, pe = torch.empty(1, hidden, dtype=dtype), torch.empty(1, 1, cost.TEXT + cost.SIDE**2, 64, 2, 2)
        for kind, block in blocks.items():
            shown = {
                **options,
                "block_type": kind,
                "block_index": 0,
                "img_slice": [cost.TEXT, cost.TEXT + cost.SIDE**2],
            }
            streams = (image, text) if kind == "double" else (torch.cat([text, image], dim=1),)
            block(*streams, vec=vec, pe=pe, transformer_options=shown)

    with torch_attention():
        plain = cost.counted(lambda: forward({}))
        data = {"key": site_data(call, text_start=cost.TEXT)}
        sizes = {"image": cost.SIDE**2, "text": cost.TEXT}
        return cost.added(cost.counted(lambda: forward({"patches": patches, DATA: data, SIZES: sizes})), plain, dtype)


@contextmanager
def torch_attention() -> Iterator[None]:
    """ComfyUI's attention is torch's for a while, as it is on GPUs."""
    before, math.optimized_attention = math.optimized_attention, attention_pytorch
    try:
        yield
    finally:
        math.optimized_attention = before


def figures() -> dict[str, Any]:
    return {name: in_comfy(case) for name, case in cost.kinds()}


if __name__ == "__main__":
    print(json.dumps(figures()))
