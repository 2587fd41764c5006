"""Promises about sampling, kept inside a real ComfyUI: inside.py measures, this file says what the numbers must be."""

import pytest

from .conftest import numbers_of, one_sentence


@pytest.fixture
def numbers(measured):
    return numbers_of(measured)


FAMILIES = pytest.mark.parametrize("of", ["", "flux2_"], ids=["FLUX.1", "FLUX.2"])
EVERY = pytest.mark.parametrize("of", ["", "flux2_", "chroma_", "krea2_"], ids=["FLUX.1", "FLUX.2", "Chroma", "Krea 2"])
MECHANISMS = {
    "": ["cross_attention", "context", "vector"],
    "flux2_": ["cross_attention", "context"],
    "chroma_": ["cross_attention", "context"],
    "krea2_": ["cross_attention"],
}


@EVERY
@pytest.mark.parametrize("shape", ["whole", "tiled"])
@pytest.mark.parametrize("cfg", [1, 2])
def test_strength_0_an_untrained_adapter_and_no_tokens_are_the_plain_model_bit_for_bit(numbers, of, shape, cfg):
    found = numbers(f"{of}no_effect")[f"{shape}, cfg {cfg}"]
    assert found["strength 0 is plain"]
    assert found["untrained is plain"]
    assert found["patched without tokens is plain"]


@EVERY
def test_a_trained_adapter_changes_the_result(numbers, of, report):
    differs = [found["trained differs by"] for found in numbers(f"{of}no_effect").values()]
    report(f"{of}a trained-like adapter changes the result by {min(differs):.2f} to {max(differs):.2f}, relative")
    assert len(differs) == 4 and min(differs) > 0.01


@EVERY
def test_each_mechanism_acts_alone(numbers, of):
    found = numbers(f"{of}each_mechanism_acts")
    assert list(found) == MECHANISMS[of]
    assert min(found.values()) > (0.001 if of == "flux2_" else 0.01)  # of FLUX.2's text nearly all is padding


@EVERY
def test_another_picture_gives_another_result_and_the_same_the_same(numbers, of, report):
    found = numbers(f"{of}other_picture")
    report(f"{of}another picture's features change it by {found['differs by']:.2f}, relative")
    assert found["differs by"] > 0.01
    assert found["second run is equal"]


def test_features_are_computed_once_per_picture_whatever_the_seed(numbers):
    assert numbers("computed_once") == {"two pictures, three seeds": 2, "one node, three seeds": 1}


@EVERY
@pytest.mark.parametrize("order", ["patch then tile", "tile then patch", "one by one", "moving"])
def test_every_row_gets_the_tokens_of_its_own_region_and_picture(numbers, of, order, report):
    found = numbers(f"{of}tokens_of_the_own_region")
    rows, worst = found[order]["rows seen"], found[order]["worst, latent cells"]
    report(f"{of}tokens of the own region, {order}: {rows} rows, at most {worst:.0e} latent cells off")
    assert found[order]["rows seen"] == found["rows expected"][order]
    # FLUX.2's moving tiles are of odd sizes, where what lies beyond the picture's last patch is that patch
    assert found[order]["worst, latent cells"] < (5e-3 if of == "flux2_" and order == "moving" else 1e-4)
    assert (max(found[order]["rows per call"]) == 2) == (order == "one by one")  # two pictures, else all tiles


@EVERY
@pytest.mark.parametrize("adapter", ["trained", "cross"])
def test_a_mask_keeps_dino_to_its_place(numbers, of, adapter):
    found = numbers(f"{of}dino_mask")[adapter]
    assert found["outside differs from off by"] < (1e-5 if adapter == "trained" else 1e-12)
    assert found["inside differs from off by"] > 0.01
    assert found["inside differs from full by"] < 1e-5
    assert found["mask of ones differs from none by"] < 1e-5


@EVERY
def test_a_mask_weighs_single_image_tokens(numbers, of):
    assert numbers(f"{of}dino_mask")["token weights"]["are the mask"]


