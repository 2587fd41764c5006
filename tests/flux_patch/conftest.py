import pytest
import torch

from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.adapter_config import AdapterConfig
from dinotile.flux_patch.checkpoint import described, new_adapter
from dinotile.flux_patch.geometry import FluxGeometry

GEOMETRY = FluxGeometry(hidden=256, heads=2, double_blocks=2, single_blocks=3, context=64, vector=48)


@pytest.fixture
def config():
    return AdapterConfig(
        dino="dinov2-demo",
        dino_width=24,
        layers="3",
        geometry=GEOMETRY,
        width=32,
        grid=4,
        context_grid=2,
        mechanisms=("cross_attention", "context", "vector"),
        sites=("double.0", "double.1", "single.0", "single.2"),
    )


@pytest.fixture
def adapter(config):
    """An adapter as training would leave it: no weight is zero."""
    return trained_like(new_adapter(config, seed=3))


@pytest.fixture
def features():
    return make_features(seed=0)


def make_features(*, seed, batch=1, height=6, width=8):
    generator = torch.Generator().manual_seed(seed)
    return FeatureMap(
        patches=torch.randn(batch, height, width, 24, generator=generator),
        cls=torch.randn(batch, 24, generator=generator),
        spec="dinov2-demo",
        layers="3",
        image_size=(84, 112),
    )


def trained_like(adapter, *, seed=7):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.module.named_parameters():
            if not parameter.any() or name.endswith(".v.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return described(adapter.module, trained=True)


def make_transformer(*, seed=0):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    return (
        FluxTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=64,
            pooled_projection_dim=48,
            guidance_embeds=False,
            axes_dims_rope=(16, 56, 56),
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="session")
def transformer():
    return make_transformer()
