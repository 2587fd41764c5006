"""Tiles in ComfyUI's own samplers: seams, memory, hints, prompts by place, and the one node.

inside.py measures, this file says what the numbers must be.
"""

import pytest

from .conftest import FAMILIES


@pytest.mark.parametrize("shape", ["whole", "tiled"])
def test_two_pictures_take_turns_in_four_latents(numbers, shape):
    assert numbers("pictures_and_latents")[shape]["four differ from twice two by"] < 1e-5


def test_tiles_together_one_by_one_shuffled_and_in_batches_agree(numbers, report):
    found = numbers("batching")
    ways = {name: f"{value:.0e}" for name, value in found.items() if "differs" in name}
    report(f"batches of tiles, relative to all together: {ways}")
    assert max(found["rows per call, together"]) > max(found["rows per call, one by one"]) == 2
    for way in ("one by one", "shuffled", "batch 2 from singles", "tile then patch"):
        assert found[f"{way} differs by"] < 1e-5
    assert found["two pictures differ by"] > 0.1


def test_a_soft_mask_is_a_lower_denoise_alike_in_both_samplers_and_by_the_hosts_nodes(numbers):
    found = numbers("soft_masks")
    assert max(found[f"{way} by"] for way in ("both differ", "the host's nodes differ", "what is kept differs")) < 1e-5
    assert found["half of it is half the run"] < 1e-5 < 0.05 < found["blending differs by"]


def test_dino_without_an_adapter_makes_the_one_node_redraw_less_where_there_is_no_texture(numbers):
    found = numbers("adaptive_upscale")
    assert found["adaptive changes it by"] > 0.01
    shape, low, high = found["mask"]
    assert shape == [1, 160, 224] and 0.19 < low <= high <= 1
    assert found["protected"] == 0 and found["elsewhere alike"]
    assert (
        "a DINO model was given without an adapter: give both or neither, or set guide or adaptive"
        in found["DINO alone"]
    )
    assert "adaptive 1.0 asks DINO where there is texture" in found["adaptive alone"]
    assert "the protect mask is 10 x 50 px, the picture 224 x 160" in found["other protect"]


def test_a_tile_runs_with_the_prompts_of_what_is_in_it_only(numbers):
    found = numbers("prompts_by_region")
    assert found["count"] == 3 and found["sizes"] == [[3, 160, 224], [1, 160, 224, 3]]
    assert found["each tile has the prompts of what is in it"] and found["tiles"][0] == found["tiles"][1]
    assert {1, 2} <= set(found["prompts of the tiles"])
    assert found["a corner of one region is that prompt's alone"] < 1e-5 < 0.01 < found["prompts differ by"]
    assert "prompt_5 is connected and there are 3 regions" in found["a prompt too many"]
    assert "NaN or infinite" in found["not finite"]


def test_second_runs_and_reloaded_models_give_equal_results(numbers):
    found = numbers("repeated")
    assert found["second run is equal"]
    assert found["models loaded after unload_all_models"] == 0
    assert found["after unload is equal"]
    assert found["after free_memory is equal"]


def test_the_model_that_was_patched_and_tiled_stays_as_it_was(numbers):
    found = numbers("repeated")
    assert found["plain model is as before"]
    assert found["left on the plain model"] == []
    assert found["tiled differs from whole by"] > 0.01  # so that the above is no accident


def test_one_tile_is_the_untiled_run_bit_for_bit(numbers):
    assert numbers("one_tile")["equal"]


def test_a_model_that_changes_nothing_gives_its_input_back(numbers, report):
    report(f"identity model, relative to its input: {max(numbers('identity').values()):.0e}")
    assert max(numbers("identity").values()) < 1e-6


@FAMILIES
def test_fp8_weights_leave_the_adapter_alone(numbers, of):
    found = numbers(f"{of}low_precision")
    assert found["weights"] == "torch.float8_e4m3fn"
    assert found["to returns itself"] == [True, True]
    assert found["adapter after"] == ["torch.float32"]
    assert found["finite"] and found["strength 0 is plain"]
    assert found["on differs by"] > 0.01
    assert found["differs from fp32 by"] < 0.1


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "heun", "uni_pc"])
def test_any_sampler_runs_tiled(numbers, sampler):
    found = numbers("samplers")[sampler]
    assert found["finite"]
    assert found["second run differs by"] < 1e-5