@FAMILIES
def test_start_and_end_percent_choose_the_steps(numbers, of):
    found = numbers(f"{of}sigma_window")
    low, high = (0.653, 0.882) if of else (0.2 - 1e-6, 0.5)  # FLUX.2's levels are shifted by exp(2.02)
    assert found["sigmas with"] and all(low <= sigma <= high for sigma in found["sigmas with"])
    assert found["sigmas without"] and not any(low <= sigma <= high for sigma in found["sigmas without"])


def test_start_percent_0_includes_a_sigma_that_rounding_lifted_above_1(numbers):
    found = numbers("sigma_above_one")
    assert found["from the start"][0][0] > 1
    assert [on for _, on in found["from the start"]] == [True, True, True]
    assert [on for _, on in found["later"]] == [False, False, True]


def test_profiles_weigh_the_sites_by_their_depth(numbers):
    found = numbers("profiles")
    assert found["sites"] == ["double.0", "double.1", "single.0", "single.2"]  # of 2 double and 3 single blocks
    depths = [0, 1 / 4, 2 / 4, 1]
    weights = found["first sigma and weights"]
    sigma, flat = weights["flat"]
    assert min(flat) > 0.1
    assert weights["early"] == [sigma, pytest.approx([w * (1 - d) for w, d in zip(flat, depths, strict=True)])]
    assert weights["late"] == [sigma, pytest.approx([w * d for w, d in zip(flat, depths, strict=True)])]


@pytest.mark.parametrize("pair", ["early differs from flat", "late differs from flat", "late differs from early"])
def test_each_profile_gives_another_result(numbers, pair):
    assert numbers("profiles")[f"{pair} by"] > 0.01


@EVERY
@pytest.mark.parametrize("option", ["neutral", "shift"])
def test_dinos_keys_are_set_beside_the_positions_that_the_model_gives_its_image_tokens(numbers, of, option):
    """Chroma and Krea 2 do not heed the host's options for them, and so DINO must not."""
    assert numbers(f"{of}own_positions")[option] == [True, pytest.approx(0, abs=1e-5)]


@FAMILIES
@pytest.mark.parametrize("shape", ["whole", "tiled"])
def test_neutral_rope_options_change_nothing(numbers, of, shape):
    found = numbers(f"{of}scaled_rope")[shape]
    assert found["neutral"]["equal"]
    assert found["without it again is equal"]


@FAMILIES
@pytest.mark.parametrize("shape", ["whole", "tiled"])
@pytest.mark.parametrize("option", ["scale", "shift"])
def test_scaled_or_shifted_rope_moves_dino_along_with_flux(numbers, of, shape, option):
    found = numbers(f"{of}scaled_rope")[shape][option]
    assert found["finite"] and found["differs by"] > 1e-4
    assert found["positions differ from FLUX's by"] < 1e-5


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


def test_a_denoise_mask_is_the_hosts_noise_mask_in_both_samplers(numbers):
    found = numbers("denoise_mask")
    assert found["both differ by"] < 1e-5 and found["what is kept differs by"] < 1e-5
    assert found["the mask acts by"] > 0.1


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


def test_core_nodes_act_on_tiles_alike_however_many_fit_or_say_why_not(numbers, report):
    found = numbers("core_patches")
    others = sorted(name for name, said in found.items() if said == "for other models")
    assert set(others) <= {"FreeU", "FreeU_V2", "HyperTile", "SelfAttentionGuidance", "TomePatchModel"}
    refused = {
        name: of["one row"] for name, of in found.items() if name not in others and isinstance(of["one row"], str)
    }
    worst = max(of["two rows"] for name, of in found.items() if name not in others)
    report(
        f"{len(found) - len(others)} core nodes over tiles, all against two rows: {worst:.0e}; one row: {len(refused)} refuse"
    )
    assert {"NAGuidance", "EasyCache", "LazyCache", "SkipLayerGuidanceDiT"} < set(found)
    assert worst < 1e-4
    for name in set(found) - set(others) - set(refused):
        assert found[name]["one row"] < 1e-4, name
    for said in refused.values():
        one_sentence(said, ("memory of one device holds 1 of the 2", "tile of 64 x 64 px", "make the tiles smaller"))


