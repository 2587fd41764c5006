"""A narrow VGG16 with random weights, as torchvision builds and names it."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

STAGES = (2, 2, 3, 3, 3)  # convolutions of a VGG16


def vgg(*, width=4, stages=STAGES, norms=False, seed=0):
    torch.manual_seed(seed)
    layers, channels = [], 3
    for number, count in enumerate(stages):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width * (number + 1), 3, padding=1)]
            layers += [nn.BatchNorm2d(width * (number + 1))] * norms + [nn.ReLU()]
            channels = width * (number + 1)
        layers += [nn.MaxPool2d(2)]
    model = nn.ModuleDict({"features": nn.Sequential(*layers), "head": nn.Linear(channels, 10)})
    for parameter in model.requires_grad_(False).parameters():
        if parameter.ndim == 4:
            parameter.mul_(1.5)  # louder than torch makes it, so that pictures show at every depth
    return model


def write_vgg(place: Path, **how) -> Path:
    save_file(vgg(**how).state_dict(), place)
    return place
