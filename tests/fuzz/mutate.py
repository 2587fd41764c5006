"""Seeded damage: to bytes, to JSON values, to the headers of safetensors files and to lines of text."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from random import Random
from typing import Any

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    64,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
]
NUMBERS += [10**400, 1.5, -0.0, 1e308, float("nan"), float("inf")]
VALUES = [
    *NUMBERS,
    True,
    False,
    None,
    "",
    "x",
    "1",
    "../x",
    "\0",
    "\x1b[2J",
    "\ud800",
    "a" * 3000,
    [],
    {},
    [1],
    {"a": 1},
    [[[]]],
]
DEEP = "[" * 5000


def damaged(content: bytes, rng: Random, *, head: int = 512) -> bytes:
    """Cut, turned, repeated, emptied or filled somewhere, mostly in the first ``head`` bytes."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(min(head, len(out)) if rng.random() < 0.7 else len(out)) if out else 0
        length = rng.choice((1, 2, 4, 8, 40))
        kind = rng.randrange(6)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            out[at : at + length] = bytes([rng.choice((0, 255, 127, 128))]) * length
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length * 10]
        else:
            out[at:at] = rng.randbytes(length)
    return bytes(out)


def changed(value: Any, rng: Random, *, values: list[Any] = VALUES) -> Any:
    """A JSON value with one to three places replaced, removed, renamed or exchanged."""
    value = deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return rng.choice(values)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 5:
            holder[key] = deepcopy(rng.choice(values))
        elif kind == 5:
            del holder[key]
        elif kind == 6 and isinstance(holder, dict):
            holder[rng.choice(("", "x", "0", "\ud800", "__metadata__", f"{key}x"))] = holder.pop(key)
        else:
            other, name = rng.choice(places)
            holder[key] = deepcopy(other[name])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (mapping or list, key) within a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def as_json(value: Any, rng: Random) -> bytes:
    """The text of a changed value, now and then damaged further."""
    text = json.dumps(changed(value, rng))
    if rng.random() < 0.05:
        text = text.replace("1", rng.choice((DEEP, "9" * 5000, "1e999", "-", "NaN")), 1)
    content = text.encode("utf-8", "surrogatepass")
    return damaged(content, rng, head=len(content)) if rng.random() < 0.2 else content


def as_safetensors(content: bytes, rng: Random) -> bytes:
    """A safetensors file with another header, in which a JSON text of metadata (``config``) is changed as a value."""
    (length,) = struct.unpack("<Q", content[:8])
    if rng.random() < 0.3:
        return damaged(content, rng, head=8 + length)
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.get("__metadata__", {})
    if "config" in metadata and rng.random() < 0.6:
        metadata["config"] = as_json(json.loads(metadata["config"]), rng).decode("utf-8", "replace")
    elif rng.random() < 0.5:
        _retyped(header[rng.choice([name for name in header if name != "__metadata__"])], rng)
    else:
        header = changed(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = rng.choice((len(text), len(text), len(text), rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1))))
    return struct.pack("<Q", length) + text + body


def _retyped(tensor: dict[str, Any], rng: Random) -> None:
    """As many bytes as before, of another kind or shape."""
    shape = tensor["shape"]
    kinds = {"F32": ("I32", "U32", "F32"), "F16": ("I16", "BF16"), "BF16": ("F16", "U16")}
    if rng.random() < 0.5:
        tensor["dtype"] = rng.choice(kinds.get(tensor["dtype"], (tensor["dtype"],)))
    else:
        tensor["shape"] = rng.choice((shape[::-1], [1, *shape], [*shape, 1], [1, 1, 1, *shape], [sum(shape)], []))


YAML = [
    "&a ",
    "*a",
    "&a [*a]",
    "<<: *a",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!timestamp 2026-13-01",
    "!!binary '@'",
    "!x y",
]
YAML += [
    "!!set {a}",
    "!!omap [a]",
    "!!python/name:os.system ",
    "2026-13-01",
    "190:20:30",
    "0b1",
    ".inf",
    ".nan",
    "1e999",
    "~",
]
YAML += [
    "9" * 400,
    "9" * 5000,
    "[" * 30,
    "{a: " * 25,
    "- " * 500,
    "? " * 400,
    '"\\ud800"',
    '"\\UFFFFFFFF"',
    '"\\0"',
    "|99\n",
]
YAML += [
    "%YAML 9.9\n---\n",
    "---\n",
    "...\n",
    "\t",
    "\0",
    "\x85",
    "{",
    "]",
    ": ",
    "#",
    "@",
    "'",
    '"',
    "? [a]\n: b\n",
    "a:" * 300,
]


def as_yaml(text: str, rng: Random) -> bytes:
    """A YAML text with one to three pieces put in, exchanged, removed or repeated."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 0, 1, 5, 20)))
        piece = rng.choice(YAML) if rng.random() < 0.7 else text[rng.randrange(len(text) + 1) :][:60]
        text = text[:at] + piece + text[end:]
    return text.encode("utf-8", "surrogatepass")
