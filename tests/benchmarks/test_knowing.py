"""A ControlNet that could know: what it is asked of is how textures look, where they are."""

import math

import pytest
import torch

pytest.importorskip("scipy")

from benchmarks.semantics import controlnet, knowing  # noqa: E402
from dinotile import demo  # noqa: E402
from dinotile.hosts.diffusers.load import load_transformer  # noqa: E402


def waves(*, down: float, right: float, phase: float) -> torch.Tensor:
    """Latents [16, 24, 24] of one direction, in units of cells per turn."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    return (2 * math.pi * (down * y + right * x + phase)).cos().expand(16, -1, -1)


def test_looks_tell_direction_and_strength_of_a_texture_and_not_its_phase():
    def seen(strength=1.0, **wave):
        return knowing.looks(strength * waves(**wave))[0][:, 3:-3, 3:-3].mean((1, 2))

    upright = seen(down=0.0, right=0.4, phase=0.0)
    shifted, lying = seen(down=0.0, right=0.4, phase=0.3), seen(down=0.4, right=0.0, phase=0.0)
    strong = seen(strength=2.0, down=0.0, right=0.4, phase=0.0)
    assert (upright - shifted).abs().max() < 0.1 < 0.5 < (upright - lying).abs().max()
    assert (strong - upright)[:16].mean() == pytest.approx(math.log(4), abs=0.2)


def test_windows_of_all_sizes_come_with_their_own_looks():
    scenes, sides = knowing.Looks(1, seed=0), set()
    for seed in range(8):
        torch.manual_seed(seed)
        true, shown, asked, counts = scenes.looked()
        sides.add(side := true.shape[-1] // 2)
        assert shown.shape == true.shape and counts.shape == (*asked.shape[:2], 1) and asked.shape[1] == side**2
        _, energy = knowing.looks(true[0] - shown[0])
        there = (slice(side // 2 - 1, side // 2 + 1),) * 2  # what lies outside the window is not averaged there
        assert torch.allclose(counts[0].view(side, side)[there], energy[0][there].clamp(max=1), atol=1e-4)
    assert sides == {side // 2 for side in knowing.SIDES}


def test_the_trained_one_reads_no_words_of_its_own_and_speaks_to_each_of_flux_blocks():
    flux = load_transformer(demo.FLUX)
    net, own = controlnet.load(flux, knowing.FILE), dict(flux.named_parameters())
    assert len(net.transformer_blocks) == knowing.LAYERS == len(flux.transformer_blocks)
    assert all(head.weight.abs().max() > 0.01 for head in net.controlnet_blocks)
    changed = {n for n, p in net.transformer_blocks.named_parameters() if not p.equal(own[f"transformer_blocks.{n}"])}
    assert changed and not any("context" in name or "add_" in name for name in changed)
