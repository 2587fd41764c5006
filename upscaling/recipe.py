"""How a result was made, as its file says it, so that the picture can be made again.

A recipe holds what was asked for, the settings that this came to, which tiles were done again, and by which versions and weights.
Of the source it holds the name and a fingerprint, of masks a fingerprint; of folders only what the options name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files.errors import printable
from ..files.fingerprints import file_fingerprint, fingerprint
from ..files.kinds import MEGAPIXELS
from ..files.metadata import RECIPE
from ..files.pictures import load_picture
from ..hosts.memory import each_once, shrank
from .masks import EVERYWHERE, Masks, load_masks
from .prints import BY_TENSORS
from .settings import MASKS, UpscaleSettings

REDONE, SHORT = "redone", "out_of_memory"  # parts of a recipe that few have
BY_TYPE = (*BY_TENSORS, "text")  # whose fingerprints are other ones where they compute in another type
LIBRARIES = ("torch", "diffusers", "transformers")


def source_of(path: Path) -> dict[str, str]:
    """Which picture a recipe is of; read it before the work, as the file may be another one afterwards."""
    return {"file": path.name, "fingerprint": file_fingerprint(path)}


def recipe(
    *,
    source: Mapping[str, str],
    options: Mapping[str, Any],
    settings: UpscaleSettings,
    report: Mapping[str, Any],
    masks: Masks = EVERYWHERE,
    redone: Sequence[int] | None = (),
    short: Sequence[Mapping[str, str]] = (),
) -> str:
    """JSON in ASCII. options: what was given to ``dinotile.upscale``; None is not said. report: of ``Upscaler.upscale``.
    masks: of the options. redone: tiles that were done again, from 0, in that order; None where that is not known. short: where
    memory ended, beside what the report says of that."""
    said: dict[str, Any] = {
        RECIPE: version("dinotile"),
        "source": source,
        "options": {name: _plain(value) for name, value in options.items() if value not in (None, False, "")},
        "settings": asdict(settings),
        "masks": _masks(masks),
        "weights": report["weights"],
        "versions": {**{name: version(name) for name in LIBRARIES}, "computed on": report["computed_on"]},
    }
    if redone is None or redone:
        said[REDONE] = redone and [tile + 1 for tile in redone]
    if ended := [*report.get(SHORT, ()), *short]:
        said[SHORT] = ended
    return json.dumps(said)


def recipe_of(path: Path, *, max_megapixels: float = MEGAPIXELS) -> dict[str, Any]:
    """What a picture file says of how it was made; ValueError where it says nothing that can be followed."""
    text = load_picture(path, max_megapixels=max_megapixels).metadata.recipe
    if not text:
        raise ValueError(
            f"{path} does not say how it was made: give a result of dinotile upscale as it was written, as programs that save it "
            "anew may leave that out"
        )
    try:
        said = json.loads(text)
        parts = [said[name] for name in ("options", "settings", "source", "weights", "versions")]
        name, plain = said["source"]["file"], (bool, int, float, str)
        if (
            all(isinstance(part, dict) for part in parts)
            and isinstance(said[RECIPE], str)
            and isinstance(name, str)
            and Path(name).name
            and all(isinstance(value, plain) for value in said["options"].values())
            and (said.get(REDONE, []) is None or isinstance(said.get(REDONE, []), list))
            and all(type(tile) is int and tile > 0 for tile in said.get(REDONE) or [])
            and isinstance(said.get(SHORT, []), list)
            and all(
                isinstance(shortage, dict)
                and all(isinstance(shortage.get(part), str) for part in ("stage", "goes_on_with"))
                for shortage in said.get(SHORT, [])
            )
            and isinstance(said.get("masks", {}), dict)
        ):
            return said
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path} has a damaged recipe ({printable(text)}): give the file as it was written")


def options_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``dinotile.upscale`` that ask for the same: models and masks as they were given, and all settings as they came
    to be, whatever the defaults are now."""
    settings = set(UpscaleSettings.__dataclass_fields__)
    given = {name: value for name, value in recipe["options"].items() if name not in settings}
    return {**given, **recipe["settings"]}


def redone_of(recipe: Mapping[str, Any], path: Path) -> list[int]:
    """Tiles that were done again after all were there, from 0, in that order. ValueError where that is not known."""
    redone = recipe.get(REDONE, [])
    if redone is None:
        raise ValueError(
            f"tiles of {path} were done again, and of some it is not known after which others, as their store had lost tiles: it "
            "cannot be made again, keep the file"
        )
    return [tile - 1 for tile in redone]


def check_memory(recipe: Mapping[str, Any], path: Path) -> None:
    """ValueError where memory ended in a way that changes what is drawn, at a moment that nothing repeats."""
    for shortage in filter(shrank, recipe.get(SHORT, [])):
        raise ValueError(
            f"memory ended when {path} was made, which went on with {printable(shortage['goes_on_with'])}: it cannot be made "
            "again, keep the file"
        )


def check_masks(recipe: Mapping[str, Any], options: Mapping[str, Any], *, max_megapixels: float = MEGAPIXELS) -> None:
    """ValueError where a mask of the options is another picture than it was, or not there."""
    given = {name: options[name] for name in MASKS if options.get(name)}
    was, now = recipe.get("masks", {}), _masks(load_masks(**given, max_megapixels=max_megapixels))
    for name, mask in given.items():
        if name in was and was[name] != now[name]:
            raise ValueError(f"{name.replace('_', ' ')} {mask} is another picture than it was: put that in its place")


def other_than(recipe: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """What a recipe of the same picture made again says otherwise: versions and weights, of those that it names, as early ones
    name fewer."""
    found, place = [], "computed on"
    unlike = recipe["versions"].get(place) != again["versions"].get(place)
    for part in ("versions", "weights"):
        for name in sorted(recipe[part]):
            was, now = recipe[part][name], again[part].get(name)
            if was != now and not (unlike and part == "weights" and name in BY_TYPE):
                found.append(f"{name} was {_told(was)}, here it is {_told(now)}")
    if recipe[RECIPE] != again[RECIPE]:
        found.append(f"dinotile was {recipe[RECIPE]}, here it is {again[RECIPE]}")
    for shortage in each_once(recipe.get(SHORT, [])):
        found.append(f"memory ended, and it went on with {_told(shortage.get('goes_on_with'))}")
    return found


def _masks(masks: Masks) -> dict[str, str]:
    both = zip(MASKS, (masks.dino, masks.denoise), strict=True)
    return {name: fingerprint(mask.float().cpu().numpy().tobytes()) for name, mask in both if mask is not None}


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _told(value: Any) -> str:
    return "none" if value is None else printable(value if isinstance(value, str) else json.dumps(value))
