"""Nested dataclasses from a YAML file: every unknown key is named, and a wrong value is told with what is needed."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
Range = tuple[float, float]


def read_yaml(path: str | Path, kind: type[Config]) -> Config:
    """The dataclass ``kind`` from a YAML file; ValueError in one sentence for what is no file, no YAML or no ``kind``."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}: check the path")
    try:
        text = path.read_text(encoding="utf-8")
        twice = _repeated(yaml.compose(text, Loader=yaml.SafeLoader))
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as YAML ({' '.join(str(error).split())}): correct it") from error
    if twice:
        raise ValueError(f"{path} has {', '.join(twice)} more than once: put what belongs together under one key")
    try:
        return from_mapping(values or {}, kind)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _repeated(node: Any) -> list[str]:
    """Keys that a mapping of the YAML tree has more than once; a loader would keep the last without a word."""
    if not isinstance(getattr(node, "value", None), list):
        return []
    pairs = [pair for pair in node.value if isinstance(pair, tuple)]
    keys = [key.value for key, _ in pairs]
    children = [value for _, value in pairs] or node.value
    inner = [name for child in children for name in _repeated(child)]
    return sorted({str(key) for key in keys if keys.count(key) > 1}) + inner


def from_mapping(values: dict[str, Any], kind: type[Config]) -> Config:
    """The dataclass ``kind`` from nested mappings; what they leave out keeps its default.

    Raises ValueError that names every unknown key or the first wrong value.
    """
    unknown = _unknown(kind, values, "")
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}: correct or remove {'it' if len(unknown) == 1 else 'them'}")
    return _read(kind, values, "")


def _unknown(kind: Any, values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    hints, found = get_type_hints(kind), []
    for key, value in values.items():
        if key not in hints:
            close = get_close_matches(str(key), hints, n=1)
            found.append(f"{prefix}{key}" + (f" (did you mean {close[0]}?)" if close else ""))
        elif is_dataclass(hints[key]):
            found += _unknown(hints[key], value, f"{prefix}{key}.")
    return found


def _read(kind: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'the file'} is {values!r}, needed are keys with values: indent them")
    hints = get_type_hints(kind)
    given = {
        f.name: _value(hints[f.name], values[f.name], f"{prefix}{f.name}") for f in fields(kind) if f.name in values
    }
    return kind(**given)


def _value(kind: Any, value: Any, name: str) -> Any:
    """``value`` as the annotated type: 1 may stand for 1.0, "1e-4" (a string for YAML) for a number, lists are tuples."""
    if is_dataclass(kind):
        return _read(kind, {} if value is None else value, f"{name}.")
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return _value(part, value, name)
            except ValueError:
                continue
    elif origin is Literal:
        if value in parts and type(value) is str:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if parts[-1] is Ellipsis:
                return tuple(_value(parts[0], item, name) for item in value)
            if len(parts) == len(value):
                return tuple(_value(part, item, name) for part, item in zip(parts, value, strict=True))
    elif kind is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                pass
    elif type(value) is kind or (value is None and kind is type(None)):
        return value
    raise ValueError(f"{name} is {value!r}, needed is {_described(kind)}: correct it")


def _described(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(part) for part in parts)
    if origin is tuple:
        many = parts[-1] is Ellipsis
        return f"a list of {'items: ' if many else f'{len(parts)} items: '}{_described(parts[0])}"
    return words[kind]


def check(name: str, value: Any, allowed: bool, needed: str) -> None:
    if not allowed:
        shown = list(value) if isinstance(value, tuple) else repr(value)
        raise ValueError(f"{name} is {shown}, needed is {needed}: correct it")


def check_range(name: str, value: Range, low: float, high: float) -> None:
    check(name, value, low <= value[0] <= value[1] <= high, f"[low, high] with {low:g} <= low <= high <= {high:g}")


@dataclass(frozen=True)
class OptimisationSettings:
    """batch: rows per process and micro-step. learning_rate: the peak after ``warmup`` steps, then a cosine down to a tenth.
    ema: decay of the averaged weights (0: none). clip: largest gradient norm (0: none). sigma: range of noise levels; match
    it to the denoise of upscaling. precision: of the computation around the float32 adapter."""

    steps: int = 10_000
    batch: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-4
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    sigma: Range = (0.0, 1.0)
    sigma_sampling: Literal["uniform", "logit_normal"] = "uniform"
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("accumulation", 1), ("warmup", 0), ("seed", 0)):
            check(f"optimisation.{name}", getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            check(f"optimisation.{name}", value, 0 <= value <= 1, "a number from 0 to 1")
        check("optimisation.clip", self.clip, 0 <= self.clip < math.inf, "a number of at least 0")
        check("optimisation.ema", self.ema, 0 <= self.ema < 1, "a decay from 0 to below 1, usually 0.99 to 0.9999")
        check_range("optimisation.sigma", self.sigma, 0, 1)


@dataclass(frozen=True)
class OutputSettings:
    """folder: for checkpoints, logs and the adapter. keep: checkpoints that stay. The ``_every`` are steps, 0 for never.
    validation_pictures: held out of the training where the data has at least four times as many."""

    folder: str = ""
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    sample_every: int = 0
    validate_every: int = 0
    validation_pictures: int = 4
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, least in (("log_every", 1), ("save_every", 1), ("keep", 1), ("sample_every", 0)):
            check(f"output.{name}", getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        check("output.validate_every", self.validate_every, self.validate_every >= 0, "0 or more")
        check("output.validation_pictures", self.validation_pictures, self.validation_pictures >= 2, "2 or more")