def test_nag_gives_each_tile_what_it_gives_a_picture(numbers):
    found = numbers("nag")
    assert found["slots"] == [[0, 1]] * 4
    assert found["tiles"] == [[number] * 2 for number in range(4)]
    assert found["differs from tile after tile by"] < 1e-5 < 0.01 < found["acts by"]
    assert found["one tile is the whole"]
    one_sentence(found["no room"], ("NAGuidance needs them together",))
    assert found["without negative"] == "nothing was refused"


def test_style_tokens_of_core_act_on_tiles_and_leave_dinos_weights_on_its_own_tokens(numbers):
    found = numbers("style_tokens")
    assert found["one by one differs by"] < 1e-5 < 0.01 < found["acts by"]
    assert found["weighed, counted from the picture"] == [list(range(-5, 0))]


@pytest.mark.parametrize("case", ["all", "two pictures", "one by one"])
def test_a_patch_of_another_pack_reads_which_tile_each_row_shows(numbers, case):
    """The example of docs/other-packs.md."""
    found = numbers("contract")[case]
    assert found["rows"] == [{"all": 2, "two pictures": 4, "one by one": 1}[case]] * 15
    assert [seen[0] for seen in found["seen"]] == [n for n in range(15) for _ in range(found["rows"][0])]
    assert all(seen[1:] == [15, [224, 160], True] for seen in found["seen"])
    assert found["worst, px"] < 1e-2
    assert numbers("contract")["whole picture is plain"]
    assert all(numbers("contract")["elsewhere"].values()) and len(numbers("contract")["elsewhere"]) == 5


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
def test_two_adapters_act_side_by_side(numbers, of):
    found = numbers(f"{of}two_adapters")
    assert found["with the other off, first is alone"]
    assert found["with the other off, second is alone"]
    assert found["both differ from first by"] > 0.01
    assert found["both differ from second by"] > 0.01
    assert "already patched" in found["same adapter twice"]


@FAMILIES
def test_who_else_looks_at_queries_and_attention_sees_them_as_without_dino(numbers, of):
    found = numbers(f"{of}shared_rotation")
    assert max(found["differs by"].values()) < 1e-5, found["differs by"]
    assert found["positions are there"] == [True, True]
    assert found["what others keep changes"] == 0
    assert found["orders of adapters with and without positions differ by"] < 1e-5
    assert found["both differ from one by"] > 0.01


@pytest.mark.parametrize("order", ["plain first", "off first", "block by block", "the CPU's attention"])
def test_a_compiled_model_is_the_eager_one_whatever_was_compiled_before(numbers, order):
    found = numbers("compiled_orders")
    assert found["A differs from plain by"] > 0.1
    assert max(found[order].values()) < 1e-5, found[order]


@EVERY
def test_dino_breaks_no_graph_and_compiles_again_for_off_and_for_a_mask_only(numbers, of):
    found = numbers(f"{of}compiled_counts")
    plain, dino = ({kind: counts for kind, *counts in found[name]} for name in ("plain", "DINO"))
    assert max(apart for *_, apart in dino.values()) < 1e-5
    later = dict.fromkeys(("a mask", "a taller tile", "three pictures"), 1 if of else 2)
    extra = {"off": 1, "a part of the schedule": 1} | later  # so far
    for kind, (breaks, graphs, _) in dino.items():
        assert (breaks, graphs - plain[kind][1]) == (0, extra.get(kind, 0)), kind


def test_the_tokens_of_a_tile_compile_nothing_again(numbers):
    found = numbers("compiled_redux")
    assert [(breaks, graphs) for breaks, graphs, _ in found] == [(0, 1), (0, 1), (0, 2)]  # a weight is a mask
    assert max(apart for *_, apart in found) < 1e-5


