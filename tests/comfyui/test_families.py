"""Promises about models of every family, kept inside a real ComfyUI: inside_families.py measures, with tiny random models."""

import pytest

from .conftest import one_sentence

GRIDS = {  # channels, px per cell, cells that tiles keep to, and whether latents have a frame
    "FLUX.1": [16, 8, 2, False],
    "FLUX.2": [128, 16, 1, False],
    "Chroma": [16, 8, 2, False],
    "Z-Image": [16, 8, 2, False],
    "Lumina 2": [16, 8, 2, False],
    "Qwen-Image": [16, 8, 2, True],
    "Krea 2": [16, 8, 2, True],
    "SD 3": [16, 8, 2, False],
    "SDXL": [4, 8, 4, False],
    "SD 1.5": [4, 8, 8, False],
    "HiDream": [16, 8, 2, False],
    "OmniGen 2": [16, 8, 2, False],
}


@pytest.mark.parametrize("family", GRIDS)
def test_tiles_of_any_model_are_on_its_own_grid_and_a_still_model_gives_back_what_it_got(numbers, family):
    found = numbers(f"family {family}")
    assert found["grid"] == GRIDS[family]
    assert found["back"] < 1e-6


@pytest.mark.parametrize("family", GRIDS)
def test_one_tile_is_the_untiled_model_and_one_by_one_is_all_at_once(numbers, family, report):
    found = numbers(f"family {family}")
    report(
        f"{family} ({found['class']}): one by one {found['one by one']:.0e}, tiles change it by {found['tiled']:.2f}"
    )
    assert found["one tile"] and found["area in one tile"] < 1e-5 and found["rows"] > 2
    assert found["one by one"] < 1e-5 < 0.01 < found["tiled"]


@pytest.mark.parametrize("family", GRIDS)
def test_odd_sizes_and_moving_tiles_sample_on_any_model(numbers, family):
    found = numbers(f"family {family}")
    assert found["finite"] and found["shape"] and found["odd"] and found["moving"]


@pytest.mark.parametrize("family", GRIDS)
def test_an_anchor_changes_the_estimates_of_any_tiled_model(numbers, family):
    found = numbers(f"family {family}")
    assert found["guided"] > 0.01 and found["guided, finite"]


@pytest.mark.parametrize("family", ["FLUX.2", "Z-Image", "Qwen-Image", "SDXL"])
def test_dino_guidance_and_the_whole_path_run_with_the_small_vae_of_the_models_latents(numbers, family):
    found = numbers(f"guided {family}")
    assert found["led"] > 1e-4 and found["finite"] and found["size"]
    assert min(found["one node"]) > 1e-3


@pytest.mark.parametrize("family", ["FLUX.1", "FLUX.2", "Z-Image", "Qwen-Image", "Krea 2", "OmniGen 2"])
def test_each_tile_gets_its_own_part_of_a_reference_latent(numbers, family):
    found = numbers(f"references {family}")
    assert found["rows"] == 16 and found["worst"] == 0


@pytest.mark.parametrize("family", ["SDXL", "Qwen-Image"])
def test_each_picture_has_its_own_of_as_many_masks(numbers, family):
    found = numbers(f"masks {family}")
    assert max(found["right"]) < 1e-5 < 1e-3 < min(found["wrong"])
    one_sentence(found["three for four"], ("3 masks", "4 pictures", "one mask, or as many"))


@pytest.mark.parametrize("kind", ["flux2", "chroma", "krea2"])
def test_weights_of_8_bits_leave_dino_as_precise_and_strength_0_the_plain_model(numbers, kind):
    found = numbers(f"fp8 {kind}")
    narrow = "Tensor, torch.float8_e4m3fn" if kind == "chroma" else "QuantizedTensor, torch.float32"
    assert narrow in found["weights"]
    assert found["DINO is computed in"] == ["torch.float32"]
    assert found["strength 0 is plain"]
    assert found["one by one differs by"] < 1e-4 < 0.01 < found["on differs by"]


@pytest.mark.parametrize(
    ("node", "parts"),
    [
        ("windows", ("context windows cut the picture, as tiles do", "remove their node")),
        ("cache", ("Flux KV Cache keeps the references of one tile for all others", "remove it from the model")),
    ],
)
def test_a_node_that_cannot_be_with_tiles_is_refused_in_a_sentence(numbers, node, parts):
    one_sentence(numbers("plugged_refused")[node], parts)


def test_context_windows_are_not_named_where_a_latent_is_of_another_size(numbers):
    parts = ("the latent is 128 x 96 px", "the tile plan was made for 96 x 64 px", "to Plan Tiles")
    one_sentence(numbers("plugged_refused")["windows, another size"], parts)


@pytest.mark.parametrize("guider", ["three", "three, nested", "two models"])
def test_any_guider_is_tiled_and_its_own_estimate_anchored(numbers, guider):
    found = numbers(f"guider {guider}")
    assert max(found["by hand"], found["in two parts"]) < 1e-5
    assert found["anchored"] < 1e-5 < 0.1 < found["anchor acts by"]


def test_a_flux_is_of_its_row_of_the_table_with_no_adapter_too(numbers):
    """Which is how its texts are padded."""
    found = numbers("rows_of_the_table")
    assert list(found) == ["flux1", "flux2", "chroma", "krea2"]
    assert all(row == model for row, model in found.values()), found


def test_a_model_that_is_told_sizes_is_told_that_of_a_tile(numbers):
    assert numbers("told_size") == {"right": [True, True], "differ": True}


