"""The attention kernels that may run where a backward pass follows."""

from contextlib import AbstractContextManager

from torch.nn.attention import SDPBackend, sdpa_kernel

# Not cuDNN's: its backward pass gives NaN, or ends with "mha_graph.execute(...).is_good()" or an illegal memory access that
# poisons the process, for key counts that are no multiple of its tile, such as 257 DINO tokens (NVIDIA/cudnn-frontend#160,
# pytorch/pytorch#196678). The forward pass is right. The kernel of a backward pass is its forward pass's.
BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
KERNELS = {
    "auto": BACKENDS,
    "math": [SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION],
    "efficient": [SDPBackend.EFFICIENT_ATTENTION],
    "cudnn": [SDPBackend.CUDNN_ATTENTION],
}


def kernels(name: str) -> AbstractContextManager[object]:
    """Around forward passes: the kernels of that name only, a key of ``KERNELS``. RuntimeError inside where none of them runs."""
    return sdpa_kernel(KERNELS[name])


def differentiable_attention() -> AbstractContextManager[object]:
    """Around forward passes and the backward pass, in which checkpointed blocks run forward again; of the whole process."""
    return sdpa_kernel(BACKENDS)
