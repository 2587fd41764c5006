"""FLUX told in words what is in the whole picture, or in each tile: what an oracle would say, in the world's language."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dinotile.demo.train import world
from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.memo import RunMemo
from dinotile.hosts.host import Host, Text
from dinotile.upscaling.joint import JointEuler, TileRow
from dinotile.upscaling.settings import UpscaleSettings


class Captioned(JointEuler):
    """whole: whether every tile hears of all that the scene holds, and not of its own part only."""

    def __init__(self, host: Host, scene: world.Scene, settings: UpscaleSettings, *, whole: bool) -> None:
        super().__init__(host, Text.empty(host.geometry), settings)
        self.labels, self.whole = scene.labels()[FLUX1.cell // 2 :: FLUX1.cell, FLUX1.cell // 2 :: FLUX1.cell], whole

    def told(self, rows: Sequence[TileRow], memo: RunMemo) -> Text:
        boxes = [row.box for row in rows]
        parts = [self.labels if self.whole else self.labels[b.top : b.bottom, b.left : b.right] for b in boxes]
        seen = [world.present(part) for part in parts]
        words = np.stack([world.caption(each) for each in seen])
        pooled = np.stack([world.pooled_caption(each) for each in seen])
        return Text(torch.from_numpy(words), torch.from_numpy(pooled), self.text.guidance)
