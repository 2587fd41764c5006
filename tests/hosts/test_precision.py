import pytest
import torch

from dinotile.hosts.precision import check_bfloat16
from dinotile.training.adapter.config import TrainConfig
from dinotile.training.adapter.run import check_device, train
from dinotile.upscaling import api


@pytest.fixture
def turing(monkeypatch):
    """What torch says of a GPU that has no bfloat16."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")


def test_a_gpu_without_bfloat16_is_named_with_what_to_set(turing, monkeypatch, tmp_path):
    told = r"needs a GPU that computes in bfloat16 \(compute capability 8.0\), Tesla T4 has 7.5: {}"
    for module in ("dinotile.upscaling.api", "dinotile.upscaling.device"):
        monkeypatch.setattr(f"{module}.find_device", lambda name: torch.device("cuda"))
    place = str(tmp_path)
    config = TrainConfig.model_validate(
        {"data": {"path": place}, "output": {"folder": place}, "optimisation": {"precision": "bf16"}}
    )
    with pytest.raises(ValueError, match="optimisation.precision bf16 " + told.format("set fp16")):
        train(config)
    for dtype in ("auto", "bfloat16"):
        with pytest.raises(ValueError, match=f"dtype {dtype} " + told.format("choose float16 or float32")):
            api.load_upscaler("dev", dtype=dtype)


def test_other_devices_and_gpus_with_bfloat16_are_taken(monkeypatch):
    check_bfloat16(torch.device("cpu"), setting="x", instead="y")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    check_bfloat16(torch.device("cuda"), setting="x", instead="y")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device")
def test_a_device_that_cannot_keep_8_bits_is_refused_before_anything_is_loaded():
    model = {"weights": "fp8", "dtype": "float16", "gradient_checkpointing": True}
    config = TrainConfig.model_validate({"model": model, "optimisation": {"precision": "fp16"}})
    check_device(config, torch.device("cpu"))
    with pytest.raises(ValueError, match="device mps has no 8-bit floats for weights fp8"):
        check_device(config, torch.device("mps"))