HINTS = (
    *(
        "SDXL, ControlLoRA",
        "SD 1.5, T2I adapter",
        "SD 3.5",
        "Qwen-Image, a type of a union, inpainting",
        "Qwen-Image Fun",
    ),
    *("FLUX.1, a type of a union, inpainting", "Z-Image Fun, inpainting", "Qwen-Image DiffSynth, inpainting"),
    *("Anima LLLite", "SUPIR", "Wan Uni3C", "Wan VACE", "HunyuanDiT", "Stable Cascade C"),
)
PLUGGED = (
    *("Z-Image, LoRAs", "SDXL, FreeU and Perturbed-Attention Guidance", "Qwen-Image, Skip Layer Guidance"),
    *("SD 3, Skip Layer Guidance", "FLUX.1, Skip Layer Guidance", "FLUX.1, Skip Layer Guidance, simple"),
)


@pytest.mark.parametrize("plugged", HINTS + PLUGGED)
def test_tiles_are_what_cutting_the_picture_and_its_hint_by_hand_gives(numbers, plugged):
    found = numbers(f"by hand {plugged}")
    assert found["apart"] < 1e-5 < 0.01 < found["acts"]
    assert found["one tile"]


@pytest.mark.parametrize(
    ("hint", "parts"),
    [
        ("PiD", ("the latent of PiD Conditioning cannot be cut into tiles", "without Tile Model")),
        (
            "HiDream-O1",
            ("cannot be cut into tiles of one canvas", "Sequential Tiled Upscale, or sample it without tiles"),
        ),
        ("SUPIR a token short", ("picture of SUPIR is 192 x 96 px, the canvas 192 x 128", "that was enlarged")),
        ("SUPIR of another size", ("picture of SUPIR is 256 x 256 px, the canvas 192 x 128", "that was enlarged")),
    ],
)
def test_a_hint_that_cannot_be_cut_is_refused_in_a_sentence(numbers, hint, parts):
    one_sentence(numbers("hints_refused")[hint], parts)


def test_a_model_that_lays_out_its_whole_picture_is_enlarged_tile_after_tile(numbers):
    assert numbers("laid_out_one_by_one") == {"size": [1, 90, 140, 3], "finite": True}


def test_a_hint_of_latents_that_ends_before_a_padded_canvas_is_padded_too(numbers):
    found = numbers("padded_canvas")
    assert found["in tiles"] == found["in one"] == 0 and found["one node"]
    assert found["restored"] > 100 and found["restored beyond the picture"] == 0


def test_skip_layer_guidance_acts_on_tiles_with_dino_by_its_formula_and_before_an_anchor(numbers):
    found = numbers("skipped_layers_with_dino")
    assert found["formula"] < 1e-6 and found["anchored, either order"]
    assert min(found[name] for name in ("acts", "DINO acts", "anchor acts")) > 0.01


def test_a_patchs_copy_for_a_tile_ends_with_the_call_and_its_picture_is_encoded_once(numbers):
    """Or all that the host's patches keep of a call would be kept for each tile, and of moving tiles for each step."""
    found = numbers("copies_of_hints")
    assert (found["copies"], found["left"], found["encoded"]) == (1, 0, 1) and found["tiles"] > 1


def test_an_anchor_acts_around_a_cache_of_estimates_in_either_order(numbers):
    found = numbers("cached_estimates")
    assert found["same"] and found["cached"] > 1e-3


@pytest.mark.parametrize(
    "family", [name for name in GRIDS if name not in ("FLUX.1", "FLUX.2", "Chroma", "Krea 2")] + ["patched", "family"]
)
def test_a_model_that_no_adapter_knows_is_refused_by_its_name_with_what_works_there(numbers, family):
    name = "Z-Image" if family in ("patched", "family") else family
    parts = (f"the model is {name}", "FLUX.1 (dev", "Chroma and Krea 2", "Tile Model, Source Anchor and DINO Guidance")
    one_sentence(numbers("adapters_refused")[family], parts)


def test_a_model_whose_texts_are_not_known_is_refused_an_empty_one(numbers):
    one_sentence(numbers("adapters_refused")["empty"], ("the model is Z-Image", "empty texts", "its own text encoder"))


REFUSED = {
    "plan of FLUX.1 for FLUX.2": ("cells of 8 px", "cells of 16 px", "connect the model to Plan Tiles"),
    "plan of no model for a UNet": ("multiples of 16", "needs multiples of 64", "connect the model to Plan Tiles"),
    "tile off a UNet's grid": ("tile 208 must be a multiple of 64", "use 192 or 256"),
    "one node off a UNet's grid": ("tile 208 must be a multiple of 64", "use 192 or 256"),
    "video": ("holds 3 frames of a video", "sample it without tiles"),
    "video, guided": ("holds 3 frames of a video",),
    "sound": ("StableAudio1", "connect a model that makes pictures"),
    "solids": ("TripoSplat", "connect a model that makes pictures"),
    "decoder of FLUX.1 for Qwen-Image": (
        "the decoder has latents of 16 channels per 8 px,",
        "in frames",
        "lighttaew2_1",
    ),
    "VAE of SD 1.5 for Qwen-Image": ("the VAE has latents of 4 channels per 8 px", "the model of 16"),
    "small VAE of FLUX.2 for Qwen-Image": ("the decoder has latents of 128 channels per 16 px", "taef2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_a_model_is_refused_in_one_sentence(numbers, case):
    one_sentence(numbers("families_refused")[case], REFUSED[case])
