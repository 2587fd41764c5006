"""DINO weights from a safetensors file: read, recognise, build, load strictly."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from .backbone import TransformersBackbone, model_with
from .encode import DinoEncoder
from .layouts import detect_spec, plain_weights

__all__ = ["detect_spec", "load_dino", "read_safetensors"]


def load_dino(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DinoEncoder:
    """An encoder from a .safetensors file, or a hub folder that holds model.safetensors.

    The architecture (one of SPECS) and the layout, transformers' or Meta's, are recognised from the tensors.
    ValueError, one sentence, for anything else.
    """
    path = _weights_file(Path(path))
    with torch.inference_mode(False):  # a host's inference mode would make weights that guidance cannot use
        state, _ = read_safetensors(path)
        try:
            spec, _ = detect_spec({name: tuple(tensor.shape) for name, tensor in state.items()})
            odd = next((name for name, tensor in state.items() if not tensor.is_floating_point()), None)
            if odd:
                raise ValueError(f"{odd} is {state[odd].dtype}, only floating point weights load: get the full file")
            model = model_with(
                {name: tensor.to(device, dtype) for name, tensor in plain_weights(state, spec).items()}, spec
            )
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        return DinoEncoder(TransformersBackbone(model.to(device), spec), spec, file_fingerprint(path))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata; ValueError, one sentence, for anything else."""
    import safetensors

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}, needed is a .safetensors file: check the path")
    _check_container(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged ({error}), "
            "a whole safetensors file is needed: download it again"
        ) from None


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "model.safetensors").is_file():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"folder {path} holds {names}, needed is model.safetensors: download that file into it")
    return path / "model.safetensors"


def _check_container(path: Path) -> None:
    """Refuse what is not safetensors at all: 8 bytes of header length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        raise ValueError(
            f"{path.name} is a pickle (torch.save), which could run any program when opened, only safetensors is read: "
            "get the .safetensors version, or convert it with safetensors.torch.save_file"
        )
    raise ValueError(
        f"{path.name} starts with {head!r}, which is not safetensors, the one format that is read: "
        "get the .safetensors version, or download it again"
    )


def file_fingerprint(path: Path) -> str:
    """16 hex digits of the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()[:16]
