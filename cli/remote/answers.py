"""What ComfyUI's JSON says, as facts. All of it is data of a stranger: another form is a ValueError, never another error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ...files.errors import plain
from ...files.kinds import SUFFIXES
from .workflow import Workflow, failure, label, left_out, nodes_of

Kind = TypeVar("Kind")
PICTURES = {*SUFFIXES} - {".gif"}  # that hold a single picture, where not said otherwise
LARGEST_COUNT = 1e12  # of a progress bar


class State(Enum):
    """Where a run is while it has not ended."""

    QUEUED = "queued"
    RUNNING = "running"
    LOST = "lost"


@dataclass(frozen=True)
class Output:
    """A file that a node left on the server. ``kept``: it is no single picture, and stays as it is under its own ending."""

    node: str
    title: str
    filename: str
    subfolder: str
    type: str
    animated: bool = False

    @property
    def suffix(self) -> str:
        suffix = PurePosixPath(self.filename).suffix.lower()
        return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ".bin"

    @property
    def kept(self) -> bool:
        return self.animated or self.suffix not in PICTURES

    def __str__(self) -> str:
        return f"{plain(self.title, 60)} #{plain(self.node, 20)}"


@dataclass(frozen=True)
class Ended:
    """A run that is over. ``failure``: why it broke, as one sentence, or empty. ``outputs``: saved files by node id, else
    previews."""

    failure: str
    outputs: list[Output]


def part(value: Any, key: str, kind: type[Kind]) -> Kind:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise ValueError(f"no {key}")
    return found


def uploaded(answer: Any) -> str:
    name, folder = part(answer, "name", str), answer.get("subfolder")
    return f"{folder}/{name}" if folder and isinstance(folder, str) else name


def accepted(answer: Any, workflow: Workflow) -> tuple[str, str]:
    """The run's id, and what of the workflow the server left out."""
    run = part(answer, "prompt_id", str)
    if not re.fullmatch(r"[\w.:-]{1,100}", run, re.ASCII):
        raise ValueError("no prompt_id")
    return run, left_out(answer, workflow)


def standing(answer: Any, run: str) -> State:
    """What /queue says of a run."""
    for key, state in (("queue_running", State.RUNNING), ("queue_pending", State.QUEUED)):
        for entry in part(answer, key, list):
            if isinstance(entry, list) and len(entry) > 1 and entry[1] == run:
                return state
    return State.LOST


def ended(answer: Any, run: str, workflow: Workflow) -> Ended | None:
    """What /history says of a run, or None where it says nothing."""
    if not isinstance(answer, dict):
        raise ValueError("no history")
    if run not in answer:
        return None
    entry = answer[run]
    prompt = entry.get("prompt") if isinstance(entry, dict) else None
    known = nodes_of(prompt[2]) if isinstance(prompt, list) and len(prompt) > 2 else {}
    workflow = workflow or known
    outputs = part(entry, "outputs", dict)
    files = list(_files(outputs, workflow))
    saved = [file for file in files if file.type == "output"]
    asked = prompt[4] if isinstance(prompt, list) and len(prompt) > 4 and isinstance(prompt[4], list) else []
    whole = all(node in outputs for node in asked if isinstance(node, str))
    return Ended(_failure(entry, workflow), saved or (files if whole else []))


def progress_of(data: dict[str, Any], workflow: Workflow) -> Iterator[tuple[str, float, float]]:
    """(node, done, total) of a ``progress_state`` message."""
    states = data.get("nodes")
    for state in states.values() if isinstance(states, dict) else ():
        if not isinstance(state, dict) or state.get("state") not in ("running", "finished"):
            continue
        node = str(state.get("display_node_id") or state.get("node_id"))
        done, total = _count(state.get("value")), _count(state.get("max"))
        if node in workflow and done is not None and total is not None:
            yield f"{label(workflow, node)} #{node}", done, total


def choices(answer: Any, node: str) -> dict[str, list[str]]:
    """What /object_info lists for the inputs of a class of nodes."""
    inputs = (
        answer.get(node, {}).get("input") if isinstance(answer, dict) and isinstance(answer.get(node, {}), dict) else {}
    )
    found = {}
    for group in (inputs.get("required"), inputs.get("optional")) if isinstance(inputs, dict) else ():
        for name, spec in group.items() if isinstance(group, dict) else ():
            values = spec[0] if isinstance(spec, list) and spec else None
            if values == "COMBO" and len(spec) > 1 and isinstance(spec[1], dict):
                values = spec[1].get("options")
            if isinstance(values, list):
                found[name] = [value for value in values if isinstance(value, str)]
    return found


def _files(outputs: dict[str, Any], workflow: Workflow) -> Iterator[Output]:
    """In the order of node ids, each file once."""
    seen = set()
    for node in sorted(outputs, key=_natural):
        shown = outputs[node] if isinstance(outputs[node], dict) else {}
        animated = shown.get("animated")
        animated = isinstance(animated, list) and any(flag is True for flag in animated)
        for key, entries in shown.items():
            for entry in entries if isinstance(entries, list) else ():
                if not isinstance(entry, dict) or entry.get("type") not in ("output", "temp"):
                    continue
                name, folder = entry.get("filename"), entry.get("subfolder", "")
                if (
                    isinstance(name, str)
                    and isinstance(folder, str)
                    and name
                    and (name, folder, entry["type"]) not in seen
                ):
                    seen.add((name, folder, entry["type"]))
                    yield Output(node, label(workflow, node), name, folder, entry["type"], animated or key != "images")


def _failure(entry: Any, workflow: Workflow) -> str:
    status = entry.get("status")
    if not isinstance(status, dict):
        return ""
    messages = status.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, list) and len(message) > 1 and isinstance(message[1], dict):
            if message[0] == "execution_error":
                return failure(message[1], workflow)
            if message[0] == "execution_interrupted":
                return f"the run was interrupted on the server at {label(workflow, str(message[1].get('node_id')))}"
    return (
        "the run failed on the server, which gives no reason: look at its log"
        if status.get("status_str") == "error"
        else ""
    )


def _count(number: Any) -> float | None:
    """A number that a bar can show, which neither NaN nor infinity is."""
    return float(number) if isinstance(number, (int, float)) and 0 <= number <= LARGEST_COUNT else None


def _natural(node: str) -> list[tuple[int, str]]:
    """A key that sorts 9 before 10, and 7:3 before 7:10."""
    return [(len(piece), piece) if piece.isdecimal() else (0, piece) for piece in re.split(r"0*(\d+)", node)]
