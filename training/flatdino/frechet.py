"""The Frechet distance between two sets of features, taken as Gaussians (arXiv 1706.08500): FID, where they are Inception's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean: [D]. root: A [at most D, D] with A^T A the covariance. Both float64, on the CPU."""

    mean: Tensor
    root: Tensor

    def distance(self, other: Gaussian) -> float:
        """|mean - mean'|^2 + tr(S) + tr(S') - 2 tr((S S')^1/2), where the last trace is the sum of the singular values of A A'^T.

        So no root of a product is taken that few pictures leave without full rank, and with few pictures the matrices are small.
        """
        both = torch.linalg.svdvals(self.root @ other.root.T).sum()
        spread = sum(each.root.square().sum() for each in (self, other))
        return float((self.mean - other.mean).square().sum() + spread - 2 * both)


def gaussian(features: Tensor) -> Gaussian:
    """Of features [n, D] of at least two pictures."""
    count, width = features.shape
    centred = features.cpu().to(torch.float64, copy=True)  # the features are not ours to write to
    mean = centred.mean(0)
    centred.sub_(mean).div_((count - 1) ** 0.5)
    return Gaussian(mean, torch.linalg.qr(centred, mode="r").R if count > width else centred)


def frechet(ones: Tensor, others: Tensor) -> float:
    """Between features [n, D] and [m, D] of at least two pictures each; 0 for the same, less rounding."""
    return gaussian(ones).distance(gaussian(others))
