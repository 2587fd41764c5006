"""An adapter in front of a frozen FLUX, as a task of the trainer."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...dino.encode import DinoEncoder
from ...files.fingerprints import weights_fingerprint
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.checkpoint import save_adapter
from ...hosts.host import Host
from ..core.random import generator_for
from ..core.task import Task
from ..data.pictures import Data
from .attention import AttentionMass
from .config import TrainConfig
from .dropout import draw_kept, draw_start
from .encode import EncodedFolder, EncodedPicture, PictureEncoder
from .judge import Judge
from .sheet import draw_sheet
from .step import TrainRow, draw_rows, training_losses
from .validate import Validation

FILE = "adapter.safetensors"  # in the output folder
log = logging.getLogger("dinotile")


class AdapterTask(Task):
    """Trains the adapter of ``host``, float32, on ``data``, and writes it to ``path``.

    kept: where encoded pictures stay. judge: of ``picture``. Of ``config``, the adapter section is not used here, and of the
    model's the guidance only.
    """

    measures = ("velocity",)  # root mean square of what was predicted

    def __init__(
        self,
        host: Host,
        encoder: DinoEncoder,
        data: Data,
        config: TrainConfig,
        *,
        path: Path,
        kept: EncodedFolder | None = None,
        judge: Judge | None = None,
    ) -> None:
        assert host.adapter is not None
        self.host, self.data, self.config, self.path = host, data, config, path
        self.device, self.adapter = host.device, host.adapter.module
        self.adapter.requires_grad_(True).train()
        self.parameters = dict(self.adapter.named_parameters())
        output = config.output
        held = output.validation_pictures if output.validate_every or output.sample_every else 0
        self.count = len(data) - held if len(data) >= 4 * held else len(data)  # pictures that are trained on
        self.pictures = PictureEncoder(host, encoder, data, config=config, kept=kept)
        self.validation, self.judge = Validation(self.pictures), judge
        self._attention = AttentionMass()
        self._drawn: dict[int, EncodedPicture] = {}

    def begin(self, *, looks: bool) -> None:
        if looks and self.count == len(self.data):
            log.warning("the data has only %d pictures, so validation shows pictures that are trained on", self.count)
        if looks:
            self.validation.pictures()

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[TrainRow]:
        return list(
            draw_rows(self.pictures, slots, step=step, first=step * total, count=self.count, drawn=self._drawn).values()
        )

    def losses(self, rows: Sequence[TrainRow], *, watch: bool) -> dict[str, Tensor]:
        watched = None
        if watch:
            self._attention = AttentionMass()
            watched = self._attention.watching(self.host, rows)
        losses, velocities = training_losses(self.host, rows, self.config, watched=watched)
        return {"loss": losses, "velocity": velocities}

    def case(self, slot: int, *, step: int) -> str:
        """The conditions that it keeps: "both", "both from source", ..."""
        conditions, seed = self.config.conditions, self.config.optimisation.seed
        kept = draw_kept(conditions, generator=generator_for(seed, "row", step, slot))
        start = draw_start(conditions, generator=generator_for(seed, "start", step, slot))
        return kept if start is None else f"{kept} from source"

    def name(self, row: TrainRow) -> str:
        return f"picture {row.picture}"

    def details(self) -> dict[str, dict[str, float]]:
        """The gates, the attention (``AttentionMass``, of the first process' first rows), and skipped pictures by reason."""
        return {"gates": self.gates(), "attention": self._attention.means(), "skipped": dict(self.data.skipped)}

    def gates(self) -> dict[str, float]:
        """The gate of each site, averaged over five noise levels."""
        config = self.adapter.config
        if "cross_attention" not in config.mechanisms:
            return {}
        with torch.no_grad():
            gates = self.adapter.gate(torch.linspace(0.1, 0.9, 5, device=self.device)).float().mean(0)
        return dict(zip(config.sites, gates.tolist(), strict=True))

    def identity(self) -> dict[str, Any]:
        about = json.loads(json.dumps(replace(self.adapter.config, provenance={}).values()))
        if self.adapter.config.flat is not None:  # whose weights are no parameters, and so in no checkpoint
            about["flat"]["weights"] = weights_fingerprint(dict(self.adapter.shared.flat.state_dict()))
        return about

    def validate(self) -> dict[str, float]:
        return self.validation.losses()

    def picture(self) -> tuple[Tensor, dict[str, Any]]:
        pixels, distances = draw_sheet(self.validation, judge=self.judge)
        return pixels, {"distance": distances} if distances else {}

    def export(self, *, steps: int, rows_per_step: int) -> None:
        """The adapter on the CPU, with where it comes from in its configuration."""
        about = self.config.model_dump()
        provenance: dict[str, Any] = {"steps": steps, "pictures": self.count, "rows_per_step": rows_per_step}
        provenance |= {name: about[name] for name in ("conditions", "degradation", "optimisation")}
        with torch.device("meta"):
            copy = DinoAdapter(replace(self.adapter.config, provenance=provenance))
        copy.load_state_dict({name: tensor.cpu() for name, tensor in self.adapter.state_dict().items()}, assign=True)
        save_adapter(copy, self.path, trained=True)
