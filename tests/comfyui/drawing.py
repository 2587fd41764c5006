"""Draws a template: the graph that ComfyUI's page opens, from the prompt in workflows/api and a ``Drawing`` that says where
its nodes stand.

A prompt's id "41:12" is node 12 inside the subgraph 41, as the page itself flattens subgraphs.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .lanes import around
from .spacing import SIZE, columns_of, height_of, place, view

INPUT, OUTPUT = "-10", "-20"  # the nodes at the two ends of a subgraph
NO_SOCKET = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")
Prompt = Mapping[str, dict]


@dataclass(frozen=True)
class Inner:
    """A subgraph. shown: its widgets by the name that they get outside, each as (node inside, input)."""

    title: str
    shown: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Drawing:
    """columns: (width, top, ids) from left to right, where "1" is the note. heights: of single nodes. seeds: what becomes of
    a seed after a run. models: where files come from, by their names."""

    note: str
    columns: tuple[tuple[int, int, tuple[str, ...]], ...]
    subgraphs: Mapping[str, Inner] = field(default_factory=dict)
    heights: Mapping[str, int] = field(default_factory=dict)
    seeds: str = "randomize"
    models: Mapping[str, dict[str, str]] = field(default_factory=dict)


class Level:
    """Nodes and links of the graph itself, or of one subgraph, whose slots are ``inputs`` and ``outputs``."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}
        self.links: list[dict] = []
        self.inputs: dict[Any, dict] = {}
        self.outputs: dict[Any, dict] = {}

    def join(self, source: tuple[str, int], target: tuple[str, int], kind: str) -> None:
        number = len(self.links) + 1
        (origin, output), (node, slot) = source, target
        ends = {"origin_id": int(origin), "origin_slot": output, "target_id": int(node), "target_slot": slot}
        self.links.append({"id": number, **ends, "type": kind})
        if origin == INPUT:
            [*self.inputs.values()][output]["linkIds"].append(number)
        else:
            out = self.nodes[origin]["outputs"][output]
            out["links"] = [*(out["links"] or []), number]
        if node == OUTPUT:
            [*self.outputs.values()][slot]["linkIds"].append(number)
        else:
            self.nodes[node]["inputs"][slot]["link"] = number


def draw(name: str, prompt: Prompt, drawing: Drawing, info: Mapping[str, dict]) -> dict:
    """The graph in the page's own format. info: the host's /object_info."""
    top, levels = Level(), {key: Level() for key in drawing.subgraphs}
    top.nodes["1"] = note(drawing.note)
    for key, sent in prompt.items():
        outer, inner = split(key)
        (levels[outer] if outer else top).nodes[inner] = node(inner, sent, drawing, info[sent["class_type"]])
    for key, inner in drawing.subgraphs.items():
        top.nodes[key] = instance(name, key, inner)
    joined = [
        ((value[0], value[1]), (key, slot))
        for key, sent in prompt.items()
        for slot, value in sent["inputs"].items()
        if isinstance(value, list)
    ]
    keys = [*prompt]
    for source, target in sorted(joined, key=lambda ends: (split(ends[1][0])[0] != "", keys.index(ends[0][0]))):
        connect(top, levels, source, target)
    for key, inner in drawing.subgraphs.items():
        for shown, (each, slot) in inner.shown.items():
            expose(top.nodes[key], levels[key], shown, each, slot)
    settle(top.nodes, top.links)
    place(top.nodes, drawing.columns, drawing.heights)
    return {
        "id": identity(name),
        "revision": 0,
        "last_node_id": max(map(int, top.nodes)),
        "last_link_id": len(top.links),
        "nodes": [*top.nodes.values()],
        "links": [[*link.values()] for link in top.links],
        "groups": [],
        "definitions": {"subgraphs": [definition(name, key, drawing.subgraphs[key], levels[key]) for key in levels]},
        "config": {},
        "extra": {"ds": view(top.nodes.values())},
        "version": 0.4,
    }


def identity(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "dinotile/" + "/".join(names)))


def split(key: str) -> tuple[str, str]:
    """The subgraph of a prompt's node, empty for none, and its id there."""
    outer, _, inner = key.rpartition(":")
    return outer, inner


def note(text: str) -> dict:
    drawn = empty("1", "MarkdownNote", "Read me", [], [])
    return drawn | {"properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653"}


def empty(key: str, kind: str, title: str, inputs: list[dict], outputs: list[dict]) -> dict:
    place = {"pos": [0, 0], "size": [0, 0], "flags": {}, "order": 0, "mode": 0}
    ends = {"inputs": inputs, "outputs": outputs}
    return {"id": int(key), "type": kind, "title": title, **place, **ends, "properties": {}}


def node(key: str, sent: dict, drawing: Drawing, declared: Mapping) -> dict:
    """A prompt's node with the host's slots, links left open, and values in the order of its widgets."""
    kind, given = sent["class_type"], sent["inputs"]
    inputs, values = [], {}
    for name, options in {**declared["input"]["required"], **declared["input"].get("optional", {})}.items():
        typed, widget = "COMBO" if isinstance(options[0], list) else options[0], is_widget(options)
        more = options[1] if len(options) > 1 else {}
        if more.get("socketless"):
            continue
        inputs.append(slot(name, typed, widget=widget))
        if widget:
            values[name] = (
                given.get(name, more.get("default")) if not isinstance(given.get(name), list) else more["default"]
            )
            if name in SEEDS:
                values["control_after_generate"] = drawing.seeds
            if more.get("image_upload"):
                values["upload"] = "image"
    outputs = [
        {"name": name, "type": typed, "links": None}
        for name, typed in zip(declared["output_name"], declared["output"], strict=True)
    ]
    drawn = empty(key, kind, sent["_meta"]["title"], inputs, outputs)
    drawn["properties"] = {"Node name for S&R": kind}
    files = [drawing.models[value] for value in values.values() if value in drawing.models]
    if files:
        drawn["properties"]["models"] = files
    return drawn | {"widgets_values": [*values.values()], "widgets_values_named": values}


