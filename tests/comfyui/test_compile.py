"""torch.compile and the bytes that DINO moves, inside a real ComfyUI: inside_compile.py measures, this file says what the numbers
must be."""

import pytest

from ..gpu.test_comfyui import CHECKS
from .conftest import EVERY, numbers_of


@pytest.fixture(scope="module")
def compiled(insides) -> dict:
    return insides.result("inside_compile.py")


@pytest.fixture
def numbers(compiled):
    return numbers_of(compiled)


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
    assert set(dino) > {"a mask"} and (of or set(dino) > {"off"})
    later = dict.fromkeys(("a mask", "three pictures of a taller tile"), 1 if of else 2)
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


def test_what_the_tests_on_a_gpu_ask_for_is_measured(measured, compiled, trained):
    here = {"inside.py": measured, "inside_compile.py": compiled, "inside_training.py": trained}
    assert all(set(checks) <= set(here[script]) for script, checks in CHECKS.items())
