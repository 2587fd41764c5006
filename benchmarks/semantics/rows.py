"""The rows of the semantics table, and which of them are compared picture by picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinotile.demo.train import world
from dinotile.upscaling.settings import UpscaleSettings

SETTINGS = UpscaleSettings(
    scale=world.FACTOR,
    denoise=0.9,
    steps=24,
    tile=128,
    overlap=32,
    tile_fit="exact",
    dino_strength=1.0,
    fidelity=0.0,
)
DEFAULT = "cross_attention"  # the variant that is shipped
SELFTAUGHT = "selftaught"  # the variant whose encoder learned without labels, which is shipped beside it
FROM_SOURCE = "from-source"  # the variant that goes on from the shipped one with rows that begin at the source
LEVELS = "levels"  # whose encoder, ControlNet and adapter learned on sources of every level; the adapter goes on from that one
FAINT = "faint"  # the variant beside a FLUX that learned faint textures
FORMS = "forms"  # the variant whose encoder and adapter saw shapes in many forms
ALONE = (FORMS, FROM_SOURCE, FAINT, LEVELS)  # parts of train.py of their own
NETS = {  # that are not shipped, in the folder that train.py makes
    "levels": f"{LEVELS}/controlnet.safetensors",
    FROM_SOURCE: f"{FROM_SOURCE}/controlnet.safetensors",
    "reference": "reference/diffusion_pytorch_model.safetensors",
}
SHIPPED = ("", "demo", "untrained", SELFTAUGHT, FROM_SOURCE)


def trained(variant: str, seed: int) -> str:
    """What an adapter is called that was trained with a seed."""
    return f"{variant}-seed-{seed}" if seed else variant


@dataclass(frozen=True)
class Row:
    """adapter: a file in the folder of adapters that train.py makes, "demo" or "selftaught" for shipped ones, "untrained", or
    empty. features: of which picture, or how taken. tile, overlap: px. controlnet: its strength. told: what FLUX hears in
    words: nothing, what is in the whole picture, or in each tile. anchor: of ``UpscaleSettings``. reads: nothing is drawn, the
    reader names the textures of its tiles. net: which ControlNet, the tile one, that of knowing.py, that of levels.py, one
    whose rows began at the source too, or reference latents in its place."""

    name: str
    adapter: str = "demo"
    strength: float = 1.0
    guidance: float = 1.0
    features: Literal["own", "other", "exchanged", "dropped", "per tile", "both", "read"] = "own"
    tile: int = SETTINGS.tile
    overlap: int = SETTINGS.overlap
    controlnet: float = 0.0
    told: Literal["nothing", "picture", "tile"] = "nothing"
    anchor: float = 0.0
    reads: bool = False
    net: Literal["controlnet", "knowing", "levels", "from-source", "reference"] = "controlnet"

    @property
    def shipped(self) -> bool:
        return self.adapter in SHIPPED and self.net not in NETS

    def missing(self, work: Path) -> str:
        """The part of train.py that makes what the row needs and the folder ``work`` lacks, empty: it has all."""
        if self.net in NETS and not (work / NETS[self.net]).exists():
            return self.net
        if self.adapter not in SHIPPED and not (work / "adapters" / f"{self.adapter}.safetensors").exists():
            variant, _, seed = self.adapter.partition("-seed-")
            if variant in ALONE:
                return variant
            return f"adapters --variants {variant}" + (f" --seed {seed}" if seed else "")
        return ""


ROWS = (
    Row("no DINO", adapter=""),
    Row("untrained adapter", adapter="untrained"),
    Row("DINO: cross_attention, the shipped adapter"),
    Row("features of another picture", features="other"),
    Row("features of the same places, objects exchanged", features="exchanged"),
    Row("features dropped: the learned null", features="dropped"),
    Row("strength 0", strength=0.0),
    Row("strength 0.25", strength=0.25),
    Row("strength 0.5", strength=0.5),
    Row("strength 1.5", strength=1.5),
    Row("guidance 2 learned, 1.5 while sampling", guidance=1.5),
    Row("features extracted per tile, not cropped", features="per tile"),
    Row("both: tokens averaged", features="both"),
    Row("no DINO, untiled", adapter="", tile=world.SIDE),
    Row("DINO, untiled", tile=world.SIDE),
    Row("no DINO, the picture's caption", adapter="", told="picture"),
    Row("no DINO, each tile's own caption", adapter="", told="tile"),
    Row("anchor, no DINO", adapter="", anchor=1.0),
    Row("anchor, DINO", anchor=1.0),
    Row("ControlNet, no DINO", adapter="", controlnet=1.0),
    Row("ControlNet, DINO", controlnet=1.0),
    Row("ControlNet, the picture's caption", adapter="", controlnet=1.0, told="picture"),
    Row("ControlNet, each tile's own caption", adapter="", controlnet=1.0, told="tile"),
    Row("ControlNet, features of another picture", controlnet=1.0, features="other"),
    Row("ControlNet, objects exchanged", controlnet=1.0, features="exchanged"),
    Row("ControlNet, features dropped", controlnet=1.0, features="dropped"),
    Row("ControlNet, no DINO, untiled", adapter="", controlnet=1.0, tile=world.SIDE),
    Row("ControlNet, DINO, untiled", controlnet=1.0, tile=world.SIDE),
    Row("reader of one flat tile", adapter="", reads=True),
    Row("reader of the whole flat picture", adapter="", reads=True, tile=world.SIDE),
    Row("ControlNet, reader of its tile", controlnet=1.0, features="read"),
    Row("ControlNet, reader of its tile, untiled", controlnet=1.0, features="read", tile=world.SIDE),
    Row("ControlNet, reader of its tile, tiles of 64", controlnet=1.0, features="read", tile=64),
    Row("ControlNet, no DINO, tiles of 64", adapter="", controlnet=1.0, tile=64),
    Row("ControlNet, DINO, tiles of 64", controlnet=1.0, tile=64),
    Row("ControlNet, reader of its tile, tiles of 48", controlnet=1.0, features="read", tile=48, overlap=16),
    Row("ControlNet, no DINO, tiles of 48", adapter="", controlnet=1.0, tile=48, overlap=16),
    Row("ControlNet, DINO, tiles of 48", controlnet=1.0, tile=48, overlap=16),
    Row("ControlNet that could know, no DINO", adapter="", controlnet=1.0, net="knowing"),
    Row("ControlNet that could know, no DINO, tiles of 64", adapter="", controlnet=1.0, net="knowing", tile=64),
    Row("ControlNet that could know, no DINO, untiled", adapter="", controlnet=1.0, net="knowing", tile=world.SIDE),
    Row("ControlNet that could know, DINO", controlnet=1.0, net="knowing"),
    Row("ControlNet that could know, DINO, tiles of 64", controlnet=1.0, net="knowing", tile=64),
    Row("encoder without labels, DINO", adapter=SELFTAUGHT),
    Row("encoder without labels, objects exchanged", adapter=SELFTAUGHT, features="exchanged"),
    Row("encoder without labels, ControlNet, DINO", adapter=SELFTAUGHT, controlnet=1.0),
    Row(
        "encoder without labels, ControlNet, objects exchanged",
        adapter=SELFTAUGHT,
        controlnet=1.0,
        features="exchanged",
    ),
    Row("second training, ControlNet, DINO", adapter=trained(DEFAULT, 1), controlnet=1.0),
    Row("second training, encoder without labels, ControlNet, DINO", adapter=trained(SELFTAUGHT, 1), controlnet=1.0),
    Row("encoder without labels that saw many forms, ControlNet, DINO", adapter=FORMS, controlnet=1.0),
    Row("learned on all levels, ControlNet, no DINO", adapter="", controlnet=1.0, net=LEVELS),
    Row("learned on all levels, ControlNet, DINO", adapter=LEVELS, controlnet=1.0, net=LEVELS),
    Row(
        "learned on all levels, ControlNet, each tile's own caption",
        adapter="",
        controlnet=1.0,
        net=LEVELS,
        told="tile",
    ),
    Row("learned on all levels, features dropped", adapter=LEVELS, features="dropped"),
    Row("learned on all levels, DINO", adapter=LEVELS),
    Row(
        "learned on all levels, features dropped, each tile's own caption",
        adapter=LEVELS,
        features="dropped",
        told="tile",
    ),
    Row("reference latents, no DINO", adapter="", controlnet=1.0, net="reference"),
    Row("reference latents, each tile's own caption", adapter="", controlnet=1.0, net="reference", told="tile"),
    Row("reference latents, DINO", controlnet=1.0, net="reference"),
    Row("from the source, features dropped", adapter=FROM_SOURCE, features="dropped"),
    Row("from the source, DINO", adapter=FROM_SOURCE),
    Row(
        "from the source, features dropped, each tile's own caption",
        adapter=FROM_SOURCE,
        features="dropped",
        told="tile",
    ),
    Row("ControlNet from the source, no DINO", adapter="", controlnet=1.0, net=FROM_SOURCE),
    Row(
        "ControlNet from the source, each tile's own caption", adapter="", controlnet=1.0, net=FROM_SOURCE, told="tile"
    ),
    Row("ControlNet from the source, DINO from the source", adapter=FROM_SOURCE, controlnet=1.0, net=FROM_SOURCE),
    Row("from the source, objects exchanged", adapter=FROM_SOURCE, features="exchanged"),
    Row("as many steps more without rows from the source, DINO", adapter="longer"),
    Row("plain, ControlNet, DINO", adapter="plain", controlnet=1.0),
    Row("context, ControlNet, DINO", adapter="context", controlnet=1.0),
    Row("context of 65 tokens, ControlNet, DINO", adapter="context-8", controlnet=1.0),
    Row("context of all tokens, ControlNet, DINO", adapter="all-tokens", controlnet=1.0),
    Row("shares of the source documents, ControlNet, DINO", adapter="shares", controlnet=1.0),
    Row("guidance 2 learned, 700 steps (shipped: 1400)", adapter="guided"),
    Row("plain: no guidance learned, 700 steps", adapter="plain"),
    Row("plain, DINO guidance 2 while sampling", adapter="plain", guidance=2.0),
    Row("plain, DINO guidance 2 while sampling, untiled", adapter="plain", guidance=2.0, tile=world.SIDE),
    Row("plain, context", adapter="context"),
    Row("plain, vector", adapter="vector"),
    Row("plain, all three", adapter="all"),
    Row("plain, sites: all blocks (else: double blocks)", adapter="all-blocks"),
    Row("plain, sites: single blocks", adapter="single-blocks"),
    Row("plain, grid 4 (else: 8)", adapter="grid-4"),
    Row("plain, grid 16", adapter="grid-16"),
    Row("plain, no positions on DINO's keys", adapter="no-positions"),
    Row("plain, FlatDINO's tokens of the whole picture beside", adapter="flat"),
    Row("plain, layer 1 of 4 (else: 3)", adapter="layer-1"),
    Row("plain, layer 2", adapter="layer-2"),
    Row("plain, layer 4", adapter="layer-4"),
)

# Rows whose pictures are compared one by one
PAIRS = (
    ("ControlNet, DINO", "ControlNet, no DINO"),
    ("ControlNet, DINO", "ControlNet, each tile's own caption"),
    ("encoder without labels, ControlNet, DINO", "ControlNet, no DINO"),
    ("encoder without labels, ControlNet, DINO", "ControlNet, each tile's own caption"),
    ("encoder without labels, ControlNet, DINO", "ControlNet, DINO"),
    ("second training, ControlNet, DINO", "ControlNet, no DINO"),
    ("second training, encoder without labels, ControlNet, DINO", "ControlNet, no DINO"),
    ("second training, encoder without labels, ControlNet, DINO", "ControlNet, each tile's own caption"),
    ("second training, encoder without labels, ControlNet, DINO", "second training, ControlNet, DINO"),
    ("ControlNet, reader of its tile, untiled", "ControlNet, reader of its tile"),
    ("ControlNet, reader of its tile, untiled", "ControlNet, reader of its tile, tiles of 64"),
    ("ControlNet, DINO, tiles of 64", "ControlNet, reader of its tile, tiles of 64"),
    ("ControlNet, DINO, tiles of 64", "ControlNet, no DINO, tiles of 64"),
    ("ControlNet, DINO, tiles of 48", "ControlNet, reader of its tile, tiles of 48"),
    ("ControlNet, DINO, tiles of 48", "ControlNet, no DINO, tiles of 48"),
    ("ControlNet that could know, no DINO, untiled", "ControlNet that could know, no DINO"),
    ("ControlNet that could know, no DINO, untiled", "ControlNet that could know, no DINO, tiles of 64"),
    ("ControlNet that could know, DINO", "ControlNet that could know, no DINO"),
    ("ControlNet that could know, DINO, tiles of 64", "ControlNet that could know, no DINO, tiles of 64"),
    ("ControlNet that could know, DINO, tiles of 64", "ControlNet that could know, no DINO, untiled"),
    ("from the source, DINO", "no DINO"),
    ("from the source, DINO", "from the source, features dropped"),
    ("from the source, DINO", "ControlNet from the source, no DINO"),
    ("from the source, DINO", "ControlNet from the source, each tile's own caption"),
    ("from the source, DINO", "as many steps more without rows from the source, DINO"),
    ("shares of the source documents, ControlNet, DINO", "plain, ControlNet, DINO"),
    ("context of 65 tokens, ControlNet, DINO", "context, ControlNet, DINO"),
    ("context of all tokens, ControlNet, DINO", "context, ControlNet, DINO"),
    ("context of all tokens, ControlNet, DINO", "plain, ControlNet, DINO"),
    ("context of all tokens, ControlNet, DINO", "ControlNet, no DINO"),
    ("plain, ControlNet, DINO", "ControlNet, no DINO"),
    ("reference latents, DINO", "reference latents, no DINO"),
    ("reference latents, DINO", "reference latents, each tile's own caption"),
    ("reference latents, no DINO", "ControlNet, no DINO"),
    ("learned on all levels, DINO", "learned on all levels, features dropped"),
    ("learned on all levels, ControlNet, DINO", "learned on all levels, ControlNet, no DINO"),
    ("encoder without labels, DINO", "no DINO"),
    ("DINO: cross_attention, the shipped adapter", "no DINO"),
)
