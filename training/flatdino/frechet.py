"""The Frechet distance between two sets of features, taken as Gaussians (arXiv 1706.08500): FID, where they are Inception's."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(ones: Tensor, others: Tensor) -> float:
    """Between features [n, D] and [m, D] of at least two pictures each; 0 for the same, less rounding.

    |mean - mean'|^2 + tr(S) + tr(S') - 2 tr((S S')^1/2), where the last trace is the sum of the singular values of A A'^T for any
    A with A^T A = S. So no root of a product is taken that few pictures leave without full rank, and with few pictures the
    matrices are small.
    """
    means, roots = zip(*(_parts(each.double().cpu()) for each in (ones, others)), strict=True)
    both = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots)
    return float((means[0] - means[1]).square().sum() + spread - 2 * both)


def _parts(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D], and a root A [at most D, D] of the covariance."""
    count, width = features.shape
    mean = features.mean(0)
    centred = (features - mean) / (count - 1) ** 0.5
    return mean, torch.linalg.qr(centred, mode="r").R if count > width else centred
