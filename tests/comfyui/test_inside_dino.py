"""DINO inside the attention of a FLUX of ComfyUI: what must change nothing, what must act, and where.

inside.py measures, this file says what the numbers must be.
"""

import pytest

from .conftest import EVERY, FAMILIES, one_sentence

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


def test_a_lora_acts_beside_dino_and_tiles_wherever_it_is_loaded(numbers):
    found = numbers("lora")
    assert found["changes the result by"] > 0.01
    assert found["loaded first is loaded last"]
    assert found["DINO changes it by"] > 0.01
    assert found["strength 0 is the LoRA alone"]
    assert found["the model without it is as before"]


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
    "mask of another shape": ("the DINO mask is 64 x 64 px, the picture 224 x 160", "the same proportions"),
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
