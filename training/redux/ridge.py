"""Ridge regression from sums over tokens, so that the tokens themselves need not be kept (Hoerl and Kennard, 1970)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """Sums over pairs of x [D] and y [C], all float64: count, sum of x, of y, of |y|^2, of x x^T and of x y^T."""

    x: Tensor  # [D]
    y: Tensor  # [C]
    xx: Tensor  # [D, D]
    xy: Tensor  # [D, C]
    yy: float = 0.0
    count: int = 0

    @classmethod
    def empty(cls, inputs: int, outputs: int) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        return cls(zeros(inputs), zeros(outputs), zeros(inputs, inputs), zeros(inputs, outputs))

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: [n, D], y: [n, C]."""
        x, y = x.double(), y.double()
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy += float(y.square().sum())
        self.count += len(x)

    def merged(self, other: Moments) -> Moments:
        """The sums over both sets."""
        return Moments(
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
            self.count + other.count,
        )


@dataclass(frozen=True, eq=False)
class Linear:
    """y = x @ weight + bias, float64."""

    weight: Tensor  # [D, C]
    bias: Tensor  # [C]

    def __call__(self, x: Tensor) -> Tensor:
        return (x.double() @ self.weight + self.bias).float()

    def mean_squared_error(self, moments: Moments) -> float:
        """Mean over the moments' pairs of |y - x W - b|^2, from their sums alone."""
        m, w, b = moments, self.weight, self.bias
        fit = (w * (m.xx @ w)).sum() + 2 * b @ (w.T @ m.x) + m.count * b @ b
        cross = (w * m.xy).sum() + b @ m.y
        return float(m.yy - 2 * cross + fit) / m.count


class Ridge:
    """All ridge solutions of the moments: (X^T X / n + strength * scale * I) W = X^T Y / n on centred x and y.

    scale is the mean variance of an input, so that a strength means the same for inputs of any size.
    """

    def __init__(self, moments: Moments) -> None:
        self.mean_x, self.mean_y = moments.x / moments.count, moments.y / moments.count
        covariance = moments.xx / moments.count - torch.outer(self.mean_x, self.mean_x)
        self.cross = moments.xy / moments.count - torch.outer(self.mean_x, self.mean_y)
        values, self.axes = torch.linalg.eigh(covariance)
        self.values = values.clamp(min=0)  # rounding makes zeros slightly negative

    def solution(self, strength: float) -> Linear:
        """For a strength above 0; the limit towards infinity predicts the mean of y."""
        damped = self.values + strength * self.values.mean()
        weight = self.axes @ ((self.axes.T @ self.cross) / damped[:, None])  # [D, C]
        return Linear(weight, self.mean_y - self.mean_x @ weight)
