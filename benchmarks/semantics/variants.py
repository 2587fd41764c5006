"""What `dinotile train` is told for each adapter of the semantics table."""

from __future__ import annotations

from typing import Any

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.speed import half
from dinotile.training.adapter.config import TrainConfig, config_from

from . import faint, levels, selftaught
from .rows import DEFAULT, FAINT, FORMS, FROM_SOURCE, LEVELS, SELFTAUGHT, trained
from .runs import FROM_SOURCE_ADAPTER, WORK

PICTURES = 240
STEPS = 700
BEGINNING: dict[str, Any] = {"from_source": 0.6, "start": (0.3, 0.9)}  # rows that begin as an upscaler does
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {"conditions": {"dino_guidance": 2.0}},
    "guided": {"conditions": {"dino_guidance": 2.0}},
    "plain": {},
    "context": {"adapter": {"mechanisms": ["context"], "double_sites": [], "single_sites": []}},
    "vector": {"adapter": {"mechanisms": ["vector"], "double_sites": [], "single_sites": []}},
    "all": {"adapter": {"mechanisms": ["cross_attention", "context", "vector"]}},
    "all-blocks": {"adapter": {"single_sites": list(range(6))}},
    "single-blocks": {"adapter": {"double_sites": [], "single_sites": list(range(6))}},
    "grid-4": {"adapter": {"grid": 4}},
    "grid-16": {"adapter": {"grid": 16}},
    "no-positions": {"adapter": {"positions": False}},
    "flat": {"adapter": {"shared_tokens": str(demo.FLAT)}},
    "context-8": {"adapter": {"mechanisms": ["context"], "context_grid": 8, "double_sites": [], "single_sites": []}},
    "all-tokens": {  # 709 with T5's
        "adapter": {"mechanisms": ["context"], "grid": 14, "context_grid": 14, "double_sites": [], "single_sites": []}
    },
    "shares": {"conditions": {"none": 0.1, "text": 0.3, "dino": 0.05, "both": 0.55}},  # of the source documents
    "longer": {
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "conditions": {"dino_guidance": 2.0},
    },  # beside FROM_SOURCE
    FROM_SOURCE: {
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{FROM_SOURCE}")},
        "conditions": {"dino_guidance": 2.0, **BEGINNING},
    },
    "layer-1": {"model": {"layers": "1"}},
    "layer-2": {"model": {"layers": "2"}},
    "layer-4": {"model": {"layers": "4"}},
    SELFTAUGHT: {
        "model": {"dino": str(selftaught.FILE), "layers": "last"},
        "conditions": {"dino_guidance": 2.0},
    },
    LEVELS: {
        "model": {"dino": str(levels.ENCODER)},
        "adapter": {"warm_start": str(FROM_SOURCE_ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{LEVELS}")},
        "conditions": {"dino_guidance": 2.0, **BEGINNING},
    },
    FAINT: {
        "model": {"model_path": str(faint.FLUX), "vae_path": str(demo.VAE), "dino": str(demo.DINO)},
        "adapter": {"warm_start": str(demo.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{FAINT}")},
        "conditions": {"dino_guidance": 2.0},
    },
    FORMS: {
        "model": {"dino": str(WORK / f"{FORMS}.safetensors"), "layers": "last"},
        "adapter": {"warm_start": str(selftaught.ADAPTER)},
        "data": {"path": str(WORK / f"pictures-{FORMS}")},
        "conditions": {"dino_guidance": 2.0},
    },
}
LONG = (DEFAULT, SELFTAUGHT)  # variants that learn for twice as many steps


def recipe(name: str, *, steps: int, seed: int) -> TrainConfig:
    """What `dinotile train` is told for a variant. Those of LONG learn for twice ``steps``."""
    steps *= 2 if name in LONG else 1
    values: dict[str, Any] = {
        "model": {"variant": "demo", "layers": "2/3"},
        "adapter": {"width": 64, "grid": 8, "context_grid": 2, "double_sites": [0, 1, 2], "single_sites": []},
        "data": {
            "path": str(WORK / "pictures"),
            "picture": world.SIDE,
            "tile": 128,
            "cache": PICTURES,
            "windows": 4,
            "flip": False,  # a mirror makes rain of grass
        },
        "conditions": {"none": 0.1, "text": 0.1, "dino": 0.7, "both": 0.1, "weak": 0.0},
        "optimisation": {
            "steps": steps,
            "batch": 32,
            "learning_rate": 3e-3,
            "warmup": 30,
            "ema": 0.99,
            "seed": seed,
            "precision": "bf16" if half() else "no",
        },
        "output": {"folder": str(WORK / "runs" / trained(name, seed)), "save_every": steps, "tensorboard": False},
    }
    for section, changes in VARIANTS[name].items():
        values[section].update(changes)
    return config_from(values)
