"""What of FLUX.2 in diffusers is unlike FLUX.1: its VAE, its schedule, its text, its files, and gradients in fused blocks."""

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from safetensors.torch import load_file, save_file

from dinotile.flux_patch.families import FLUX2
from dinotile.flux_patch.geometry import geometry_of
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_transformer, load_vae, read_geometry
from dinotile.hosts.diffusers.text import has_text_encoders, load_text_encoder
from dinotile.hosts.diffusers.vae import decode, encode
from dinotile.hosts.host import Text
from dinotile.upscaling.joint import flow_sigmas

from ...comfyui.models import flux2_state
from ...near import assert_near
from ...tiny import picture, tiny_adapter, tiny_flux, tiny_flux2, tiny_vae, tiny_vae2
from ...tiny_text import save_dev_text, save_klein_text


@pytest.fixture(scope="module")
def vae():
    return tiny_vae2()


@pytest.fixture(scope="module")
def pipeline(vae):
    """diffusers' own, whose ways with latents are the reference."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, None, None, None)


def test_latents_are_those_of_diffusers_own_pipeline(vae, pipeline):
    pixels = picture(48, 64)
    latents = encode(vae, pixels)
    assert latents.shape == (1, FLUX2.channels, 3, 4)
    with torch.no_grad():
        wanted = pipeline._encode_vae_image(pixels * 2 - 1, None)
    assert (latents - wanted).abs().max() < 1e-5 < 0.1 < wanted.abs().max()  # it is walked in strips


def test_pictures_are_those_of_diffusers_own_pipeline(vae, pipeline):
    latents = torch.randn(1, FLUX2.channels, 3, 4, generator=torch.Generator().manual_seed(2)) / 4
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = (vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).sqrt()
    with torch.no_grad():
        wanted = vae.decode(pipeline._unpatchify_latents(latents * std + mean)).sample
    assert (decode(vae, latents) - (wanted / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-5


@pytest.mark.parametrize("tokens", [256, 4096, 4300, 4301, 9216])
@pytest.mark.parametrize("steps", [4, 50])
def test_the_schedule_is_that_of_diffusers_own_pipeline(pipeline, tokens, steps):
    scheduler = copy.deepcopy(pipeline.scheduler)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=compute_empirical_mu(tokens, steps))
    sigmas = flow_sigmas(steps, denoise=1.0, tokens=tokens, family=FLUX2)
    assert sigmas == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


@pytest.mark.parametrize("layout", ["of its makers", "of an all-in-one file", "of diffusers", "folder", "pipeline"])
def test_a_transformer_loads_from_every_layout(tmp_path, layout):
    state = flux2_state(heads=2, guidance=True)
    save_file(state, tmp_path / "model.safetensors")
    wanted = load_transformer(tmp_path / "model.safetensors")
    source = tmp_path / "other"
    if "folder" in layout or "pipeline" in layout:
        wanted.save_pretrained(source if layout == "folder" else source / "transformer")
    else:
        source = tmp_path / "other.safetensors"
        wrapped = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
        save_file({"of its makers": state, "of an all-in-one file": wrapped}.get(layout, wanted.state_dict()), source)
    found = load_transformer(source)
    assert read_geometry(source) == geometry_of(wanted) == geometry_of(found) and found.config.guidance_embeds
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in wanted.state_dict().items())


def of_its_makers(vae):
    """The tensors of a VAE as FLUX.2's makers name them, for as much as differs from FLUX.1's."""
    moved = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
    return {
        next((new + name.removeprefix(old) for old, new in moved.items() if name.startswith(old)), name): tensor
        for name, tensor in vae.state_dict().items()
    }


@pytest.mark.parametrize("layout", ["file", "of its makers", "folder", "pipeline"])
def test_a_vae_loads_with_its_statistics(tmp_path, vae, layout):
    source = tmp_path / "vae"
    if layout in ("file", "of its makers"):
        source = tmp_path / "vae.safetensors"
        save_file(vae.state_dict() if layout == "file" else of_its_makers(vae), source)
    else:
        vae.save_pretrained(source if layout == "folder" else source / "vae")
    assert_near(encode(load_vae(source).eval(), picture(32, 32)), encode(vae, picture(32, 32)))


def test_a_vae_without_its_statistics_is_refused(tmp_path, vae):
    vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "bn.running_var"}, tmp_path / "vae.safetensors"
    )
    with pytest.raises(ValueError, match="vae.safetensors is not a whole FLUX.2 VAE"):
        load_vae(tmp_path / "vae.safetensors")


def test_models_of_two_families_are_refused_together():
    with pytest.raises(ValueError, match=r"VAE has 16 latent channels, FLUX\.2 needs 128: use FLUX\.2's VAE"):
        DiffusersHost(tiny_flux2(), tiny_vae())
    with pytest.raises(ValueError, match=r"VAE has 128 latent channels, FLUX\.1 needs 16"):
        DiffusersHost(tiny_flux(), tiny_vae2())
    with pytest.raises(ValueError, match=r"decoder has 16 latent channels, FLUX\.2 needs 128: use FLUX\.2's VAE"):
        DiffusersHost(tiny_flux2(), tiny_vae2(), decoder=tiny_vae())


def test_only_dev_is_told_a_guidance():
    latents, sigmas = torch.randn(1, 128, 2, 3), torch.full((1,), 0.5)
    for guidance in (True, False):
        host = DiffusersHost(tiny_flux2(guidance=guidance), tiny_vae2())
        low, high = (
            host.velocity(latents, sigmas, text=Text(torch.ones(1, 4, 48), torch.zeros(1, 0), value))
            for value in (1.0, 4.0)
        )
        assert torch.equal(low, high) != guidance


def test_a_short_text_stands_behind_zeros():
    latents, sigmas, host = torch.randn(1, 128, 2, 3), torch.full((1,), 0.5), DiffusersHost(tiny_flux2(), tiny_vae2())
    context = torch.randn(1, 4, 48, generator=torch.Generator().manual_seed(3))
    filled = torch.cat([torch.zeros(1, 508, 48), context], dim=1)
    short, long = (host.velocity(latents, sigmas, text=Text(each, torch.zeros(1, 0))) for each in (context, filled))
    assert torch.equal(short, long)
    empty = host.velocity(latents, sigmas, text=Text.empty(host.geometry))
    assert (empty - long).abs().max() > 1e-3


def test_checkpointing_changes_no_gradient_of_the_adapter():
    found = {}
    for checkpointing in (False, True):
        flux = tiny_flux2()
        adapter = tiny_adapter(flux)
        host = DiffusersHost(flux, tiny_vae2(), adapter=adapter, gradient_checkpointing=checkpointing)
        module = adapter.module.train().requires_grad_(True)
        generator = torch.Generator().manual_seed(4)
        tokens = DinoTokens(torch.randn(1, 4, 4, 32, generator=generator), torch.randn(1, 32, generator=generator))
        latents = torch.randn(1, 128, 3, 2, generator=generator)
        if checkpointing:
            host.transformer.train()
        out = host.velocity(
            latents, torch.full((1,), 0.5), text=Text.empty(host.geometry),
            rows=[DinoRow(tokens, 0, (0.0, 0.0, 1.0, 1.0), Strength(1.0))],
        )  # fmt: skip
        out.square().mean().backward()
        found[checkpointing] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    assert set(found[False]) == set(found[True])
    sites = {name.split(".")[1] for name in found[False] if name.startswith("sites.")}
    assert sites == {"double_0", "single_1"}
    for name, gradient in found[False].items():
        assert gradient.abs().max() > 0 or name.startswith("gate."), name
        assert_near(found[True][name], gradient)


def test_a_prompt_goes_through_the_language_model_that_comes_with_klein(tmp_path):
    folder = save_klein_text(tmp_path)
    assert has_text_encoders(folder)
    encoder = load_text_encoder(folder, device="cpu", dtype=torch.float32)
    text, other = encoder.encode("a cat", tokens=24), encoder.encode("a dog", tokens=24)
    assert text.context.shape == (1, 24, 48) and encoder.widths == (48, 0) and text.pooled.shape == (1, 0)
    wanted, _ = Flux2KleinPipeline.from_pretrained(folder, transformer=None, vae=None).encode_prompt(
        "a cat", max_sequence_length=24
    )
    assert torch.equal(text.context, wanted) and not torch.equal(text.context, other.context)
    with pytest.raises(ValueError, match="mask_padding leaves out the padding of FLUX.1's T5"):
        encoder.encode("a cat", tokens=24, masked=True)


def as_before_templates_had_a_file(tokenizer):
    """Of their own; and the side of the padding is not said."""
    template, config = tokenizer / "chat_template.jinja", tokenizer / "tokenizer_config.json"
    (tokenizer / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    said = json.loads(config.read_text())
    assert said.pop("padding_side") == "left" and "chat_template" not in said
    config.write_text(json.dumps(said))


@pytest.mark.parametrize(("begins", "offload"), [(True, "sequential"), (False, "none")])
def test_a_prompt_goes_through_the_language_model_that_comes_with_dev(begins, offload, tmp_path):
    pipeline = save_dev_text(tmp_path, begins=begins)
    assert pipeline.text_encoder.config.text_config.rope_parameters["rope_theta"] == 10**9
    assert has_text_encoders(tmp_path)
    if not begins:
        as_before_templates_had_a_file(tmp_path / "tokenizer")
    encoder = load_text_encoder(tmp_path, device="cpu", dtype=torch.float32, offload=offload)
    found = {}
    for prompt, tokens in (("a [IMG]cat", 256), ("", 256), ("a cat", 20)):
        text = encoder.encode(prompt, tokens=tokens)
        with torch.no_grad():
            wanted, _ = pipeline.encode_prompt(prompt, max_sequence_length=tokens)
        assert text.context.shape == (1, tokens, 48) and text.pooled.shape == (1, 0)
        assert torch.equal(text.context, wanted), prompt
        found[prompt] = text.context
    assert encoder.widths == (48, 0) and (found["a [IMG]cat"] - found[""]).abs().max() > 0.1


def test_text_of_dev_that_is_not_whole_is_refused_by_what_it_lacks(tmp_path):
    save_dev_text(tmp_path, layers=29)
    with pytest.raises(ValueError, match="has 29 layers, and FLUX.2 reads its layers 10, 20, 30: give the whole"):
        load_text_encoder(tmp_path, device="cpu", dtype=torch.float32)
    (tmp_path / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="brings no chat_template.jinja in its tokenizer"):
        load_text_encoder(tmp_path, device="cpu", dtype=torch.float32)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="does not hold a whole model"):
        load_text_encoder(tmp_path, device="cpu", dtype=torch.float32)
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer" / "processor_config.json").unlink()
    (tmp_path / "tokenizer").rmdir()
    assert not has_text_encoders(tmp_path)
