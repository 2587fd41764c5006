"""Tiny models of the real classes with random weights."""

import math

import torch

from benchmarks.tiling.small import small_flux, small_vae
from dinotile.flux_patch.adapter_config import AdapterConfig
from dinotile.flux_patch.checkpoint import described, new_adapter
from dinotile.flux_patch.geometry import geometry_of


def tiny_flux(*, seed=0, guidance=False, channels=64):
    torch.manual_seed(seed)
    return small_flux(in_channels=channels, out_channels=64, guidance_embeds=guidance)


def tiny_flux2(*, seed=0, guidance=False, heads=1):
    """A FLUX.2, louder than torch makes it."""
    from diffusers import Flux2Transformer2DModel

    torch.manual_seed(seed)
    model = Flux2Transformer2DModel(
        num_layers=1,
        num_single_layers=2,
        num_attention_heads=heads,
        joint_attention_dim=48,
        guidance_embeds=guidance,
    )
    for parameter in model.eval().requires_grad_(False).parameters():
        if parameter.ndim == 2:
            parameter.mul_(1.7)
    return model


def tiny_vae2(*, seed=0):
    """FLUX.2's VAE with its sixteen px per latent cell, and statistics of latents that are not those of a new one."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(seed)
    model = AutoencoderKLFlux2(block_out_channels=(32, 32, 32, 32), layers_per_block=1).eval().requires_grad_(False)
    model.bn.running_mean.normal_(std=0.3)
    model.bn.running_var.uniform_(0.5, 2.0)
    return model


def tiny_controlnet(flux, *, seed=1, doubles=1, singles=1, **config):
    """Of that FLUX, as loud as it."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(seed)
    sizes = {**flux.config, "num_layers": doubles, "num_single_layers": singles, **config}
    model = FluxControlNetModel.from_config(sizes).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.startswith("controlnet_"):  # zero at first
            parameter.normal_(std=0.05)
    return model


def tiny_vae(*, seed=0, latent=16, scaling=1.0, shift=0.0):
    torch.manual_seed(seed)
    return small_vae(latent_channels=latent, scaling_factor=scaling, shift_factor=shift)


def overflowing(vae):
    """The same VAE in float32; in float16 the values between its last two layers are too large."""
    last = [module for module in vae.decoder.modules() if isinstance(module, torch.nn.Conv2d)][-2:]
    with torch.no_grad():
        for layer, factor in zip(last, (3e5, 1 / 3e5), strict=True):
            layer.weight.mul_(factor)
        if last[0].bias is not None:
            last[0].bias.mul_(3e5)
    return vae


def tiny_kl(*, seed=0):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return model.eval().requires_grad_(False)


def tiny_adapter(transformer, *, dino="tiny-v2", layers="3", trained=True):
    config = AdapterConfig(
        dino=dino,
        dino_width=64,
        layers=layers,
        geometry=geometry_of(transformer),
        width=32,
        grid=4,
        mechanisms=("cross_attention",),
        sites=("double.0", "single.1"),
    )
    adapter = new_adapter(config)
    if trained:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in adapter.module.named_parameters():
            if name.endswith(".v.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return described(adapter.module, trained=trained)


def siglip_model(*, width=48, seed=0):
    """A SigLIP with random weights that are loud enough for pictures to show."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=50,
        patch_size=8,
    )
    model = SiglipVisionModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter[0].numel()))
    return model


def redux_model(*, inputs=48, outputs=32, seed=1):
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    torch.manual_seed(seed)
    return ReduxImageEncoder(redux_dim=inputs, txt_in_features=outputs).eval().requires_grad_(False)


def redux_files(folder):
    """A folder as black-forest-labs/FLUX.1-Redux-dev has it."""
    siglip_model().save_pretrained(folder / "image_encoder")
    redux_model().save_pretrained(folder / "image_embedder")
    return folder


def picture(height, width, *, batch=1, seed=0):
    """Smooth random colours, [B,3,H,W] in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 4, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").clamp(0, 1)
