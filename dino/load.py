"""DINO weights from a safetensors file: read, recognise, build, load strictly."""

from pathlib import Path

import torch

from ..files.fingerprints import file_fingerprint
from ..files.weights import read_weights
from .backbone import TransformersBackbone, model_with
from .encode import DinoEncoder
from .layouts import detect_spec, plain_weights


def load_dino(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DinoEncoder:
    """An encoder from a .safetensors file, or a hub folder that holds model.safetensors.

    The architecture (one of SPECS) and the layout, transformers' or Meta's, are recognised from the tensors.
    ValueError, one sentence, for anything else.
    """
    path = _weights_file(Path(path))
    with torch.inference_mode(False):  # a host's inference mode would make weights that guidance cannot use
        state, _ = read_weights(path)
        try:
            spec = detect_spec({name: tuple(tensor.shape) for name, tensor in state.items()})
            odd = next((name for name, tensor in state.items() if not tensor.is_floating_point()), None)
            if odd:
                raise ValueError(f"{odd} is {state[odd].dtype}, only floating point weights load: get the full file")
            weights = {name: tensor.to(device, dtype) for name, tensor in plain_weights(state, spec).items()}
            model = model_with(weights, spec)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
        return DinoEncoder(TransformersBackbone(model.to(device), spec), spec, file_fingerprint(path))


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "model.safetensors").is_file():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"folder {path} holds {names}, needed is model.safetensors: download that file into it")
    return path / "model.safetensors"