def test_a_site_adds_one_attention_and_one_pass_to_a_block_at_fluxs_width(numbers, report):
    found = numbers("counted_cost")
    report(
        f"a site moves {found['bfloat16']['x q']} times the bytes of the queries, {found['bfloat16']['kernels']} kernels"
    )
    assert set(found) == {"bfloat16", "bfloat16, a mask", "float32", "float32, a mask"}
    for each in found.values():
        assert 5 < each["x q"] <= 5.5 and each["kernels"] <= 3


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


@pytest.mark.parametrize("case", ["canvas size", "half size", "cfg 2"])
def test_each_tile_gets_its_crop_of_a_controlnet_hint_prepared_once(numbers, case):
    found, tiles = numbers("controlnet_hints")[case], numbers("controlnet_hints")["tiles"]
    assert found["worst"] < 1e-6
    assert found["tiles seen"] == tiles
    assert found["prepared, 1 step"] == found["prepared, 2 steps"] == tiles
    assert found["rows per call"] == [2 if case == "cfg 2" else 1]
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


@EVERY
def test_beside_reference_latents_dino_is_added_to_the_pictures_own_tokens_only(numbers, of):
    found = numbers(f"{of}own_tokens")
    tokens, others = (8 * 12, 512 + 8 * 8) if of == "flux2_" else (4 * 6, 6 + 4 * 4)
    if of == "chroma_":  # which knows no references
        others = 6
    assert found["site, first, end, how many, others"] == [[site, 0, tokens, tokens, others] for site in found["sites"]]
    kinds = {"single"} if of == "krea2_" else {"double", "single"}
    assert {site.split(".")[0] for site in found["sites"]} == kinds
    assert found["strength 0 is plain"] and (found["references change it by"] > 0.01) == (of != "chroma_")


@EVERY
def test_an_empty_text_has_what_its_family_has(numbers, of):
    found = numbers(f"{of}empty_text")
    assert found["context"] == [1, 8, 640 if of == "krea2_" else 64] and found["finite"]
    assert found["beside it"] == ({} if of else {"pooled_output": [1, 48], "guidance": 3.5})
    if of == "flux2_":  # which the host fills up to 512 with
        assert found["zeros of another number change it by"] == 0


def test_only_a_dev_model_of_flux_2_gets_a_guidance(numbers):
    assert numbers("flux2_made_for")["empty text of dev"] == ["guidance"]


@pytest.mark.parametrize(("of", "title"), [("flux2_", "FLUX.2"), ("chroma_", "Chroma"), ("krea2_", "Krea 2")])
def test_an_adapter_of_another_family_has_no_vector_and_fits_no_flux_1(numbers, of, title):
    found = numbers(f"{of}made_for")
    assert found["mechanisms"] == MECHANISMS[of]
    assert found["sites"] == (["single.0", "single.2"] if of == "krea2_" else ["double.0", "single.0"])
    one_sentence(found["vector"], ("'vector'", f"{title} has not", " or ".join(MECHANISMS[of])))
    one_sentence(found["the other family"], ("family flux1", f"family {of[:-1]}", "load the FLUX model"))
    one_sentence(numbers("made_for")["the other family"], ("family flux1", "family flux2", "load the FLUX model"))


def test_krea_2_has_no_context_tokens_because_it_mixes_them_into_the_text(numbers):
    one_sentence(numbers("krea2_made_for")["context"], ("'context'", "Krea 2 mixes", "choose cross_attention"))


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


def test_a_lora_acts_beside_dino_and_tiles_wherever_it_is_loaded(numbers):
    found = numbers("lora")
    assert found["changes the result by"] > 0.01
    assert found["loaded first is loaded last"]
    assert found["DINO changes it by"] > 0.01
    assert found["strength 0 is the LoRA alone"]
    assert found["the model without it is as before"]


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


