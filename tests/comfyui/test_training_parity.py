"""Training inside a real ComfyUI beside diffusers and the host's own sampler: the same velocities, gradients and latents."""

import pytest
import torch
from safetensors.torch import load_file

from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.load import load_vae
from dinotile.hosts.host import Text

from . import models
from .conftest import apart, numbers_of


@pytest.fixture
def numbers(trained):
    return numbers_of(trained)


@pytest.fixture(scope="module")
def call(trained) -> dict:
    assert "error" not in trained["for_diffusers"], trained["for_diffusers"]["error"]
    return load_file(f"{trained['folder']}/call.safetensors")


def diffusers_host(base, flux: str):
    from diffusers import FluxTransformer2DModel

    from dinotile.hosts.diffusers.host import DiffusersHost

    folder = base / "models"
    transformer = FluxTransformer2DModel(**models.SIZES | {"guidance_embeds": flux == "flux-dev"})
    transformer.load_state_dict(load_file(folder / "diffusion_models" / f"{flux}.safetensors"))
    return DiffusersHost(
        transformer,
        load_vae(str(folder / "vae" / models.VAE), dtype=torch.float32),
        adapter=load_adapter(folder / "model_patches" / models.TRAINED),
    )


@pytest.mark.parametrize("flux", ["flux", "flux-dev"])
def test_comfyui_and_diffusers_give_the_same_velocity_and_adapter_gradients(base, call, flux, report):
    host, on = diffusers_host(base, flux), Strength(1.0)
    module = host.adapter.module.requires_grad_(True).train()
    features = FeatureMap(call["patches"], call["cls"], "dinov2-demo", "3", (84, 98))
    tokens = module.project(features)
    rows = [
        DinoRow(tokens, 0, (0.0, 0.0, 0.5, 0.5), on),
        DinoRow(tokens, 0, (0.5, 0.25, 0.5, 0.75), on),
        DinoRow(None, 0, (0.0, 0.0, 1.0, 1.0), on),
        DinoRow(tokens, 1, (0.1, 0.2, 0.6, 0.6), on),
    ]
    text = Text(call["context"], call["pooled"], 3.0, call["mask"])
    velocity = host.velocity(call["latents"], call["sigmas"], text=text, rows=rows)
    velocity.square().mean().backward()
    difference = apart(call[f"{flux} velocity"], velocity.detach())
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    worst = max(apart(call[f"{flux} gradient {name}"], gradient) for name, gradient in gradients.items())
    report(
        f"training in ComfyUI and diffusers, {flux}: velocity {difference:.0e}, worst gradient {worst:.0e}, relative"
    )
    assert difference <= 1e-4
    assert worst <= 1e-4
    assert min(float(gradient.norm()) for gradient in gradients.values()) > 0


@pytest.mark.parametrize("flux", ["flux", "flux-dev"])
def test_gradient_checkpointing_changes_no_gradient(numbers, flux):
    assert numbers("for_diffusers")[f"{flux}: computed again differs by"] < 1e-5


@pytest.mark.parametrize("of", ["", "krea2_"])
def test_attention_that_is_differentiated_never_runs_in_cudnn_though_the_host_allows_it(numbers, of):
    found = numbers(f"{of}kernels")
    assert found["attentions"] >= 3 and found["in cuDNN"] == 0


def test_pictures_become_the_same_latents_and_back(base, call):
    host = diffusers_host(base, "flux")
    assert apart(call["encoded"], host.encode(call["pixels"])) <= 1e-4
    assert apart(call["decoded"], host.decode(call["encoded"])) <= 1e-4


@pytest.mark.parametrize("of", ["", "flux2_", "chroma_", "krea2_"])
def test_training_hears_and_sees_what_the_hosts_sampler_does(numbers, of):
    found = numbers(f"{of}of_family")
    assert found["beside the sampler"] < 1e-5
    assert found["patches in patches"] == 1


@pytest.mark.parametrize("family", ["flux2", "chroma", "krea2"])
def test_an_adapter_of_another_family_learns_with_checkpointing_as_without(numbers, family):
    found = numbers(f"{family}_of_family")
    context = [] if family == "krea2" else ["context"]
    assert found["family"] == family and found["mechanisms"] == ["cross_attention", *context]
    assert found["values"] and min(found["values"]) > 1e-4  # zero before
    assert found["checkpointed"] < 1e-5
    assert found["the model is as it was"]
