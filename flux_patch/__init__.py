"""DINO features inside FLUX's attention."""

from .adapter import MECHANISMS, AdapterConfig, DinoAdapter, spread_sites
from .checkpoint import load_adapter, new_adapter, save_adapter
from .geometry import FluxGeometry, geometry_of
from .rows import DinoRow
from .schedule import PROFILES, Strength

__all__ = [
    "MECHANISMS",
    "PROFILES",
    "AdapterConfig",
    "DinoAdapter",
    "DinoRow",
    "FluxGeometry",
    "Strength",
    "geometry_of",
    "load_adapter",
    "new_adapter",
    "save_adapter",
    "spread_sites",
]
