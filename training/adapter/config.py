"""What a training run is told: one YAML file, checked once."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...dino.feature_map import Scales
from ...flux_patch.adapter_config import MOST_GRID
from ...flux_patch.families import Mechanism
from ...upscaling.limits import LIMITS
from ..core.config import (
    FROM_TEXT,
    Count,
    Natural,
    Number,
    OptimisationSettings,
    OutputSettings,
    Range,
    Settings,
    Share,
    allowed,
    from_mapping,
    read_yaml,
    wrong,
)
from ..data.settings import DataSettings, DegradationSettings

HEAD = """# Keys of a training configuration

What `dinotile train CONFIG.yaml` reads. A key that is left out keeps its default. `dinotile train --keys` prints this page.
"""
PRECISIONS = {"float32": None, "bfloat16": "bf16", "float16": "fp16"}  # that a dtype needs
Start = Annotated[float, Field(ge=0.05, le=1), FROM_TEXT]
Guidance = Annotated[float, Field(ge=1), FROM_TEXT]
Grid = Annotated[int, Field(ge=1, le=MOST_GRID)]
Sites = Annotated[
    tuple[int, ...] | Natural | None,
    Field(json_schema_extra={"allowed": "a list of block numbers, n for every n-th block, or 0 for none"}),
]


class ModelSettings(Settings):
    """The frozen models. FLUX, VAE and DINO are .safetensors files, folders or hub names; empty: the variant's."""

    variant: Literal["demo", "schnell", "dev", "klein", "klein-base", "flux2-dev"] = Field(
        default="demo", description="Which FLUX it is."
    )
    model_path: str = Field(default="", description="FLUX.")
    vae_path: str = Field(default="", description="The VAE.")
    dino: str = Field(default="", description="DINO; needed unless the variant is demo.")
    layers: str = Field(default="2/3", description="Of DINO: `last`, a fraction, numbers such as `9,18,24`, or `mean`.")
    crops: Literal[1, 2] = Field(default=1, description="2: DINO also sees a 2 x 2 grid of crops. Usual: 1.")
    scales: Scales = Field(default="averaged", description="How picture and crops are joined; `apart` needs crops 2.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Of the frozen models.")
    weights: Literal["full", "fp8"] = Field(
        default="full", description="How FLUX's are kept; fp8 halves them, and needs `gradient_checkpointing`."
    )
    gradient_checkpointing: bool = Field(default=False, description="Computes activations twice, to save memory.")
    guidance: Number = Field(
        default=1.0, le=LIMITS["guidance"].most, description="Of dev models, the same in every step. Usual: 1."
    )
    device: str = Field(default="auto", description="`auto`, `cuda`, `cuda:1`, `mps` or `cpu`.")


class AdapterSettings(Settings):
    """The adapter that is trained."""

    mechanisms: tuple[Mechanism, ...] = Field(
        default=("cross_attention",), description="Ways by which DINO reaches FLUX."
    )
    width: Count = Field(default=1024, description="Channels of the adapter's tokens. Usual: 1024.")
    grid: Grid = Field(default=16, description="DINO tokens per side of a tile. Usual: 8 to 32.")
    context_grid: Grid = Field(default=4, description="Pooled patches per side that join the text. Usual: 4.")
    double_sites: Sites = Field(default=None, description="Double blocks with cross-attention; left out: every 2nd.")
    single_sites: Sites = Field(default=None, description="Single blocks with cross-attention; left out: every 4th.")
    positions: bool = Field(default=True, description="Whether queries and DINO's keys carry their places (RoPE).")
    shared_tokens: str = Field(
        default="", description="A FlatDINO's file, whose latents of the whole picture join the tokens of every tile."
    )
    warm_start: str = Field(default="", description="An adapter file to begin from.")


