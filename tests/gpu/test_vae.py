"""The VAE in strips on CUDA; skipped where there is none."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dinotile.benchmarks.vae_strips import random_vae
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.wide_attention import attention_in_parts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("room", ["roomy", "lean", "CPU"])
@torch.no_grad()
def test_strips_are_the_whole_and_take_what_the_plan_says(dtype, bound, room):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", torch.cuda.current_device())
    vae = random_vae(128, tiny=False, device=device, dtype=dtype)
    latents = torch.randn(1, 16, 96, 160, device=device, dtype=dtype)
    whole = vae.decoder(latents)
    network, size = vae_path.decoder_network(vae), (768, 1280)
    _, lean = network.plan(size, dtype, device=device, free=1 << 50)
    free = {"roomy": 1 << 50, "lean": lean - 1, "CPU": 0}[room]
    strips, needed = network.plan(size, dtype, device=device, free=free)
    assert (strips.roomy, strips.keep.type) == (room == "roomy", "cpu" if room == "CPU" else "cuda")
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = network.run(latents, torch.empty_like(whole), strips)
    assert torch.cuda.max_memory_allocated() - before < needed
    assert (result - whole).abs().max() < bound * whole.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_wide_attention_in_parts_is_no_worse_than_torchs(dtype):
    wide = torch.randn(3, 1, 1, 4096, 512, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    (query, key, value), (q, k, v) = wide.double(), wide.to(dtype)
    exact = scaled_dot_product_attention(query, key, value)
    ours = attention_in_parts(q, k, v, scores=1000 * 4096) - exact
    assert ours.abs().mean() < 1.5 * (scaled_dot_product_attention(q, k, v) - exact).abs().mean()
