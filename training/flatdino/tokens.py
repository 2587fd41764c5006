"""``dinotile flatdino tokens``: what each token is for, where it looks, and how much tokens say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.model import FlatDino
from ...files.progress import Progress, counted
from .measure import Tally
from .patches import TOGETHER, Patches

MARGIN, CELL = 1, 6  # of a map in the picture of them: cells around it, px of a patch


@dataclass(frozen=True, eq=False)
class Tokens:
    """What was found with so many pictures.

    lost: what the Huber loss rises by where a token is its mean over pictures, [T]. maps: where a token looks in the last block
    of the encoder, mean over heads and pictures, [T, h, w], of sum 1. mutual: information that two tokens share, in nats,
    [T, T], 0 on the diagonal; total: total correlation of all tokens, in nats; both as if latents were Gaussian, and None where
    there are no more pictures than numbers to compare.
    """

    pictures: int
    lost: Tensor
    maps: Tensor
    mutual: Tensor | None
    total: float | None

    @property
    def spread(self) -> Tensor:
        """How many patches a token looks at: the exponential of its map's entropy, [T], from 1 to h * w."""
        share = self.maps.flatten(1).clamp(min=1e-12)
        return (-(share * share.log()).sum(1)).exp()

    def lines(self) -> list[str]:
        """For people to read."""
        head = f"{self.pictures} pictures; the Huber loss that a token saves, and the patches that it sees"
        rows = [
            f"token {number:>3}  {float(lost):8.5f}  {float(spread):6.1f}"
            for number, (lost, spread) in enumerate(zip(self.lost, self.spread, strict=True))
        ]
        if self.mutual is not None and len(self.lost) > 1:
            pairs = self.mutual.sum() / (len(self.lost) * (len(self.lost) - 1))
            rows.append(
                f"mutual information of two tokens: {float(pairs):.3f} nats, at most {float(self.mutual.max()):.3f}"
            )
        if self.total is not None:
            rows.append(f"total correlation: {self.total:.3f} nats")
        else:
            rows.append("total correlation: needs more pictures than a picture's latents have numbers that vary")
        return [head, *rows]

    def picture(self) -> Tensor:
        """The maps in a row, each from black to white, [3, H, W] in 0..1."""
        maps = self.maps / self.maps.amax((1, 2), keepdim=True)
        framed = F.pad(maps, (MARGIN, MARGIN, MARGIN, MARGIN), value=0.3)  # [T, h + 2, w + 2]
        row = torch.cat(list(framed), dim=1)
        return F.interpolate(row[None, None], scale_factor=CELL, mode="nearest")[0].expand(3, -1, -1)


@torch.no_grad()
def tokens(flat: LoadedFlat, data: Patches, *, device: torch.device, progress: Progress | None = None) -> Tokens:
    """Of the pictures that can be used; ValueError for features that the FlatDINO is not made for, and for fewer than two."""
    data.check(flat.config, "the features")
    model, maps, found = flat.module.to(device), 0.0, []
    for _, true in _parts(data, progress, "encode"):
        true = true.to(device)
        found.append(model.encode(true).cpu())
        maps = maps + attention_maps(model, true).sum(0).cpu()
    latents = torch.cat(found) if found else torch.zeros(0)
    data.check_count(len(latents))
    mean, whole = latents.mean(0), Tally()
    without = [Tally() for _ in range(flat.config.tokens)]
    for start, true in _parts(data, progress, "leave out"):
        kept, true = latents[start : start + len(true)], true.to(device)
        whole.add(model.decode(kept.to(device)), true)
        for token, tally in enumerate(without):
            changed = kept.clone()
            changed[:, token] = mean[token]
            tally.add(model.decode(changed.to(device)), true)
    base = whole.numbers()["huber"]
    lost = torch.tensor([tally.numbers()["huber"] - base for tally in without])
    return Tokens(
        len(latents),
        lost,
        torch.as_tensor(maps) / len(latents),
        mutual_information(latents),
        total_correlation(latents),
    )


def attention_maps(model: FlatDino, patches: Tensor) -> Tensor:
    """How much of what each token takes from patches [B, h, w, D] comes from where, in the encoder's last block: [B, T, h, w]."""
    encoder, grid = model.encoder, patches.shape[1:3]
    x = encoder.joined(patches.flatten(1, 2))
    mask = encoder.mask(x)
    *before, last = encoder.vit.blocks
    for block in before:
        x = block(x, mask)
    shares = last.attention.shares(last.attention_norm(x), mask)  # type: ignore[union-attr, operator]
    of_patches = shares[:, encoder.own, encoder.own.stop :]  # [B, T, N]
    return (of_patches / of_patches.sum(-1, keepdim=True)).unflatten(-1, grid)


def total_correlation(latents: Tensor) -> float | None:
    """Of tokens [n, T, F], in nats: the entropies of the tokens less that of all, of Gaussians with their covariances."""
    whole = _volume(latents.flatten(1))
    parts = [_volume(latents[:, token]) for token in range(latents.shape[1])]
    if whole is None or None in parts:
        return None
    return sum(part for part in parts if part is not None) - whole


def mutual_information(latents: Tensor) -> Tensor | None:
    """Of each two tokens of [n, T, F], in nats, [T, T] with 0 on the diagonal."""
    count = latents.shape[1]
    alone = [_volume(latents[:, token]) for token in range(count)]
    found = torch.zeros(count, count)
    for one in range(count):
        for other in range(one):
            both = _volume(latents[:, [one, other]].flatten(1))
            first, second = alone[one], alone[other]
            if both is None or first is None or second is None:
                return None
            found[one, other] = found[other, one] = first + second - both
    return found


def _volume(numbers: Tensor) -> float | None:
    """Half the logarithm of the determinant of the covariance of [n, k]; None where it is singular."""
    centred = numbers.double() - numbers.double().mean(0)
    if len(centred) <= centred.shape[1]:
        return None
    sign, log = torch.linalg.slogdet(centred.T @ centred / len(centred))
    return float(log) / 2 if float(sign) > 0 and bool(log.isfinite()) else None


def _parts(data: Patches, progress: Progress | None, stage: str) -> Iterator[tuple[int, Tensor]]:
    """Patches [B, h, w, D] of the compressed layer, and how many came before them."""
    before = 0
    for start in counted(range(0, len(data), TOGETHER), stage, progress):
        for _, patches in data.whole(range(start, min(start + TOGETHER, len(data)))):
            yield before, patches[:, 0]
            before += len(patches)
