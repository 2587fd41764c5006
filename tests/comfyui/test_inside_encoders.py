"""DINO encoders that ComfyUI loads or the pack does, and FlatDINO.

inside.py measures, this file says what the numbers must be.
"""

import pytest

from .conftest import one_sentence


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