def test_comfyuis_own_dinov2_gives_the_same_features_at_any_size(numbers, report):
    found = numbers("clip_vision")
    cases = ("trained size", "smaller", "last", "several", "wide", "larger")
    report(f"DINOv2 of ComfyUI against ours, relative: {max(found[case] for case in cases):.0e}")
    assert found["missing"] == found["unexpected"] == 0
    for case in cases:
        assert found[case] < 1e-5 < 0.1 < found[f"{case}, vary by"], case
    assert "no DINO model" in found["refused"]


def test_two_dino_files_of_one_name_are_both_offered_and_the_old_name_stays(numbers):
    found = numbers("one_name_twice")
    assert found["new names"] == ["dino.safetensors [clip_vision]"] and found["lost names"] == []
    assert found["the old name is the file in models/dino"] and found["the other name is another file"]
    assert found["one file by two ways is offered once"]
    assert "there is no model file 'dino.safetensors [dino]' in models/dino or models/clip_vision" in found["told"]


def test_comfyuis_own_dinov3_gives_the_same_features_of_every_layer(numbers, report):
    found = numbers("clip_vision_dinov3")
    if not found:
        pytest.skip("this ComfyUI is older than 0.33 and has no DINOv3")
    cases = ("last", "2/3", "several")
    report(f"DINOv3 of ComfyUI against ours, relative: {max(found[case] for case in cases):.0e}")
    assert found["missing"] == found["unexpected"] == 0
    assert found["spec"] == "dinov3-small"
    for case in cases:
        assert found[case] < 1e-5 < 0.1 < found[f"{case}, vary by"], case


def test_comfyui_manages_dino_and_the_adapter(numbers):
    found = numbers("managed")
    assert not found["DINO before"]
    assert found["DINO after Extract DINO Patches"]
    assert not found["DINO after unload_all_models"]
    assert found["adapter after Project DINO Conditioning"]


def test_remembered_features_load_no_model_and_another_picture_loads_it_again(numbers):
    found = numbers("managed")
    assert found["remembered features are the first"] and not found["DINO after remembered features"]
    assert found["DINO after another picture"]
    assert found["another picture's features are a fresh encoder's"]


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ("grey", [60, 72, 3]),
        ("alpha", [60, 72, 4]),
        ("grey and alpha", [60, 72, 4]),
        ("one px", [2, 2, 3]),
        ("ten to one", [24, 240, 3]),
        ("smaller than a tile", [45, 75, 3]),
    ],
)
def test_odd_pictures_come_out_in_their_exact_size_and_with_their_alpha(numbers, picture, size):
    assert numbers("refusals")["pictures"][picture] == [[1, *size], True]


