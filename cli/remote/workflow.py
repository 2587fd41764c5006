"""ComfyUI workflows in API format: read, point at a picture, change inputs, and put the server's complaints in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

Workflow = dict[str, dict[str, Any]]
UPLOAD = "@"  # as a value of --set: the uploaded picture


def read_workflow(path: Path) -> Workflow:
    """The nodes of an API-format file by id. Raises ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"workflow {path} cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:  # also of the decoder
        raise ValueError(f"workflow {path} is not JSON ({error}): export it from ComfyUI again") from error
    if isinstance(content, dict) and "nodes" in content and "links" in content:
        raise ValueError(
            f"workflow {path} is a graph of the browser: export it as API (File > Export (API)) and give that"
        )
    nodes = content if isinstance(content, dict) else {}
    whole = all(isinstance(n, dict) and "class_type" in n and isinstance(n.get("inputs"), dict) for n in nodes.values())
    if not nodes or not whole:
        raise ValueError(
            f"workflow {path} is no API workflow (nodes with class_type and inputs): export it as API again"
        )
    return nodes


def label(workflow: Workflow, node: str) -> str:
    """The title that a user gave a node, else its type."""
    content = workflow.get(node, {})
    meta = content.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if title and isinstance(title, str) else str(content.get("class_type") or f"node {node}")


def image_node(workflow: Workflow) -> str:
    """The LoadImage node that takes the picture: the only one, or the one titled "input". Raises ValueError."""
    loaders = [node for node, content in workflow.items() if content["class_type"] == "LoadImage"]
    if not loaders:
        raise ValueError("the workflow has no LoadImage node for the picture: add one and export it again")
    titled = [node for node in loaders if label(workflow, node).strip().lower() == "input"]
    if len(loaders) > 1 and not titled:
        raise ValueError(
            f"the workflow has {len(loaders)} LoadImage nodes ({', '.join(loaders)}): "
            f'title one of them "input", or say which with --set NODE.image={UPLOAD}'
        )
    return (titled or loaders)[0]


def prepared(workflow: Workflow, *, image: str, settings: Sequence[str] = ()) -> Workflow:
    """A copy with ``NODE.INPUT=VALUE`` settings applied and ``image``, a picture's name on the server, loaded by it.

    NODE is an id or a title. A value is JSON where the input is no text, and ``@`` means the picture.
    """
    changed = deepcopy(workflow)
    placed = False
    for setting in settings:
        node, name, value = parse_setting(workflow, setting)
        placed = placed or value == UPLOAD
        changed[node]["inputs"][name] = image if value == UPLOAD else value
    if not placed:
        changed[image_node(workflow)]["inputs"]["image"] = image
    return changed


def parse_setting(workflow: Workflow, setting: str) -> tuple[str, str, Any]:
    """``NODE.INPUT=VALUE`` as (node id, input name, value). Raises ValueError."""
    target, equals, text = setting.partition("=")
    node, dot, name = target.partition(".")
    if not (equals and dot and node and name):
        raise ValueError(f"--set {setting} is not of the form NODE.INPUT=VALUE, for example 3.seed=7")
    named = [node] if node in workflow else [key for key in workflow if label(workflow, key) == node]
    if len(named) != 1:
        known = ", ".join(f"{key} ({label(workflow, key)})" for key in workflow)
        raise ValueError(f"--set {setting}: {len(named)} nodes are called {node}, one is needed; there are {known}")
    inputs = workflow[named[0]]["inputs"]
    if name not in inputs:
        raise ValueError(f"--set {setting}: {label(workflow, named[0])} has no input {name}, only {', '.join(inputs)}")
    if text == UPLOAD or isinstance(inputs[name], str):
        return named[0], name, text
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    number = isinstance(inputs[name], (int, float)) and not isinstance(inputs[name], bool)
    if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"--set {setting}: {name} is a number ({inputs[name]} in the workflow), give a number")
    return named[0], name, value


def refusal(payload: dict[str, Any], workflow: Workflow) -> str:
    """What POST /prompt answers with status 400, as one sentence that names nodes and inputs."""
    reasons = _complaints(payload, workflow)
    if not reasons:
        error = payload.get("error", {})
        if isinstance(error, str):
            error = {"message": error}
        details = f" ({error['details']})" if error.get("details") else ""
        reasons.append(f"{error.get('message', 'no reason given')}{details}")
    return _one_line(f"the server refused the workflow: {'; '.join(reasons)}")


def left_out(payload: dict[str, Any], workflow: Workflow) -> str:
    """What POST /prompt complains about where it runs the rest of the workflow, as one sentence; empty if nothing."""
    reasons = _complaints(payload, workflow)
    return _one_line(f"the server ran only a part of the workflow: {'; '.join(reasons)}") if reasons else ""


def _complaints(payload: dict[str, Any], workflow: Workflow) -> list[str]:
    reasons = []
    for node, content in (payload.get("node_errors") or {}).items():
        where = f"node {node} ({label(workflow, node)})"
        for error in content.get("errors", []):
            name = error.get("extra_info", {}).get("input_name")
            details = f" ({error['details']})" if error.get("details") and error["details"] != name else ""
            reasons.append(f"{where}{f', input {name}' if name else ''}: {error.get('message', 'refused')}{details}")
    return reasons


def failure(data: dict[str, Any], workflow: Workflow) -> str:
    """An ``execution_error`` message as one sentence."""
    node = str(data.get("node_id"))
    message = data.get("exception_message") or data.get("exception_type") or "no reason given"
    return _one_line(f"node {node} ({label(workflow, node)}) failed on the server: {message}")


def pictures_of(history: dict[str, Any]) -> list[dict[str, str]]:
    """filename, subfolder and type of the pictures of a finished run: the saved ones, else the previews."""
    images = [image for output in history.get("outputs", {}).values() for image in output.get("images", [])]
    return [image for image in images if image.get("type") == "output"] or images


def _one_line(text: str) -> str:
    return " ".join(text.split())