def is_widget(options: list) -> bool:
    return isinstance(options[0], list) or options[0] in NO_SOCKET


def slot(name: str, kind: str, *, widget: bool) -> dict:
    return {"name": name, "type": kind, **({"widget": {"name": name}} if widget else {}), "link": None}


def instance(name: str, key: str, inner: Inner) -> dict:
    return empty(key, identity(name, key), inner.title, [], []) | {"widgets_values": []}


def connect(top: Level, levels: Mapping[str, Level], source: tuple[str, int], target: tuple[str, str]) -> None:
    """Joins an output to an input by its name, through the ends of the subgraphs that they are in."""
    (outer, key), (holder, end) = split(source[0]), split(target[0])
    inside = levels[outer] if outer else top
    offered = inside.nodes[key]["outputs"][source[1]]
    if outer == holder:
        return inside.join((key, source[1]), (end, index(inside.nodes[end], target[1])), offered["type"])
    if outer:
        key, source = outer, (outer, leave(top.nodes[outer], inside, key, source[1], offered))
    kind = offered["type"]
    if not holder:
        return top.join((key, source[1]), (end, index(top.nodes[end], target[1])), kind)
    within, entry = levels[holder], (key, source[1])
    if entry not in within.inputs:
        named = free(kind.removeprefix("DINOTILE_").lower(), within.inputs.values())
        within.inputs[entry] = end_slot(named, kind)
        top.nodes[holder]["inputs"].append(slot(named, kind, widget=False))
        top.join(entry, (holder, len(within.inputs) - 1), kind)
    within.join((INPUT, [*within.inputs].index(entry)), (end, index(within.nodes[end], target[1])), kind)
    return None


def leave(outside: dict, inside: Level, key: str, output: int, offered: dict) -> int:
    """The number of the subgraph's output that has this one."""
    if (key, output) not in inside.outputs:
        named = free(offered["name"].lower(), inside.outputs.values())
        inside.outputs[key, output] = end_slot(named, offered["type"])
        outside["outputs"].append({"name": named, "type": offered["type"], "links": None})
        inside.join((key, output), (OUTPUT, len(inside.outputs) - 1), offered["type"])
    return [*inside.outputs].index((key, output))


def expose(outside: dict, inside: Level, shown: str, key: str, name: str) -> None:
    """Lets a widget be set from outside."""
    there = inside.nodes[key]["inputs"][index(inside.nodes[key], name)]
    inside.inputs[shown] = end_slot(shown, there["type"])
    outside["inputs"].append(slot(shown, there["type"], widget=True))
    outside["widgets_values"].append(inside.nodes[key]["widgets_values_named"][name])
    inside.join((INPUT, len(inside.inputs) - 1), (key, index(inside.nodes[key], name)), there["type"])


def index(drawn: dict, name: str) -> int:
    return [each["name"] for each in drawn["inputs"]].index(name)


def free(name: str, taken: Iterable[dict]) -> str:
    names = {each["name"] for each in taken}
    return next(each for each in (name, *(f"{name}_{count}" for count in range(2, 9))) if each not in names)


def end_slot(name: str, kind: str) -> dict:
    return {"id": "", "name": name, "type": kind, "linkIds": []}


def definition(name: str, key: str, inner: Inner, level: Level) -> dict:
    """A subgraph as the page saves it, its nodes in columns."""
    settle(level.nodes, level.links)
    columns = columns_of(level.nodes, level.links)
    channel = SIZE["wide"] if len(columns) > 1 else SIZE["channel"]
    place(level.nodes, columns, {}, channel=channel)
    right = max(each["pos"][0] + each["size"][0] for each in level.nodes.values())
    ends = {INPUT: (-channel - 160.0, -channel + 0.0), OUTPUT: (right + channel, right + channel + 120)}
    reroutes = around(level.nodes, level.links, ends)
    for slots, side in ((level.inputs, "in"), (level.outputs, "out")):
        for each in slots.values():
            each["id"] = identity(name, key, side, each["name"])
    last = max(map(int, level.nodes))
    return {
        "id": identity(name, key),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": last, "lastLinkId": len(level.links), "lastRerouteId": len(reroutes)},
        "revision": 0,
        "config": {},
        "name": inner.title,
        "inputNode": {"id": int(INPUT), "bounding": [ends[INPUT][0], 0, 160, 40 + 20 * len(level.inputs)]},
        "outputNode": {"id": int(OUTPUT), "bounding": [ends[OUTPUT][0], 0, 120, 40 + 20 * len(level.outputs)]},
        "inputs": [*level.inputs.values()],
        "outputs": [*level.outputs.values()],
        "widgets": [],
        "nodes": [*level.nodes.values()],
        "groups": [],
        "links": level.links,
        "reroutes": reroutes,
        "extra": {},
    }


def settle(nodes: Mapping[str, dict], links: list[dict]) -> None:
    """Sizes by what the nodes show, and the order in which they run."""
    for column, each in enumerate(key for _, _, keys in columns_of(nodes, links) for key in keys):
        nodes[each]["order"] = column
        nodes[each]["size"] = [SIZE["width"], height_of(nodes[each])]
