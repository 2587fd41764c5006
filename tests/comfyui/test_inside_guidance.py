"""Guidance of the estimates, retries and VAEs in ComfyUI.

inside.py measures, this file says what the numbers must be.
"""

import pytest

from .conftest import one_sentence


def test_a_denoise_mask_is_the_hosts_noise_mask_in_both_samplers(numbers):
    found = numbers("denoise_mask")
    assert found["both differ by"] < 1e-5 and found["what is kept differs by"] < 1e-5
    assert found["the mask acts by"] > 0.1


def test_every_sampler_has_the_hosts_own_noise_levels(numbers):
    found = numbers("noise_levels")
    assert found["tried"] > 900 and found["apart"] == []


@pytest.mark.parametrize("vae", ["flux", "quantising", "taesd"])
def test_the_hosts_vaes_in_strips_are_the_whole(numbers, vae, report):
    found = numbers("vae_strips")[vae]
    report(f"VAE in strips, {vae}: latents {found['encode']:.0e}, pixels {found['decode']:.0e} from ComfyUI's own")
    assert found["in strips"] and min(found["spread"]) > 0.1
    assert found["encode"] < 3e-5 and found["decode"] < 1e-5
    assert found["rows finished at once"] < 64


def test_a_vae_that_is_not_known_is_left_to_the_host(numbers):
    found = numbers("vae_strips")["other"]
    assert not found["in strips"] and found["encode"] == found["decode"] == 0


@pytest.mark.parametrize("run", ["euler", "heun", "euler_ancestral"])
def test_anchor_and_dino_guidance_hold_any_sampler_to_the_source(numbers, report, run):
    found = numbers("estimates")[run]
    report(
        f"distance from the source, {run}: {found['off']:.4f}, anchored {found['anchor']:.4f}, half so {found['half']:.4f}, "
        f"that and DINO {found['both']:.4f}"
    )
    assert found["half"] < 0.2 * found["off"] and found["both"] < found["half"]
    assert max(found["anchor"], found.get("tiled", 0.0)) < 0.1 * found["off"]
    assert found["DINO acts"] and not found["order matters"]


def test_an_anchored_model_in_the_one_node_is_held_to_the_picture_that_ends_before_its_canvas(numbers):
    found = numbers("estimates_on_a_padded_canvas")
    assert found["differs from the own anchor by"] < 1e-4 < 0.05 < found["from none by"]


def test_guidance_that_is_off_or_masked_away_leaves_the_model_as_it_is(numbers):
    assert all(numbers("estimates_off").values())


def test_each_picture_of_a_batch_is_held_to_its_own_source(numbers):
    found = numbers("estimates_of_many")
    # a batch rounds otherwise, and where a ReLU of the decoder turns over by it the gradient is another
    assert found["apart from alone"] < 0.01 * found["apart by the other's source"] and found["shape"] == [2, 16, 8, 10]
    one_sentence(found["two for one latent"], ("guidance has 2 pictures, the latent holds 1: connect one image",))
    *beside, masked = found["nothing left"]
    for said in beside:
        one_sentence(said, ("DINO Guidance has nothing to do beside a Source Anchor of strength 1", "lower the anchor"))
    assert masked is False
    one_sentence(
        found["sampler that enlarges"],
        ("guidance began on a latent of 10 x 8 cells, the sampler goes on with one of 20 x 16", "keeps the size"),
    )
    for said, name in zip(found["mask of another shape"], ("anchor", "guidance"), strict=True):
        one_sentence(said, (f"the {name} mask is 64 x 64 px, the picture 40 x 32", "the same proportions"))
    one_sentence(
        found["of another shape"], ("guidance has a picture of", "connect the whole picture that the latent was")
    )


def test_the_hosts_own_vae_is_a_decoder_too(numbers):
    found = numbers("estimates_by_the_vae")
    assert found["acts"]
    one_sentence(
        found["refused"],
        ("the decoder has latents of 4 channels per 8 px", "the model of 16 channels per 8 px"),
    )
    one_sentence(found["twice"], ("the model has a Source Anchor already",))


def test_a_small_vae_is_looked_with_both_ways(numbers):
    found = numbers("estimates_by_a_small_vae")
    assert found["read"] and found["shown"] < 0.05 < found["by the own"] and found["node"] > 0.01


def test_a_decoder_whose_encoder_gives_nan_is_refused_and_makes_no_black_picture(numbers):
    one_sentence(numbers("estimates_of_a_broken_vae")["refused"], ("stage encode gave values that are NaN",))


def test_dino_guides_with_weights_that_were_moved_in_inference_mode(numbers):
    assert numbers("estimates_by_moved_weights") == {"as ever": [True, True]}


def test_a_second_try_runs_at_a_lower_noise_level_and_retry_0_not_at_all(numbers):
    found = numbers("second_try")
    (once,), (first, second) = found["noise levels"]
    assert once == first and 0 < second < 0.75 * first
    assert found["finite"] and found["differs by"] > 1e-3 and found["retry 0 is equal"] and found["DINO alone, finite"]
    assert found["without DINO"].startswith(
        "ValueError: retry 0.5 does again what DINO does not recognise: give a DINO model"
    )


def test_the_command_lines_small_vae_of_flux_2_is_the_hosts(numbers):
    found = numbers("small_vae_of_flux2")
    assert max(found.values()) < 1e-5, found