def test_guidance_of_a_dev_type_model_reaches_the_tiles(numbers):
    found = numbers("samplers")["flux with guidance"]
    assert found["finite"] and found["guidance changes it by"] > 1e-3


def test_an_interrupt_stops_at_the_next_tile_and_the_next_run_works(numbers):
    found = numbers("interrupted")
    assert found == {"said": "InterruptProcessingException", "calls": 5, "next run is equal": True}


@pytest.mark.parametrize("path", ["tiled", "patched and tiled", "tiled and patched", "one node"])
def test_after_an_error_no_model_is_taken_for_leaked(numbers, path):
    found = numbers("after_errors")[path]
    assert found["said"] == "on purpose"
    assert found["loaded"] and not found["leaked"]


@pytest.mark.parametrize(
    "case",
    [
        "one prompt",
        "area beside area",
        "area over a prompt",
        "area in percent",
        "mask over a prompt",
        "soft masks",
        "mask to its bounds",
        "three, one for a while",
    ],
)
def test_combined_prompts_weigh_in_tiles_as_they_do_without(numbers, case):
    found = numbers("regions")
    assert found[case] < 1e-5
    assert found["prompts differ by"] > 0.01


def test_an_area_in_one_tile_is_the_hosts_and_in_many_that_of_tiles_cut_by_hand(numbers):
    found = numbers("areas")
    assert max(found["one"].values()) < 1e-6 and len(found["one"]) == 6
    assert max(found["many"].values()) < 1e-5 and len(found["many"]) == 6 and found["tiles"] > 1
    assert found["the area acts"] > 0.01
    assert (
        found["the other side keeps its text"] < 1e-6
    )  # the host gives it an area of its own, with what the area's says
    # rows 3 to 17 and columns 6 to 19 of places of 18 x 18 at 0 or 2 and 0 or 10
    assert found["parts of places"] == [
        [None, area] for area in ([15, 12, 3, 6], [15, 10, 3, 0], [15, 12, 1, 6], [15, 10, 1, 0])
    ]


def test_what_shows_the_picture_ends_with_it_on_a_padded_canvas(numbers):
    found = numbers("padded_hints")
    tiles = [[[0, 79], [0, 79]], [[0, 79], [64, 136]], [[48, 120], [0, 79]], [[48, 120], [64, 136]]]
    assert found["Upscale"] == found["SequentialUpscale"] == tiles  # rows and columns of 121 x 137 px, padded by 7
    assert found["mask"] == [1] * 9 + [0] * 9  # 72 px
    top, left = 121 / 128 * 0.25, 137 / 144 * 0.5
    assert found["area"] == ["percentage", *map(pytest.approx, (1 - top, 1 - left, top, left))]
    assert found["one ControlNet"] and found["nothing is padded"]


def test_a_prompt_has_no_say_outside_its_mask(numbers):
    assert numbers("regions")["outside its mask a prompt has no say"] < 1e-4


def test_tiles_that_an_area_misses_are_not_computed_for_it(numbers):
    found = numbers("regions_skip_tiles")
    assert found["rows"] == found["tiles"] + 1


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_windows_move_with_the_noise_level_alike_for_positive_and_negative(numbers, sampler):
    found = numbers("moving")[sampler]
    assert found["sets of tiles"] == 3  # steps, also where a sampler looks at more levels
    assert found["levels"] == (5 if sampler == "dpm_2" else 3)
    assert found["positive and negative alike"] and found["covers"]
    assert found["second run differs by"] < 1e-5 < 1e-3 < found["another seed differs by"]
    assert numbers("moving")["identity"] < 1e-5


def test_a_controlnet_hint_follows_a_tile_that_moves(numbers):
    found = numbers("moving_hints")
    assert found["worst"] < 1e-6 and found["the tiles of the step"]
    assert found["canvases"] == 1  # that is as large as it, whatever the tiles
    assert found["prepared"] == [found["tiles"], 3 * found["tiles"]]
    assert found["prepared for one tile"] == 1  # it does not move


@pytest.mark.parametrize("case", ["half size", "canvas size, cfg 2"])
def test_each_tile_gets_its_crop_of_a_controlnet_hint_prepared_once(numbers, case):
    found, tiles = numbers("controlnet_hints")[case], numbers("controlnet_hints")["tiles"]
    assert found["worst"] < 1e-6
    assert found["tiles seen"] == tiles
    assert found["prepared, 1 step"] == found["prepared, 2 steps"] == tiles
    assert found["rows per call"] == [2 if "cfg" in case else 1]
    assert found["effect"] > 0.01
    assert found["hint of the canvas is kept"]


