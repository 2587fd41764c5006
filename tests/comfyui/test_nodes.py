"""What ComfyUI says about the pack's nodes."""

import json
import re
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2]
SCHEMA = PACK / "tests" / "nodes" / "schema.json"
THE_HOSTS = "the host's"  # instead of lists that depend on the host and its files
VARIABLE = {"dino_name", "adapter_name", "folder", "sampler", "scheduler"}


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    return {name: info for name, info in server.get("/object_info").items() if name.startswith("DinoTile_")}


def stable(info: dict) -> dict:
    """A node's schema without what differs between machines."""
    kept = {name: value for name, value in info.items() if name != "python_module"}
    kept["input"] = {
        kind: {
            name: [type_, {**options, "options": THE_HOSTS} if name in VARIABLE else options]
            for name, (type_, options) in inputs.items()
        }
        for kind, inputs in visible(info).items()
    }
    return kept


def visible(info: dict) -> dict[str, dict]:
    return {kind: inputs for kind, inputs in info["input"].items() if kind != "hidden"}


def test_the_schema_of_every_node_is_the_one_that_workflows_rely_on(nodes, request):
    """A change on purpose: ``pytest tests/comfyui/test_nodes.py --rewrite-schema``; new inputs go last, with a default."""
    found = {name: stable(info) for name, info in sorted(nodes.items())}
    if request.config.getoption("--rewrite-schema"):
        SCHEMA.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    expected = json.loads(SCHEMA.read_text())
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert found[name] == expected[name], f"{name} has changed"


def test_every_input_and_output_has_a_tooltip(nodes):
    missing = []
    for name, info in nodes.items():
        for inputs in visible(info).values():
            missing += [f"{name}.{key}" for key, (_, options) in inputs.items() if not options.get("tooltip")]
        missing += [f"{name} output {i}" for i, tip in enumerate(info.get("output_tooltips") or []) if not tip]
        assert len(info.get("output_tooltips") or []) == len(info["output"])
    assert missing == []


def test_every_node_has_a_category_a_description_and_a_help_page_that_the_host_serves(nodes, server):
    for name, info in nodes.items():
        assert info["category"].startswith("DINOTile")
        assert len(info["description"]) > 20
        page = server._open(f"/extensions/DINOTile/docs/{name}.md").decode()
        assert len(page) > 100, f"web/docs/{name}.md is empty"


def test_the_pack_is_imported_in_a_fifth_of_a_second(server, report):
    line = re.search(r"([\d.]+) seconds( \(IMPORT FAILED\))?: .*DINOTile", server.log)
    assert line and not line[2]
    report(f"import of the pack: {line[1]} s")
    assert float(line[1]) <= 0.2


def test_the_start_leaves_no_traceback_and_no_warning_of_ours(server):
    start = server.log.split("To see the GUI")[0]
    assert "Traceback" not in start
    assert not re.search(r"(warning|error).*dinotile", start, re.IGNORECASE)
