"""Ridge regression from sums over tokens, so that the tokens themselves need not be kept (Hoerl and Kennard, 1970)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over pictures of T tokens x [T, D] and as many y [T, C], all float64. xx, xy, yy: over all tokens as well."""

    x: Tensor  # [T, D]
    y: Tensor  # [T, C]
    xx: Tensor  # [D, D], of x x^T
    xy: Tensor  # [D, C], of x y^T
    yy: Tensor  # [], of |y|^2
    pictures: int = 0

    @classmethod
    def empty(cls, tokens: int, inputs: int, outputs: int) -> Moments:
        zeros = partial(torch.zeros, dtype=torch.float64)
        return cls(
            zeros(tokens, inputs), zeros(tokens, outputs), zeros(inputs, inputs), zeros(inputs, outputs), zeros(())
        )

    @property
    def count(self) -> int:
        """Of tokens."""
        return self.pictures * len(self.x)

    def add(self, x: Tensor, y: Tensor) -> None:
        """One picture, x: [T, D], y: [T, C]."""
        x, y = x.double(), y.double()
        self.x += x
        self.y += y
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy += y.square().sum()
        self.pictures += 1

    def merged(self, other: Moments) -> Moments:
        """The sums over both sets."""
        return Moments(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, eq=False)
class Linear:
    """y = x @ weight + bias, float64."""

    weight: Tensor  # [D, C]
    bias: Tensor  # [C]

    def __call__(self, x: Tensor) -> Tensor:
        return (x.double() @ self.weight + self.bias).float()

    def mean_squared_error(self, moments: Moments) -> float:
        """Mean over the moments' tokens of |y - x W - b|^2, from their sums alone."""
        m, w, b = moments, self.weight, self.bias
        fit = (w * (m.xx @ w)).sum() + 2 * b @ (w.T @ m.x.sum(0)) + m.count * b @ b
        cross = (w * m.xy).sum() + b @ m.y.sum(0)
        return float(m.yy - 2 * cross + fit) / m.count


class Ridge:
    """All ridge solutions of the moments: (X^T X / n + strength * scale * I) W = X^T Y / n on centred x and y.

    scale is the mean variance of an input, so that a strength means the same for inputs of any size.
    """

    def __init__(self, moments: Moments) -> None:
        self.mean_x, self.mean_y = moments.x.sum(0) / moments.count, moments.y.sum(0) / moments.count
        covariance = moments.xx / moments.count - torch.outer(self.mean_x, self.mean_x)
        self.cross = moments.xy / moments.count - torch.outer(self.mean_x, self.mean_y)
        values, self.axes = torch.linalg.eigh(covariance)
        self.values = values.clamp(min=0)  # rounding makes zeros slightly negative

    def solution(self, strength: float) -> Linear:
        """For a strength above 0; the limit towards infinity predicts the mean of y."""
        damped = self.values + strength * self.values.mean()
        weight = self.axes @ ((self.axes.T @ self.cross) / damped[:, None])  # [D, C]
        return Linear(weight, self.mean_y - self.mean_x @ weight)