class ConditionSettings(Settings):
    """What a row sees. The shares `none`, `text`, `dino` and `both` sum to 1. Rows of `from_source` begin, as an upscaler
    does, at the source that DINO sees, with noise of a level (sigma, after any shift of the schedule) from `start`; their
    levels are drawn from 0 to there, whatever `optimisation.sigma` is. `dino_guidance` is classifier-free guidance by DINO
    that the adapter learns to bring along, so that an upscaling has most of it without a second evaluation."""

    none: Share = Field(default=0.10, description="Share of the rows without any condition.")
    text: Share = Field(default=0.30, description="Share of the rows with text only.")
    dino: Share = Field(default=0.05, description="Share of the rows with DINO only.")
    both: Share = Field(default=0.55, description="Share of the rows with text and DINO.")
    weak: Share = Field(default=0.1, description="Share of the pictures whose features come from a much worse source.")
    feature_noise: Number = Field(default=0.0, description="Deviation, on features of unit scale. Usual: 0 to 0.2.")
    from_source: Share = Field(default=0.0, description="Share of the rows that begin at the source. Usual: 0.5.")
    start: Range[Start] = Field(default=(0.2, 0.6), description="Below 0.2, what the source lacks outweighs all else.")
    dino_guidance: Guidance = Field(default=1.0, description="Above 1, FLUX is evaluated once more. Usual: 1 to 3.")

    @model_validator(mode="after")
    def _cases(self) -> ConditionSettings:
        shares = (self.none, self.text, self.dino, self.both)
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(wrong("conditions none, text, dino, both", shares, "shares that sum to 1"))
        for case, without in (("dino", "none"), ("both", "text")):
            if self.dino_guidance > 1 and getattr(self, case) and not getattr(self, without):
                raise ValueError(
                    f"conditions.dino_guidance compares {case} with {without}, and conditions.{without} is 0: raise it"
                )
        return self


class TrainConfig(Settings):
    """Everything about a run; only `data.path` and `output.folder` have no default that works."""

    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    data: DataSettings = DataSettings()
    conditions: ConditionSettings = ConditionSettings()
    degradation: DegradationSettings = DegradationSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
    output: OutputSettings = OutputSettings()

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainConfig:
        if self.conditions.from_source and self.data.features:
            raise ValueError(
                "conditions.from_source needs the source that DINO sees, and data.features are of another: set one of them"
            )
        if self.output.judge and not self.output.sample_every:
            raise ValueError(
                "output.judge looks at the sample pictures, and output.sample_every is 0: raise it, or leave the judge out"
            )
        side, most = self.data.tile or max(self.data.size), int(LIMITS["tile"].most)
        if self.output.sample_every and side > most:
            raise ValueError(
                f"output.sample_every draws pictures in tiles of the training's size, at most {most} px, and that is {side} px: "
                f"set data.tile to {most} or less, or output.sample_every to 0"
            )
        precision = PRECISIONS[self.model.dtype]
        if precision and self.optimisation.precision != precision:
            raise ValueError(
                f"model.dtype {self.model.dtype} with optimisation.precision {self.optimisation.precision!r} mixes dtypes: "
                f"set the precision to {precision}"
            )
        if self.model.weights == "fp8" and not (precision and self.model.gradient_checkpointing):
            raise ValueError(
                "model.weights fp8 needs model.dtype bfloat16 or float16, in which FLUX computes, and "
                "model.gradient_checkpointing, without which the wide weights are kept for the backward pass: set both"
            )
        return self


load_config = partial(read_yaml, kind=TrainConfig)  # from a path
config_from = partial(from_mapping, kind=TrainConfig)  # from nested mappings


def keys_page() -> str:
    """docs/training-config.md: all keys, a table for each section."""
    parts = [HEAD]
    for name, section in TrainConfig():
        schema = section.model_json_schema()
        rows = [
            f"| `{key}` | {allowed(of)} | `{json.dumps(of['default'])}` | {of['description']} |\n"
            for key, of in schema["properties"].items()
        ]
        table = "| key | allowed | default | what it is |\n|---|---|---|---|\n"
        parts.append(f"## {name}\n\n{schema['description']}\n\n{table}{''.join(rows)}")
    return "\n".join(parts)
