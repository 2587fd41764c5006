"""The templates' files, and a graph as the prompt that the page makes of it: subgraphs opened, links led through their ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from .templates import slug

PACK = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
FLUX = [name for name in NAMES if name.startswith(("FLUX.", "Z-Image"))]  # those that need files
NOTES = ("MarkdownNote", "Note")
INPUT, OUTPUT = -10, -20  # the ids of a subgraph's ends


def graph(name: str) -> dict:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


def prompt(name: str) -> dict:
    return json.loads((PACK / "workflows" / "api" / f"{slug(name)}.json").read_text())


def model_files(name: str) -> set[str]:
    """Model files that a workflow loads and the pack does not bring."""
    values = (value for node in prompt(name).values() for value in node["inputs"].values())
    files = {value for value in values if isinstance(value, str) and value.endswith(".safetensors")}
    return {file for file in files if not file.startswith("dinotile-demo")}


def address(name: str, ending: str) -> str:
    """Where the host serves a file of the template."""
    return f"/api/workflow_templates/DINOTile/{quote(name)}.{ending}"


def levels(drawn: dict) -> Iterator[tuple[str, dict]]:
    """The graph itself under "", and each of its subgraphs under the id of the node that stands for it; links as objects."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    yield "", drawn | {"links": [dict(zip(names, link, strict=True)) for link in drawn["links"]]}
    kinds = {inner["id"]: inner for inner in drawn["definitions"]["subgraphs"]}
    for node in drawn["nodes"]:
        if node["type"] in kinds:
            yield str(node["id"]), kinds[node["type"]]


def flat(drawn: dict) -> dict[str, dict]:
    """The nodes that take part in a prompt, by their ids in it, with ``joined``: {input: [id, output]}."""
    inside = dict(levels(drawn))
    top = inside[""]

    def came_from(holder: str, link: dict) -> list:
        origin, slot = link["origin_id"], link["origin_slot"]
        if origin == INPUT:
            (outer,) = [node for node in top["nodes"] if str(node["id"]) == holder]
            return came_from("", by_id(top, outer["inputs"][slot]["link"]))
        if str(origin) in inside:
            inner = inside[str(origin)]
            (link,) = [each for each in inner["links"] if (each["target_id"], each["target_slot"]) == (OUTPUT, slot)]
            return came_from(str(origin), link)
        return [f"{holder}:{origin}" if holder else str(origin), slot]

    found = {}
    for holder, level in inside.items():
        for node in level["nodes"]:
            if node["type"] in NOTES or str(node["id"]) in inside:
                continue
            linked = [slot for slot in node["inputs"] if slot["link"] is not None]
            joined = {
                slot["name"]: came_from(holder, link)
                for slot in linked
                if not ((link := by_id(level, slot["link"]))["origin_id"] == INPUT and "widget" in slot)
            }
            found[f"{holder}:{node['id']}" if holder else str(node["id"])] = node | {"joined": joined}
    return found


def by_id(level: dict, number: int) -> dict:
    (link,) = [link for link in level["links"] if link["id"] == number]
    return link
