"""Adapters fitted inside a real ComfyUI: inside_redux.py measures, this file says what the numbers must be."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .conftest import apart, numbers_of, one_sentence


@pytest.fixture(scope="module")
def fitted(insides) -> dict:
    return insides["inside_redux.py"].result()


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
    from dinotile.training.redux.teacher import load_teacher

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
