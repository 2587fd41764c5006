"""Attention in slices, which takes less memory and gives the same."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dinotile.hosts.diffusers import slicing
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.host import Text

from ...near import assert_near
from ...tiny import picture, tiny_flux, tiny_kl
from .test_memory import host


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had that was made inside."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


class Queries(TorchFunctionMode):
    """How many attended at a time."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.counts.append(args[0].shape[-2])
        return func(*args, **kwargs or {})


@torch.no_grad()
def test_attention_slicing_reaches_flux_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(slicing, "QUERIES", 256)
    most = []
    with sdpa_kernel(SDPBackend.MATH):
        for each in (host(), host(attention_slicing=True)):
            x = torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(0))
            with Largest() as largest:
                out = each.velocity(x, torch.tensor([0.4]), text=Text.empty(each.geometry))
            most.append((largest.numbers, out))
    assert_near(most[1][1], most[0][1])
    assert most[0][0] == (32 * 32 + 8) ** 2 > 1.5 * most[1][0]


def test_attention_slicing_reaches_the_vae_whose_attention_sees_every_cell(monkeypatch):
    monkeypatch.setattr(slicing, "QUERIES", 16)
    whole, sliced = (DiffusersHost(tiny_flux(), tiny_kl(), attention_slicing=slices) for slices in (False, True))
    with Queries() as queries:
        latents = sliced.encode(picture(64, 48))
        pixels = sliced.decode(latents)
        sliced.show(sliced.read(picture(64, 48)))
    assert queries.counts == [16, 16, 16] * 4
    assert_near(latents, whole.encode(picture(64, 48)))
    assert_near(pixels, whole.decode(latents))


@torch.no_grad()
def test_sliced_attention_is_the_same_and_never_makes_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(slicing, "QUERIES", 16)
    q, k, v = torch.randn(3, 2, 4, 300, 8, generator=torch.Generator().manual_seed(0)).unbind()
    attend = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel(SDPBackend.MATH):
        for mask in (None, torch.randn(2, 1, 1, 300), torch.randn(2, 1, 300, 300)):
            wanted = attend(q, k, v, attn_mask=mask)
            with Largest() as most, slicing.SlicedAttention():
                found = attend(q, k, v, attn_mask=mask)
            assert_near(found, wanted)
            assert most.numbers == max(found.numel(), 2 * 4 * 16 * 300)
