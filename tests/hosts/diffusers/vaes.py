"""VAEs in the layouts that their makers write them in."""

import pytest
import torch


def taesd(vae):
    """TAESD's own key layout, written down once more."""
    weights = {}
    for name, tensor in vae.state_dict().items():
        half, _, number, rest = name.split(".", 3)
        weights[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = tensor
    return weights


@pytest.fixture(scope="module")
def taesd_vae():
    """TAESD is always 64 channels wide."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny(latent_channels=16).eval().requires_grad_(False)


def original_kl(vae):
    """FLUX's ae.safetensors layout, written down once more."""
    weights = {}
    for name, tensor in vae.state_dict().items():
        for old, new in (
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("down_blocks", "down"),
            ("up_blocks", "up"),
            ("resnets", "block"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            name = name.replace(old, new)
        if ".up." in name:
            half, up, number, rest = name.split(".", 3)
            name = f"{half}.{up}.{3 - int(number)}.{rest}"
        if "attn_1" in name and name.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        weights[name] = tensor
    return weights
