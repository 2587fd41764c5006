"""The table of model families against the models themselves."""

import pytest
import torch

from dinotile.flux_patch.families import FAMILIES, FLUX1, FLUX2, plan_tiles
from dinotile.flux_patch.geometry import FluxGeometry, dino_ids, geometry_of, image_ids, rotary


def test_the_first_family_is_what_diffusers_flux_is():
    from diffusers import AutoencoderTiny, FluxTransformer2DModel

    with torch.device("meta"):
        flux, vae = FluxTransformer2DModel(num_layers=1, num_single_layers=1), AutoencoderTiny(latent_channels=16)
    assert flux.config.in_channels == FLUX1.token_channels == 64
    assert tuple(flux.config.axes_dims_rope) == FLUX1.axes and flux.config.attention_head_dim == FLUX1.head_width
    assert (flux.config.joint_attention_dim,) == FLUX1.text_widths
    assert flux.config.pooled_projection_dim == FLUX1.pooled_width
    assert vae.encoder(torch.zeros(1, 3, 32, 48, device="meta")).shape == (1, FLUX1.channels, 4, 6)
    assert 32 // 4 == FLUX1.cell and FLUX1.token == 16
    assert all(hasattr(flux, kind.diffusers) for kind in FLUX1.blocks)


def test_the_second_family_is_what_diffusers_flux_2_is():
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    with torch.device("meta"):
        flux, vae = Flux2Transformer2DModel(num_layers=1, num_single_layers=1), AutoencoderKLFlux2()
    assert flux.config.in_channels == FLUX2.token_channels == 128 and FLUX2.token == 16
    assert tuple(flux.config.axes_dims_rope) == FLUX2.axes and flux.config.rope_theta == FLUX2.theta
    assert flux.config.joint_attention_dim in FLUX2.text_widths and FLUX2.pooled_width is None
    assert all(hasattr(flux, kind.diffusers) for kind in FLUX2.blocks) and "vector" not in FLUX2.mechanisms
    assert geometry_of(flux) == FluxGeometry(6144, 48, 1, 1, 15360, 0, "flux2")
    patch = vae.config.patch_size
    assert vae.config.latent_channels * patch[0] * patch[1] == FLUX2.channels
    halvings = len(vae.config.block_out_channels) - 1
    assert 2**halvings * patch[0] == FLUX2.cell


def test_a_flux_with_other_positions_is_refused():
    from diffusers import Flux2Transformer2DModel

    with torch.device("meta"):
        flux = Flux2Transformer2DModel(num_layers=1, num_single_layers=1, rope_theta=10_000)
    with pytest.raises(ValueError, match=r"base 10000, FLUX\.2's are \(32, 32, 32, 32\) with 2000: load FLUX\.2 \(dev"):
        geometry_of(flux)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_positions_have_as_many_axes_as_the_family(family):
    ids = image_ids(2, 3, family=family)
    assert ids.shape == (6, len(family.axes)) and ids[4].tolist()[1:3] == [1.0, 1.0]
    assert dino_ids(2, height=2, width=3, family=family).shape == (5, len(family.axes))
    assert rotary(ids, family).shape == (6, family.head_width // 2, 2, 2)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_tokens_count_a_started_one(family):
    assert family.tokens(4 * family.patch, 3 * family.patch) == (4, 3)
    assert family.tokens(4 * family.patch + 1, 1) == (5, 1)
    assert plan_tiles(1024, 1024, family=family).latent.height == 1024 // family.cell
