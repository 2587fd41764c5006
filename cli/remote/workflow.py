"""ComfyUI workflows in API format: read, point at a picture, change inputs, and put the server's complaints in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files.errors import plain

Workflow = dict[str, dict[str, Any]]
MOST_BYTES = 64 << 20
UPLOAD = "@"  # as a value of --set: the uploaded picture


def read_workflow(path: Path) -> Workflow:
    """The nodes of an API-format file by id; also of one that holds them under "prompt", as the server is sent them."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):
        raise ValueError(f"workflow {path} is no file of at most {MOST_BYTES >> 20} MiB: check the path")
    try:
        content = read_json(path.read_bytes())  # of any Unicode encoding, with or without a mark
    except OSError as error:
        raise ValueError(f"workflow {path} cannot be read ({error.strerror}): check the path") from error
    except ValueError as error:
        raise ValueError(f"workflow {path} is not JSON ({plain(error, 200)}): export it from ComfyUI again") from error
    if isinstance(content, dict) and "nodes" in content and "links" in content:
        raise ValueError(
            f"workflow {path} is a graph of the browser: export it as API (File > Export (API)) and give that"
        )
    nodes = nodes_of(content) or nodes_of(content.get("prompt") if isinstance(content, dict) else None)
    if not nodes:
        raise ValueError(
            f"workflow {path} is no API workflow (nodes with class_type and inputs): export it as API again"
        )
    return nodes


def nodes_of(content: Any) -> Workflow:
    """The content itself where it is a workflow in API format, else an empty one."""
    nodes = content if isinstance(content, dict) else {}
    whole = all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in nodes.values()
    )
    return nodes if whole else {}


def read_json(content: bytes | str) -> Any:
    """JSON with finite numbers. Raises ValueError."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"{plain(number, 40)} is no number of JSON")
        return float(number)

    try:
        read = json.loads(content, parse_float=finite, parse_constant=finite)
        json.dumps(read)  # which bears less depth
        return read
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def title(workflow: Workflow, node: str) -> str:
    """The title that a user gave a node, else its type."""
    content = workflow.get(node, {})
    meta = content.get("_meta")
    given = meta.get("title") if isinstance(meta, dict) else None
    return given if given and isinstance(given, str) else str(content.get("class_type") or f"node {node}")


def label(workflow: Workflow, node: str) -> str:
    """The title, fit to be printed."""
    return plain(title(workflow, node), 100)


def image_node(workflow: Workflow) -> str:
    """The LoadImage node that takes the picture: the only one, or the one titled "input". Raises ValueError."""
    loaders = [node for node, content in workflow.items() if content["class_type"] == "LoadImage"]
    if not loaders:
        raise ValueError("the workflow has no LoadImage node for the picture: add one and export it again")
    titled = [node for node in loaders if title(workflow, node).strip().lower() == "input"]
    if len(loaders) > 1 and not titled:
        raise ValueError(
            f"the workflow has {len(loaders)} LoadImage nodes ({', '.join(loaders)}): "
            f'title one of them "input", or say which with --set NODE.image={UPLOAD}'
        )
    return (titled or loaders)[0]


def copied(workflow: Workflow) -> Workflow:
    """With inputs that can be set."""
    return {key: {**node, "inputs": {**node["inputs"]}} for key, node in workflow.items()}


def prepared(workflow: Workflow, *, image: str, settings: Sequence[str] = ()) -> Workflow:
    """A copy with ``NODE.INPUT=VALUE`` settings applied and ``image``, a picture's name on the server, loaded by it.

    NODE is an id or a title. A value is JSON where the input is no text, and ``@`` means the picture.
    """
    changed = copied(workflow)
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
    target, _, text = setting.partition("=")
    node, name = _target(workflow, setting)
    inputs = workflow[node]["inputs"]
    if text == UPLOAD or isinstance(inputs[name], str):
        return node, name, text
    try:
        value = read_json(text)
    except ValueError:
        value = text
    number = isinstance(inputs[name], (int, float)) and not isinstance(inputs[name], bool)
    given = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not given:
        raise ValueError(f"--set {setting}: {name} is a number ({inputs[name]} in the workflow), give a number")
    return node, name, value


def _target(workflow: Workflow, setting: str) -> tuple[str, str]:
    """Node id and input: split at the last dot before "=", or at an earlier one where only that names both."""
    target, equals, _ = setting.partition("=")
    places = [place for place in range(len(target) - 1, 0, -1) if target[place] == "."]
    splits = [(target[:place], target[place + 1 :]) for place in places if target[place + 1 :]]
    if not equals or not splits:
        raise ValueError(f"--set {setting} is not of the form NODE.INPUT=VALUE, for example 3.seed=7")
    known = [(_called(workflow, node), name) for node, name in splits]
    for nodes, name in known:
        if len(nodes) == 1 and name in workflow[nodes[0]]["inputs"]:
            return nodes[0], name
    for nodes, name in known:
        if len(nodes) == 1:
            inputs = ", ".join(workflow[nodes[0]]["inputs"])
            raise ValueError(f"--set {setting}: {label(workflow, nodes[0])} has no input {name}, only {inputs}")
    (nodes, _), (node, _) = max(zip(known, splits, strict=True), key=lambda pair: len(pair[0][0]))
    there = ", ".join(f"{key} ({label(workflow, key)})" for key in workflow)
    raise ValueError(f"--set {setting}: {len(nodes)} nodes are called {node}, one is needed; there are {there}")


def _called(workflow: Workflow, name: str) -> list[str]:
    if name in workflow:
        return [name]
    return [node for node in workflow if name in (title(workflow, node), label(workflow, node))]


def classes_with_paths(workflow: Workflow) -> list[str]:
    """The classes of nodes that are given what looks like a model's name in a folder."""

    def like_a_path(value: Any) -> bool:
        short = isinstance(value, str) and len(value) < 500 and "\n" not in value
        return short and ("\\" in value or bool(re.search(r"/.*\.\w{2,12}$", value)))

    nodes = workflow.values()
    return sorted({node["class_type"] for node in nodes if any(map(like_a_path, node["inputs"].values()))})


