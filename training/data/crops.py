"""Which part of a picture a sample shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...dino.feature_map import FeatureMap

Box = tuple[int, int, int, int]  # top, left, height, width in pixels of the picture


def random_crop(rows: int, columns: int, *, height: int, width: int, draws: Sequence[float]) -> Box:
    """A box in the proportions height : width, in a picture of rows x columns px.

    It is at least height x width px where the picture holds that, and at most as large as the picture allows.
    draws: numbers in 0..1 for its size, its top and its left.
    """
    most = min(rows / height, columns / width)
    scale = most if most <= 1 else 1 + (most - 1) * draws[0]
    tall, wide = min(rows, round(height * scale)), min(columns, round(width * scale))
    return int(draws[1] * (rows - tall + 1)), int(draws[2] * (columns - wide + 1)), tall, wide


def centred_crop(features: FeatureMap, rows: int, columns: int, *, height: int, width: int) -> tuple[Box, FeatureMap]:
    """The largest centred box of whole patches in about the proportions height : width, and the features of that box."""
    grid_rows, grid_columns = features.patches.shape[1:3]
    scale = min(rows / height, columns / width)
    tall = max(1, round(height * scale / rows * grid_rows))
    wide = max(1, round(width * scale / columns * grid_columns))
    top, left = (grid_rows - tall) // 2, (grid_columns - wide) // 2
    upper, lower = (round(at * rows / grid_rows) for at in (top, top + tall))
    start, end = (round(at * columns / grid_columns) for at in (left, left + wide))
    cropped = features.with_patches(features.patches[:, top : top + tall, left : left + wide], features.cls)
    return (upper, start, lower - upper, end - start), replace(cropped, image_size=(lower - upper, end - start))
