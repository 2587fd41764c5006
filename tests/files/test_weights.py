import os
import pickle

import pytest
import safetensors.torch
import torch

from dinotile.files.weights import read_shapes, read_weights, write_weights

TENSORS = {"x": torch.arange(3.0), "y": torch.zeros(2, 5, dtype=torch.bfloat16)}


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, {**TENSORS, "turned": torch.arange(6).view(2, 3).T}, {"note": "kept"})
    tensors, metadata = read_weights(path)
    assert metadata == {"note": "kept"} and tensors["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert read_shapes(path) == ({"x": (3,), "y": (2, 5), "turned": (3, 2)}, {"note": "kept"})


@pytest.mark.parametrize("read", [read_weights, read_shapes])
def test_what_is_no_safetensors_file_gets_one_clear_sentence(tmp_path, read):
    whole = safetensors.torch.save(TENSORS)
    torch.save({"a": torch.zeros(1)}, tmp_path / "zip.safetensors")
    for name, content, said in [
        ("old.bin", pickle.dumps({"a": 1}), "old.bin is a pickle .*get the .safetensors version"),
        ("zip.safetensors", (tmp_path / "zip.safetensors").read_bytes(), "zip.safetensors is a pickle"),
        ("page.safetensors", b"<!DOCTYPE html><html>", "page.safetensors starts with b'<!DOCTYPE'"),
        ("empty.safetensors", b"", "is not safetensors"),
        ("cut.safetensors", whole[:-4], r"cut.safetensors .\d+ bytes. is cut short or damaged .*download it again"),
        ("stub.safetensors", whole[:20], "cut short or damaged"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no file .*gone.safetensors"):
        read(tmp_path / "gone.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path):
    write_weights(tmp_path / "a.safetensors", TENSORS)
    (tmp_path / "a.safetensors").chmod(0)
    with pytest.raises(ValueError, match="a.safetensors cannot be read .Permission denied.: check its permissions"):
        read_weights(tmp_path / "a.safetensors")