REFUSED = {
    "UNet patched": ("UNetModel", "FLUX.1", "Tile Model"),
    "UNet, new adapter": ("UNetModel", "FLUX.1", "Krea 2"),
    "FLUX.2": ("family flux2", "family flux1"),
    "FLUX of another width": ("width 128", "width 256"),
    "adapter of another DINO": ("dinov2-demo", "dinov2-small"),
    "adapter of other layers": ("layers 3", "layers 2,4"),
    "unpatched model": ("not patched", "Patch FLUX with DINO"),
    "model patched with another": ("not patched", "Patch FLUX with DINO"),
    "NaN": ("NaN",),
    "infinite": ("infinite",),
    "no picture": ("[0, 32, 32, 3]", "at least one"),
    "five channels": ("5 channels", "1 to 4"),
    "alpha of NaN": ("image holds NaN",),
    "overlap not below tile": ("overlap 64", "tile 64"),
    "tile off the grid": ("tile 72", "use 64 or 80"),
    "latent of another size": ("224 x 80", "224 x 160"),
    "three pictures, two latents": ("3 pictures", "latent holds 2"),
    "three pictures, two latents, tiled": ("3 pictures", "latent holds 2"),
    "tiled twice": ("already tiled",),
    "dino without adapter": ("a DINO model was given without an adapter",),
    "scale": ("scale 99.0", "from 0.1 to 16"),
    "layers": ('layers "9"', "blocks 1 to 4"),
    "several masks": ("2 pictures", "one"),
    "start after end": ("0.8", "0.2"),
    "missing DINO file": ("nothing.safetensors", "models/dino"),
    "missing adapter file": ("nothing.safetensors", "models/model_patches"),
    "pickle as DINO": ("pickle", "safetensors"),
    "truncated as DINO": ("truncated.safetensors", "download it again"),
    "foreign as DINO": ("foreign.safetensors", "not a DINOv2 or DINOv3"),
    "pickle as adapter": ("pickle", "safetensors"),
    "truncated as adapter": ("truncated.safetensors", "download it again"),
    "foreign as adapter": ("foreign.safetensors", "no DINOTile adapter"),
    "default conditioning": ("'default'",),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence_that_names_it(numbers, case):
    said = numbers("refusals")["said"][case]
    kind, _, sentence = said.partition(": ")
    assert kind == "ValueError", said
    assert "\n" not in sentence
    for part in REFUSED[case]:
        assert part in sentence


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


@pytest.mark.parametrize("vae", ["flux", "quantising", "taesd"])
def test_the_hosts_vaes_in_strips_are_the_whole(numbers, vae, report):
    found = numbers("vae_strips")[vae]
    report(f"VAE in strips, {vae}: latents {found['encode']:.0e}, pixels {found['decode']:.0e} from ComfyUI's own")
    assert found["in strips"] and min(found["spread"]) > 0.1
    assert found["encode"] < 3e-5 and found["decode"] < 1e-5
    assert found["rows finished at once"] < 64


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


def test_a_vae_that_is_not_known_is_left_to_the_host(numbers):
    found = numbers("vae_strips")["other"]
    assert not found["in strips"] and found["encode"] == found["decode"] == 0


@pytest.mark.parametrize("run", ["euler", "heun", "euler_ancestral", "cfg"])
def test_anchor_and_dino_guidance_hold_any_sampler_to_the_source(numbers, report, run):
    found = numbers("estimates")[run]
    report(
        f"distance from the source, {run}: {found['off']:.4f}, anchored {found['anchor']:.4f}, half so {found['half']:.4f}, "
        f"that and DINO {found['both']:.4f}"
    )
    assert found["half"] < 0.2 * found["off"] and found["both"] < found["half"]
    assert max(found["anchor"], found.get("tiled", 0.0)) < 0.1 * found["off"]
    assert found["DINO acts"] and not found["order matters"]


def test_guidance_that_is_off_or_masked_away_leaves_the_model_as_it_is(numbers):
    assert all(numbers("estimates_off").values())


def test_each_picture_of_a_batch_is_held_to_its_own_source(numbers):
    found = numbers("estimates_of_many")
    # a batch rounds otherwise, and where a ReLU of the decoder turns over by it the gradient is another
    assert found["apart from alone"] < 0.01 * found["apart by the other's source"] and found["shape"] == [2, 16, 10, 14]
    one_sentence(found["two for one latent"], ("guidance has 2 pictures, the latent holds 1: connect one image",))
    *beside, masked = found["nothing left"]
    for said in beside:
        one_sentence(said, ("DINO Guidance has nothing to do beside a Source Anchor of strength 1", "lower the anchor"))
    assert masked is False
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


def test_comfyui_manages_a_flatdino_and_its_nodes_do_what_it_does(numbers):
    found = numbers("compressed")
    assert not found["before"] and found["after Compress"] and not found["after unload"] and found["after Restore"]
    assert found["tokens"] == [1, 6, 8] and found["class token stays"] and all(found["about"])
    assert found["differs from the module by"] < 1e-5 < 0.01 < found["differs from another picture's by"]
    assert found["on"] == "cpu"


def test_all_tiles_see_the_latents_of_the_flatdino_in_an_adapter(numbers):
    found = numbers("shared_tokens")
    assert found["held"] and found["differs from the module by"] < 1e-5 and found["again"]
    assert min(found["with latents of another picture"], found["against none"]) > 1e-4
    assert found["after unloading"] < 1e-5


def test_a_preview_takes_the_colours_of_other_features(numbers):
    found = numbers("compressed")
    assert found["sizes"] == [[1, 200, 200, 3]] * 3
    assert found["like itself is plain"] and found["own colours are other ones by"] > 0.05


def test_fewer_tokens_restore_something_else_where_they_are_nested(numbers):
    found = numbers("nested")
    one_sentence(found["not nested"], ("keep 2 needs a FlatDINO with nested tokens",))
    if "without the library" in found:
        one_sentence(found["without the library"], ("levels (8, 5, 5) need vector-quantize-pytorch",))
    else:
        assert found["differs by"] > 0.01
        one_sentence(found["too many"], ("keep is 7", "from 1 to the 6 tokens"))


FLAT_REFUSED = {
    "another grid": ("10 x 10 patches", "compresses", "8 x 8 patches"),
    "another layer": ("layers 4", "layers 3"),
    "another DINO": ("dinov2-demo", "compresses dinov3-small"),
    "another FlatDINO": ("compressed by another FlatDINO",),
    "no file": ("nothing.safetensors", "models/flatdino"),
    "a pickle": ("pickle",),
    "colours of another layer": ("like is of dinov2-demo layers 4", "leave like out"),
}


@pytest.mark.parametrize("case", FLAT_REFUSED)
def test_what_a_flatdino_is_not_made_for_is_refused(numbers, case):
    one_sentence(numbers("compress_refusals")[case], FLAT_REFUSED[case])


def test_the_demos_flatdino_is_offered_and_restores_a_photograph(numbers):
    found = numbers("demo_flatdino")
    assert "dinotile-demo.safetensors" in found["offered"] and found["cosine"] > 0.6


def test_where_memory_ends_fewer_tiles_share_a_call_and_the_result_is_the_same(numbers):
    found = numbers("fewer_tiles")
    still, moving = found["still"], found["moving"]
    assert still["said"][-2:] == [
        f"sample ran out of memory and goes on with {less} at a time" for less in ("1 tile", "one conditioning")
    ]
    assert set(still["rows"]) == {1} and still["failed"] == len(still["said"])
    assert max(moving["rows"]) <= 5 and 0 < moving["failed"] == len(moving["said"])
    assert max(still["differs by"], moving["differs by"]) < 1e-5
    assert max(found["rows of the next run"]) > 5


def test_tiles_shrink_only_where_nothing_else_helps_and_finished_steps_stay(numbers):
    found = numbers("smaller_tiles")
    assert [size[1:] for size in found["sizes"]] == [[32, 32], *[[24, 22]] * 6]  # the first step is not repeated
    assert found["said"][0] == "sample ran out of memory and goes on with 1 tile at a time"
    assert found["said"][-1] == "sample ran out of memory and goes on with tiles of 176 x 192 px"
    assert found["finite"]
    assert "CUDA out of memory" in found["where none is small enough"][1]


@pytest.mark.parametrize("way,words", [("strips", "lower strips"), ("alone", "no other model on the device")])
def test_vae_and_dino_take_less_where_memory_ends(numbers, way, words):
    found = numbers("vae_and_dino_alone")[way]
    stages = ("encode", "decode") if way == "strips" else ("dino", "decode")
    assert {f"{stage} ran out of memory and goes on with {words}" for stage in stages} <= set(found["said"])
    assert found["failed"] and found["differs by"] < 1e-5


def test_the_command_lines_small_vae_of_flux_2_is_the_hosts(numbers):
    found = numbers("small_vae_of_flux2")
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("run", ["plain", "moving, batches", "all of it"])
def test_the_bar_of_the_one_node_rises_to_the_total_that_it_was_told_first(numbers, run):
    found = numbers("progress_of_the_one_node")[run]
    assert found["rising"] and found["totals"] == [found["last"][1]]
    assert found["last"][0] == found["last"][1]
