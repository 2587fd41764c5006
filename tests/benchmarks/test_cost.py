"""What DINO adds to a block at FLUX.1's width, counted in diffusers; test_inside_beside.py has ComfyUI's numbers."""

import pytest

from benchmarks import cost


@pytest.fixture(scope="module")
def figures():
    return cost.figures()


@pytest.mark.parametrize(("kind", "bytes_", "kernels"), [("float32", 9.5, 5), ("bfloat16", 15.5, 6)])
@pytest.mark.parametrize("mask", ["", ", a mask"])
def test_a_site_in_diffusers_rotates_the_queries_itself(figures, kind, bytes_, kernels, mask):
    found = figures["a site in diffusers"][kind + mask]
    assert 5 < found["x q"] <= bytes_ and found["kernels"] <= kernels


def test_from_the_second_call_on_nothing_is_made_on_the_host(figures):
    assert len(figures["first and second call"]) == 4
    for first, second in figures["first and second call"].values():
        assert first["made on the host"] > 0 == second["made on the host"]
        assert second["x q"] < 0.01 < first["x q"]
