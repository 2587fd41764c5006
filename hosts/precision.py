"""Which precisions a device computes in."""

import torch

FIRST = 8  # major compute capability with bfloat16; before it torch emulates, slower than float32


def check_bfloat16(device: torch.device, *, setting: str, instead: str) -> None:
    """ValueError for a GPU without bfloat16. setting: what asks for it; instead: what to set."""
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < (FIRST, 0):
        name = torch.cuda.get_device_name(device)
        raise ValueError(
            f"{setting} needs a GPU that computes in bfloat16 (compute capability {FIRST}.0), {name} has "
            f"{found[0]}.{found[1]}: {instead}"
        )
