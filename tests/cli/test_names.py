"""docs/names.md: whatever it says is here is here."""

import inspect
import json
import re
from pathlib import Path

import dinotile
from dinotile.cli.upscale import upscale
from dinotile.demo import ADAPTER
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.flux_patch.families import MECHANISMS
from dinotile.training.adapter.config import TrainConfig

ROOT = Path(__file__).parents[2]


def names() -> set[str]:
    rows = [line.split("|")[2] for line in (ROOT / "docs" / "names.md").read_text().splitlines() if line[:1] == "|"]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def there(name: str) -> bool:
    if name.startswith("dinotile."):
        return hasattr(dinotile, name.removeprefix("dinotile."))
    if name.startswith("DinoTile_"):
        return name in json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text())
    if name.startswith("--"):
        return name[2:].replace("-", "_") in {*inspect.signature(upscale).parameters, "strength"}
    section, dot, key = name.partition(".")
    if dot:
        return key in type(getattr(TrainConfig(), section)).model_fields
    return name in MECHANISMS or hasattr(MODULE, name)


MODULE = load_adapter(ADAPTER).module


def test_every_name_is_there():
    assert len(names()) > 30 and [name for name in sorted(names()) if not there(name)] == []
    assert not any(map(there, ("dinotile.gone", "DinoTile_Gone", "--gone", "data.gone", "gone")))
