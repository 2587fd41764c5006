"""The pack's nodes for ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..hosts.comfy.folders import register_folders
from ..hosts.comfy.mistakes import quieten_mistakes
from ..hosts.comfy.told import check_alone, register_version
from .adapter import EmptyConditioning, LoadAdapter, NewAdapter, PatchFlux, ProjectConditioning, SaveAdapter
from .compress import CompressFeatures, LoadFlatDino, RestoreFeatures
from .dino import DinoFromClipVision, ExtractPatches, LoadDino, PreviewPatches
from .guidance import DinoGuidance, SourceAnchor
from .meters import DinoFidelity, SeamScore
from .redux import FitProjection, ReduxForTiles
from .regions import DetailMask, FindRegions, PromptByRegion
from .sequential import SequentialUpscale
from .tiles import MergeByPlan, NoiseByPlace, PlanTiles, PreviewTiles, SplitByPlan, TiledSampler, TileModel
from .training import TrainAdapter
from .upscale import Upscale

NODES: list[type[io.ComfyNode]] = [
    Upscale,
    SequentialUpscale,
    LoadDino,
    DinoFromClipVision,
    ExtractPatches,
    PreviewPatches,
    DetailMask,
    FindRegions,
    PromptByRegion,
    LoadAdapter,
    NewAdapter,
    SaveAdapter,
    ProjectConditioning,
    PatchFlux,
    EmptyConditioning,
    ReduxForTiles,
    PlanTiles,
    PreviewTiles,
    TileModel,
    TiledSampler,
    SplitByPlan,
    MergeByPlan,
    DinoFidelity,
    SeamScore,
    TrainAdapter,
    FitProjection,
    SourceAnchor,
    DinoGuidance,
    LoadFlatDino,
    CompressFeatures,
    RestoreFeatures,
    NoiseByPlace,
]


class DinoTileExtension(ComfyExtension):
    async def on_load(self) -> None:
        check_alone()
        register_folders()
        register_version()
        quieten_mistakes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
