"""The law of the house, as functions that read a source tree and tell what breaks it. CONTRIBUTING.md shows the same map."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FLOORS = (  # (floor, rooms) from the ground up: a room imports lower lines only, never one of its own line
    (1, ("files", "demo")),
    (2, ("dino", "tiling")),
    (2, ("dino/guidance", "dino/compress")),
    (3, ("flux_patch",)),
    (4, ("hosts",)),
    (4, ("hosts/comfy", "hosts/diffusers")),
    (5, ("upscaling",)),
    (5, ("training", "training/core")),
    (5, ("training/data",)),
    (5, ("training/adapter", "training/redux", "training/flatdino")),
    (6, ("cli/remote",)),
    (6, ("cli", "nodes", "demo/train")),
    (7, ("benchmarks", "benchmarks/semantics", "benchmarks/comfy", "benchmarks/gpu", "benchmarks/tiling")),
    (7, ("benchmarks/guidance",)),
    (7, ("benchmarks/photos",)),
)
LEVEL = {room: level for level, (_, line) in enumerate(FLOORS) for room in line}
ONLY = {
    "hosts/comfy": {"nodes"},
    "cli/remote": {"cli"},
    "demo/train": {"benchmarks", "benchmarks/semantics", "benchmarks/guidance"},
}
INSIDE = {"benchmarks/comfy"}  # measures in a ComfyUI's own process, where nobody else sees time and memory
SCRIPTS = {
    "demo/train",
    "benchmarks",
    "benchmarks/semantics",
    "benchmarks/gpu",
    "benchmarks/tiling",
    "benchmarks/guidance",
    "benchmarks/photos",
    *INSIDE,
}  # run from a clone, and not in the wheel
NO_ROOMS = {"tests", "build", "web", "workflows", "docs"}

COMFY = {"folder_paths", "execution", "server", "node_helpers", "latent_preview", "nodes"}  # beside comfy*
LAZY = {
    *("transformers", "diffusers", "accelerate", "huggingface_hub", "webdataset", "tensorboard", "wandb", "spandrel"),
    *("vector_quantize_pytorch", "sklearn", "torchmetrics", "ray"),
}

SIZED = {
    "hosts",
    "upscaling",
    "training",
    "flux_patch",
    "tiling",
    "cli",
    "nodes",
}  # where a family's sizes could be written
FAMILIES = "flux_patch/families.py"
SIZES = {8, 16, 64}  # px per latent cell, latent channels or px per token, channels per token
SIZE_WORDS = {"grid", "cell", "patch", "p", "q", "divisor", "multiple_of"}
NO_SIZES: dict[tuple[str, str], str] = {}  # (file, expression): why it is no size of latents, patches or tokens


def violations(root: Path, *, no_sizes: dict[tuple[str, str], str] = NO_SIZES) -> list[str]:
    """``file:line: what is wrong`` of every production source below ``root``."""
    found, edges, excused = [], set(), set()
    for path in sources(root):
        room, name = path.parent.relative_to(root).as_posix(), path.relative_to(root).as_posix()
        text = path.read_bytes()
        if not text.isascii():
            found.append(f"{name}:1: holds characters beyond ASCII")
        tree = ast.parse(text)
        if room == ".":
            continue  # the roof: a test imports it and sees that it loads nothing
        if room not in LEVEL:
            found.append(f"{name}:1: {room} has no floor: give it one in tests/house.py and CONTRIBUTING.md")
            continue
        for line, wrong, target in _imports(tree, room, root):
            if wrong:
                found.append(f"{name}:{line}: {wrong}")
            if target:
                edges.add((room, target))
        for line, expression in _sizes(tree) if room.split("/")[0] in SIZED and name != FAMILIES else ():
            if (name, expression) in no_sizes:
                excused.add((name, expression))
            else:
                found.append(f"{name}:{line}: {expression} is a bare size: take it from the family's row in {FAMILIES}")
    found += [f"{name}:1: {expression} is excused, but not there" for name, expression in no_sizes.keys() - excused]
    return found + [f"circle of folders: {' > '.join(circle)}" for circle in _circles(edges)]


def sources(root: Path) -> list[Path]:
    """All .py files of the rooms and of the roof."""
    rooms = [place for place in root.iterdir() if place.is_dir() and place.name not in NO_ROOMS]
    rooms = [place for place in rooms if not place.name.startswith(".") and not place.name.endswith(".egg-info")]
    return sorted([*root.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))])


def _imports(tree: ast.Module, room: str, root: Path) -> Iterator[tuple[int, str, str]]:
    """(line, what is wrong or nothing, the room that is imported) of each import."""
    at_once = set(_at_import(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [(0, alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = node.module.split(".") if node.module else []
            modules = [(node.level, [*start, alias.name]) for alias in node.names]
        else:
            continue
        for level, parts in modules:
            if level == 0 and parts[0] not in {"dinotile", "benchmarks"}:
                wrong = _foreign(parts, room, at_import=node in at_once)
                if wrong:
                    yield node.lineno, wrong, ""
            elif level == 0 and room not in SCRIPTS:
                yield node.lineno, f"imports {'.'.join(parts)} by its whole name: imports in the pack are relative", ""
            else:
                here = room.split("/")
                if level > len(here) + 1:
                    yield node.lineno, "imports from above the pack", ""
                    continue
                inside = here[: len(here) + 1 - level] + parts if level else parts[parts[0] == "dinotile" :]
                target = _room(inside, root)
                if target != room:
                    wrong = _upward(room, target)
                    if room == "nodes" and target.split("/")[0] == "training" and node in at_once:
                        wrong = f"imports {target} at once: only nodes that train import it, where they do"
                    yield node.lineno, wrong, target


def _foreign(parts: list[str], room: str, *, at_import: bool) -> str:
    first = parts[0]
    if first.startswith("comfy") or first in COMFY:
        allowed = room in {"hosts/comfy", *INSIDE} or (room == "nodes" and parts[:2] == ["comfy_api", "latest"])
        return "" if allowed else f"imports {first}: only hosts/comfy does, and nodes only comfy_api.latest"
    if first in LAZY and at_import and room not in SCRIPTS:
        return f"imports {first} at once: import it where a model is built"
    return ""


def _upward(room: str, target: str) -> str:
    if target == "":
        return "imports the roof"
    if target not in LEVEL:
        return f"imports {target}, which has no floor"
    if LEVEL[target] >= LEVEL[room] and not target.split("/")[0] == room.split("/")[0] == "benchmarks":
        return f"imports {target}, which is not below {room}"
    if room not in ONLY.get(target, {room}) | INSIDE:
        return f"imports {target}, which is there for {', '.join(sorted(ONLY[target]))}"
    return ""


def _room(parts: list[str], root: Path) -> str:
    """The folder that holds what is imported, "" for the roof."""
    folder: list[str] = []
    for part in parts:
        if not root.joinpath(*folder, part).is_dir():
            break
        folder.append(part)
    return "/".join(folder)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: all but functions and what type checkers alone read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from _at_import(child)


def _sizes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, expression) of numbers that look like a size of latents, patches or tokens."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)):
            for number, other in ((node.left, node.right), (node.right, node.left)):
                halved = _is(number, {2}) and not isinstance(node.op, ast.Div) and "latent" in ast.unparse(other)
                if _is(number, SIZES) or halved:
                    yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in SIZE_WORDS and _is(keyword.value, SIZES | ({2} if keyword.arg in "pq" else set())):
                    yield keyword.value.lineno, f"{keyword.arg}={ast.unparse(keyword.value)}"


def _is(node: ast.AST, numbers: set[int]) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value in numbers


def _circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Folders that come back to themselves along imports; one circle each."""
    found: list[list[str]] = []

    def walk(way: list[str]) -> None:
        for target in sorted(target for source, target in edges if source == way[-1]):
            if target == way[0]:
                found.append([*way, target])
            elif target > way[0] and target not in way:  # each circle from its first folder only
                walk([*way, target])

    for room in sorted({source for source, _ in edges}):
        walk([room])
    return found
