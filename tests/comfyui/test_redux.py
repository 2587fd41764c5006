"""Redux in tiles, and adapters fitted to it, inside a real ComfyUI: inside_redux.py measures, this file says what the numbers
must be."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .conftest import apart, numbers_of, one_sentence


@pytest.fixture(scope="module")
def fitted(insides) -> dict:
    return insides.result("inside_redux.py")


@pytest.fixture
def numbers(fitted):
    return numbers_of(fitted)


def test_the_fitted_projection_follows_the_picture(numbers, report):
    found = numbers("fitted")
    report(
        f"fitted projection in ComfyUI, cosine about the mean: own {found['own']:.2f}, swapped {found['swapped']:.2f}"
    )
    assert found["own"] > found["swapped"] + 0.2
    assert found["mechanisms"] == ["context"]
    assert found["effect"] > 1e-4
    assert found["files"] == 1


def test_the_report_has_a_line_per_solution(numbers):
    found = numbers("fitted")
    assert found["report"][0].startswith("24 pictures")
    assert any(line.startswith("ridge") for line in found["report"])
    assert any(line.startswith("hidden layer") for line in found["report with hidden layer"])


def test_comfyuis_siglip_and_redux_give_the_tokens_of_the_files(numbers, fitted):
    from dinotile.hosts.diffusers.redux import load_teacher

    numbers("fitted")
    folder = Path(fitted["folder"])
    sizes = {"image_size": 56, "num_attention_heads": 4, "hidden_act": "gelu_pytorch_tanh"}
    (folder / "config.json").write_text(json.dumps({"vision_config": sizes}))
    shown = load_file(folder / "redux.safetensors")
    teacher = load_teacher(folder / "siglip.safetensors", folder / "style.safetensors")
    assert apart(shown["tokens"], teacher.tokens(shown["pixels"])) < 1e-4


def test_an_interrupted_fit_leaves_nothing_behind_and_the_next_works(numbers):
    found = numbers("fit_interrupted")
    assert found == {"said": "InterruptProcessingException", "files": 0, "left in temp": [], "next": True}


@pytest.mark.parametrize("case", ("still", "cfg", "moving", "beside an adapter"))
def test_each_tile_gets_the_tokens_of_its_own_region_behind_the_text(numbers, case):
    found = numbers("redux_in_tiles")[case]
    length = 6 + 9 + (5 if case == "beside an adapter" else 0)
    assert found["own"] < 1e-5 and found["other"] > 0.1
    assert found["boxes"] >= (24 if case == "moving" else 12)
    assert found["lengths"] == [[0, length], *([[1, 6]] if case == "cfg" else [])]


def test_redux_acts_and_another_picture_acts_otherwise_and_strength_0_is_without(numbers):
    found = numbers("redux_results")
    assert found["strength 0"] is True
    assert min(found[name] for name in ("effect", "another picture", "tiles", "crops", "beside an adapter")) > 1e-3
    assert numbers("redux_in_tiles")["another picture"] > 0.1


def test_one_tile_is_the_untiled_picture_and_that_is_the_hosts_own_apply_style_model(numbers):
    found = numbers("redux_results")
    assert found["one tile"] is found["one tile, half"] is found["zero"] is True
    assert found["as the host's"] < 1e-5 and found["behind the host's"] < 1e-4


def test_strength_2_is_the_tokens_twice(numbers):
    found = numbers("redux_results")
    assert found["twice is strength 2"] < 1e-5 < 1e-3 < found["twice"]


def test_where_the_mask_is_dark_redux_says_nothing(numbers):
    found = numbers("redux_masks")
    assert max(found[name] for name in ("dark", "white", "untiled, all dark", "all dark twice")) < 1e-5
    assert found["effect"] > 1e-3


def test_the_pictures_of_a_batch_get_each_its_own_tokens(numbers):
    assert numbers("redux_batches")["pictures"] == [0, 1, 2, 3] and numbers("redux_batches")["worst"] < 1e-5


def test_in_the_one_node_tiles_are_places_of_the_picture_and_not_of_a_padded_canvas(numbers):
    assert numbers("redux_in_the_one_node")["tiles"] > 1 and numbers("redux_in_the_one_node")["worst"] < 1e-5


SHOWN_REFUSED = {
    "no Redux": ("Linear", "needed is FLUX.1 Redux"),
    "text of another width": ("64 wide", "128", "FLUX.1"),
    "strength": ("strength 3.0", "between 0 and 2"),
    "grid": ("grid 0", "1 to 54"),
    "crops": ("crops 3", "1 (whole picture) or 2"),
    "NaN in Redux": ("NaN", "another SigLIP or Redux file"),
    "NaN in the picture": ("image holds NaN", "repair"),
    "a node behind": ("changed by a node behind it", "put 'Redux for Tiles' behind that node"),
    "a node behind, one tile after the other": (
        "changed by a node behind it",
        "put 'Redux for Tiles' behind that node",
    ),
    "three pictures, one tile after the other": ("3 pictures", "the latent holds 1"),
    "mask of another shape": ("the Redux mask is 64 x 64 px, the picture 224 x 160", "the same proportions"),
    "three pictures": ("3 pictures", "the latent holds 2", "as many as the latent holds"),
    "two texts": ("3 pictures", "2 texts"),
    "masks": ("the mask holds 2 pictures",),
}


@pytest.mark.parametrize("case", SHOWN_REFUSED)
def test_what_redux_cannot_be_shown_with_is_refused(numbers, case):
    one_sentence(numbers("redux_refusals")[case], SHOWN_REFUSED[case])


def test_redux_whose_tokens_a_node_made_zero_is_no_hindrance_to_tiles_one_after_the_other(numbers):
    assert numbers("redux_refusals")["made zero, one tile after the other"] == "nothing was refused"


FIT_REFUSED = {
    "no Redux": ("Linear", "Redux"),
    "no SigLIP": ("clip_vision_model", "SigLIP"),
    "SigLIP of another width": ("64", "48"),
    "few pictures": ("3 pictures", "5"),
    "no folder": ("folder is empty",),
    "FLUX of another width": ("64", "4096"),
}


@pytest.mark.parametrize("case", FIT_REFUSED)
def test_a_fit_of_the_wrong_models_or_folders_is_refused(numbers, case):
    one_sentence(numbers("fit_refusals")[case], FIT_REFUSED[case])
    assert numbers("fit_refusals")["files"] == []
