"""What ``dinotile run`` and its Python function refuse, against a real ComfyUI."""

import json
from pathlib import Path

import pytest

from . import graphs
from .jobs import DEMO, PACK, Job, failed, fresh


def refused(job: Job, workflow: graphs.Prompt | Path, *parts: str, on_the_way: bool = False) -> None:
    """One sentence on stderr, after the progress bars where the run fails ``on_the_way``, and no new file."""
    failed(job, job.run(workflow), *parts, on_the_way=on_the_way)


@pytest.mark.parametrize(
    ("node", "kind", "name"),
    [
        ("flux", "UNETLoader", "unet_name"),
        ("dino", "DinoTile_LoadDino", "dino_name"),
        ("adapter", "DinoTile_LoadAdapter", "adapter_name"),
    ],
)
def test_a_missing_model_is_named_with_its_node_and_input(job, node, kind, name):
    workflow = fresh()
    workflow[node]["inputs"][name] = "nothing.safetensors"
    refused(job, workflow, f"node {node} ({kind}), input {name}", "nothing.safetensors")


def test_a_node_that_fails_is_named_with_its_sentence(job):
    said = "guide has nothing to do beside anchor 1"
    refused(job, fresh(anchor=1.0, guide=1.0), "node upscale (DinoTile_Upscale)", said, on_the_way=True)


def test_a_mistake_that_is_seen_before_anything_runs_is_told_once(job):
    code, _, err = job.run(fresh(tile=72))
    assert code == 2 and err.count("tile 72 must be a multiple of 16") == 1 and err.count("\n") == 1


def test_a_graph_of_the_browser_is_refused_before_anything_is_sent(job, base):
    uploaded = set((base / "input").iterdir())
    graph = PACK / "workflows" / "demo.json"
    refused(job, graph, "is a graph of the browser", "export it as API")
    assert set((base / "input").iterdir()) == uploaded


def test_missing_classes_are_named_and_windows_slashes_are_repaired(job):
    workflow = json.loads(DEMO.read_text())
    workflow["40:2"]["inputs"]["unet_name"] = workflow["40:2"]["inputs"]["unet_name"].replace("/", "\\")
    workflow["6"] = {"class_type": "LoadImage", "inputs": {"image": ""}}
    code, _, err = job.run(workflow, "--set", "8.steps=1")
    assert code == 0, err
    workflow["20"] = {"class_type": "NoSuchNode", "inputs": {}, "_meta": {"title": "My node"}}
    code, _, err = job.run(workflow, "--overwrite")
    assert code == 2 and "Node 'My node' not found" in err and "class NoSuchNode" in err