def test_a_controlnet_on_latents_encodes_each_tile_once(numbers):
    found = numbers("controlnet_latents")
    assert found["worst"] < 1e-5
    assert found["encoded"] == found["tiles"]


def test_chained_controlnets_keep_strength_and_schedule(numbers):
    found = numbers("chained_controls")
    assert found["one tile differs by"] < 1e-6
    assert found["second net's effect"] > 0.01


@FAMILIES
def test_reference_latents_are_cropped_unless_they_show_another_picture(numbers, of):
    found = numbers(f"{of}reference_latents")
    side = 16 if of else 8
    assert found["canvas size"] == {"worst, cells": 0.0, "sizes": [[side, side]]}
    assert found["double size"] == {"worst, cells": 0.0, "sizes": [[2 * side, 2 * side]]}
    assert found["other picture"]["sizes"] == [[12, 30]]


def test_each_tile_of_flux_fill_gets_its_part_of_the_masked_picture_and_of_the_mask(numbers):
    found = numbers("fill")
    assert found["channels"] == 384
    assert found["tiles seen"] == found["tiles"]
    assert found["worst"]["picture"] < 1e-4  # latent cells
    assert found["worst"]["mask"] < 1e-6  # neighbouring pixels differ by 3e-5


def test_dino_guides_flux_fill(numbers):
    found = numbers("fill")
    assert found["DINO changes it by"] > 0.01
    assert found["strength 0 is plain"]
    assert found["one tile is the whole"]
    assert found["another picture changes it by"] > 0.01


@pytest.mark.parametrize("shape", ["whole", "tiled"])
def test_attention_masks_fit_beside_dino_tokens_and_tiles(numbers, shape):
    found = numbers("attention_masks")[shape]
    assert found["open differs by"] < 1e-5
    assert found["closed differs by"] > 1e-3


@pytest.mark.parametrize("grid", ["1 x 1", "3 x 5", "10 x 14"])
def test_a_tile_of_redux_gets_its_part_of_the_attention_mask(numbers, grid):
    found = numbers("redux_masks")
    assert found[grid]["worst"] < 1e-4
    assert found[grid]["finite"]
    assert found[grid]["of the canvas"] == []  # a mask of its tokens squared is never made
    assert found["one tile differs from the whole by"] < 1e-5 < 0.001 < found["bias changes it by"]


def test_the_pack_takes_little_of_the_time_of_a_joint_run(numbers, report):
    """Planning, windows and tokens are the pack's share, fusion is the second. The third also holds ComfyUI's own Python,
    which is mostly a new namedtuple class for every conditioning."""
    found = numbers("time_outside_the_model")
    report(
        f"2048 x 2048 px in {found['tiles']} tiles, 2 steps: {found['wall']:.1f} s, the pack {found['share of the pack']:.1%} "
        f"(planning and windows {found['share of planning and windows']:.2%}), "
        f"cropping, batching and fusing {found['share of fusion']:.1%}, "
        f"everything but the FLUX module {found['share outside the model']:.1%}"
    )
    assert found["tiles"] == 49
    assert found["share of the pack"] + found["share of fusion"] <= 0.03
    assert found["share of fusion"] > 0
    assert found["share outside the model"] <= 0.10


@pytest.mark.parametrize("file", ["dinotile-demo.safetensors", "inverting-4x.safetensors"])
def test_an_upscale_model_enlarges_as_comfyuis_own_node_does(numbers, file, report):
    """The first is read by the pack, the second by spandrel; ComfyUI reads both by spandrel."""
    found = numbers("upscale_models")[file]
    worst = max(found[case] for case in ("whole", "tiled", "tiled both ways"))
    report(f"upscale model, {found['kind']}: {worst:.0e} from ComfyUI's node, in tiles too")
    assert found["kind"] == found["theirs"] and found["scale"][0] == found["scale"][1]
    assert worst < 1e-5


def test_upscale_models_with_windows_are_read_too(numbers):
    assert numbers("upscale_models")["windows"] == {"kind": "SwinIR", "apart": 0}


def test_what_spandrel_does_not_know_is_one_sentence(numbers):
    assert numbers("upscale_models")["refused"].startswith(
        "dinotile-demo.safetensors is no upscale model that spandrel knows"
    )