def repaired(workflow: Workflow, lists: Mapping[str, Mapping[str, Sequence[str]]]) -> Workflow:
    """With the slashes of the server's own list (class: input: values) where a value differs from one of it in them only."""
    changed = copied(workflow)
    for node in changed.values():
        for name, values in lists.get(node["class_type"], {}).items():
            given = node["inputs"].get(name)
            if isinstance(given, str) and given not in values:
                same = [value for value in values if value.replace("\\", "/") == given.replace("\\", "/")]
                node["inputs"][name] = same[0] if len(same) == 1 else given
    return changed


def refusal(payload: Any, workflow: Workflow) -> str:
    """What POST /prompt answers with status 400, as one sentence that names nodes and inputs; empty where it says nothing."""
    error = payload.get("error") if isinstance(payload, dict) else None
    error = {"message": error} if isinstance(error, str) else error
    if not isinstance(error, dict):
        return ""
    extra = error.get("extra_info")
    missing = extra.get("class_type") if isinstance(extra, dict) else None
    message = str(error.get("message", "no reason given"))
    notes = [f"class {missing}"] if isinstance(missing, str) and missing not in message else []
    notes += [str(error["details"])] if error.get("details") else []
    whole = f"{message} ({', '.join(notes)})" if notes else message
    return _sentence("the server refused the workflow", list(_complaints(payload, workflow)) or [whole])


def left_out(payload: Any, workflow: Workflow) -> str:
    """What POST /prompt complains about where it runs the rest of the workflow, as one sentence; empty if nothing."""
    reasons = list(_complaints(payload, workflow))
    return _sentence("the server ran only a part of the workflow", reasons) if reasons else ""


def _complaints(payload: Any, workflow: Workflow) -> Iterator[str]:
    errors = payload.get("node_errors") if isinstance(payload, dict) else None
    for node, content in errors.items() if isinstance(errors, dict) else ():
        where = f"node {node} ({label(workflow, node)})"
        listed = content.get("errors") if isinstance(content, dict) else None
        told = set()
        for error in listed if isinstance(listed, list) and listed else ({},):
            error = error if isinstance(error, dict) else {}
            extra = error.get("extra_info")
            name, details = extra.get("input_name") if isinstance(extra, dict) else None, error.get("details")
            if error.get("type") == "custom_validation_failed" and str(details).startswith(f"{name} - "):
                details = str(details).removeprefix(f"{name} - ")
                if details not in told:  # the host tells it for each of the inputs that were looked at
                    yield f"{where}, input {name}: {details}"
                told.add(details)
                continue
            more = f" ({details})" if details and details != name else ""
            yield f"{where}{f', input {name}' if name else ''}: {error.get('message', 'refused')}{more}"


def failure(data: Mapping[str, Any], workflow: Workflow) -> str:
    """An ``execution_error`` message as one sentence."""
    node = str(data.get("node_id"))
    message = data.get("exception_message") or data.get("exception_type") or "no reason given"
    return _sentence(f"node {node} ({label(workflow, node)}) failed on the server", [str(message)])


def _sentence(start: str, reasons: Sequence[str]) -> str:
    return plain(f"{start}: {'; '.join(reasons)}", 2000)
