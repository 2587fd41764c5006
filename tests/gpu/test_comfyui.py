"""ComfyUI on CUDA: its own checks of tests/comfyui, on the device, with a device's tolerances."""

import pytest

from ..comfyui.conftest import base as base
from ..comfyui.conftest import host as host
from ..comfyui.conftest import host_python as host_python
from ..comfyui.conftest import measure_inside, numbers_of
from .device import DEVICE, on_gpu

pytestmark = [*on_gpu, pytest.mark.host]
CHECKS = {  # of each script; tests/comfyui/test_compile.py looks whether they are there
    "inside.py": ("repeated", "low_precision"),
    "inside_compile.py": ("compiled_orders",),
    "inside_training.py": ("trained", "for_diffusers", "low_precision", "kernels"),
}


@pytest.fixture(scope="module")
def measure(host, host_python, base, tmp_path_factory):
    def of(script: str):
        out = tmp_path_factory.mktemp("inside")
        return numbers_of(
            measure_inside(
                script, host=host, host_python=host_python, base=base, out=out, device=DEVICE, checks=CHECKS[script]
            )
        )

    return of


@pytest.fixture(scope="module")
def training(measure):
    return measure("inside_training.py")


@pytest.fixture(scope="module")
def sampling(measure):
    return measure("inside.py")


def test_the_train_node_trains_and_leaves_the_hosts_models_as_they_were(training):
    found = training("trained")
    assert found["loss trained"] < 0.9 * found["loss untrained"]
    assert found["flux is as before"] and not found["in_training"] and found["output is the file"]


def test_checkpointing_in_comfyui_changes_no_gradient(training):
    found = training("for_diffusers")
    assert all(value < 1e-2 for name, value in found.items() if "computed again" in name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_a_flux_of_low_precision_trains(training, dtype):
    found = training("low_precision")[dtype]
    assert found["stored in"] == f"torch.{dtype}" and found["finite"] and found["values"] > 0


def test_comfyui_does_not_bring_cudnns_attention_back(training):
    assert training("kernels")["attentions"] > 5 and training("kernels")["in cuDNN"] == 0


def test_an_adapter_that_was_offloaded_works_as_before(sampling):
    found = sampling("repeated")
    assert found["models loaded after unload_all_models"] == 0
    assert found["after unload is equal"] and found["after free_memory is equal"]


def test_patches_under_torch_compile_equal_eager_ones(measure):
    found = measure("inside_compile.py")("compiled_orders")
    assert found.pop("A differs from plain by") > 0.1
    assert max(apart for order in found.values() for apart in order.values()) < 1e-2


def test_fp8_weights_sample_with_dino(sampling):
    found = sampling("low_precision")
    assert found["finite"] and found["strength 0 is plain"] and found["on differs by"] > 1e-3
