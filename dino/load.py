"""DINO weights from a safetensors file: read, recognise, build, load strictly."""

from pathlib import Path

import torch

from ..files.errors import printable
from ..files.fingerprints import file_fingerprint
from ..files.paths import path_of
from ..files.weights import read_weights, weight_files
from .backbone import TransformersBackbone, model_with
from .encode import DinoEncoder
from .layouts import detect_spec, plain_weights


def load_dino(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DinoEncoder:
    """An encoder from a .safetensors file or one of its shards, or a hub folder that holds them.

    The architecture (one of SPECS) and the layout, transformers', Meta's or timm's, are recognised from the tensors.
    ValueError, one sentence, for anything else.
    """
    path = path_of(path, what="the DINO model", do="give that of a .safetensors file or of the folder that holds it")
    files = weight_files(path)
    with torch.inference_mode(False):  # a host's inference mode would make weights that guidance cannot use
        state = {name: tensor for file in files for name, tensor in read_weights(file)[0].items()}
        try:
            spec = detect_spec({name: tuple(tensor.shape) for name, tensor in state.items()})
            odd = next((name for name, tensor in state.items() if not tensor.is_floating_point()), None)
            if odd:
                raise ValueError(
                    f"{printable(odd)} is {state[odd].dtype}, only floating point weights load: get the full file"
                )
            weights = {name: tensor.to(device, dtype) for name, tensor in plain_weights(state, spec).items()}
            model = model_with(weights, spec)
        except ValueError as error:
            raise ValueError(f"{files[0].name}: {error}") from None
        return DinoEncoder(TransformersBackbone(model.to(device), spec), spec, file_fingerprint(*files))
