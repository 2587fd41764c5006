"""An encoder that knows the world's textures: a second network like the judge of ``benchmarks/semantics``, of another seed, whose
features guide as DINO's do. It never judges, and the judge never guides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from dinotile.demo.train import world
from dinotile.dino.encode import IMAGENET_MEAN, IMAGENET_STD, DinoEncoder
from dinotile.dino.specs import DinoSpec
from dinotile.files.fingerprints import file_fingerprint

from ..semantics import classifier

SEED = 1  # the judge's is 0
WIDTH, DEPTH = 64, 3  # of its last blocks, which are alike in size
BLOCK = 3  # convolution, normalisation, ReLU
ENLARGED = 4  # times: it learned from pictures of the result's size, and guidance shows it those of twice a source's
SPEC = DinoSpec(
    "texture-net", "dinov2", WIDTH, DEPTH, 1, classifier.CELL // ENLARGED, 0, "gelu", 0, world.SIDE // ENLARGED, 0
)


def texture_net(folder: Path, *, minutes: float) -> DinoEncoder:
    """Trained for ``minutes`` where ``folder`` has none that was."""
    path = folder / f"texture-net-seed-{SEED}-{minutes:g}-minutes.safetensors"
    if not path.exists():
        classifier.train(minutes=minutes, seed=SEED, path=path)
    return DinoEncoder(TextureBackbone(classifier.load(path).requires_grad_(False)), SPEC, file_fingerprint(path))


class TextureBackbone:
    """``dino.encode.Backbone`` of a texture classifier."""

    def __init__(self, model: classifier.TextureClassifier) -> None:
        self.model = model

    @property
    def device(self) -> Any:
        return next(self.model.parameters()).device

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Maps of the last DEPTH blocks; their mean stands for CLS."""
        mean, std = (pixels.new_tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        large = interpolate(pixels * std + mean, scale_factor=ENLARGED, mode="bicubic")
        x = (large.mean(1, keepdim=True) - 0.5) * 4  # as the classifier itself sees a picture
        first, found = len(self.model.layers) // BLOCK - DEPTH, []
        for index, layer in enumerate(self.model.layers[:-1]):
            x = layer(x)
            block, place = divmod(index, BLOCK)
            if place == BLOCK - 1 and block - first + 1 in blocks:
                patches = x.movedim(1, 3)  # [B, h, w, WIDTH]
                found.append((patches, patches.mean((1, 2))))
        return found
