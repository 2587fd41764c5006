"""What ComfyUI says about the pack's nodes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2]
SCHEMA = PACK / "tests" / "nodes" / "schema.json"
THE_HOSTS = "the host's"  # instead of lists that depend on the host and its files
FOUND = {  # by what a person types: the least that is found
    "dinov2": {"LoadDino", "DinoFromClipVision", "ExtractPatches", "DinoGuidance"},
    "flatdino": {"LoadFlatDino", "CompressFeatures", "RestoreFeatures"},
    "tile": {"Upscale", "PlanTiles", "PreviewTiles", "TileModel", "TiledSampler", "SplitByPlan", "MergeByPlan"},
    "upscale": {"Upscale", "TileModel"},
    "ultimate": {"Upscale", "TiledSampler"},
    "sr": {"Upscale"},
    "detail": {"Upscale", "DetailMask"},
    "super resolution": {"Upscale", "SourceAnchor"},
}
VARIABLE = {"dino_name", "flat_name", "adapter_name", "folder", "sampler", "scheduler"}


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


@pytest.mark.parametrize("words", FOUND)
def test_what_a_person_types_finds_the_nodes(nodes, words):
    """The page looks for it in id, title and aliases; every id begins with the pack's name."""
    texts = {
        name: [name.removeprefix("DinoTile_"), info["display_name"], *(info["search_aliases"] or [])]
        for name, info in nodes.items()
    }
    found = {name for name, known in texts.items() if any(words in text.lower() for text in known)}
    assert {f"DinoTile_{name}" for name in FOUND[words]} <= found
    assert len(found) < len(nodes) / 2  # not all of them


def test_every_node_has_words_to_be_found_by_that_its_title_does_not_say(nodes):
    for name, info in nodes.items():
        assert info["search_aliases"], name
        assert info["display_name"].lower() not in info["search_aliases"]


def test_the_host_hands_on_the_texts_of_every_language(server):
    served = server.get("/i18n")
    for folder in (PACK / "locales").iterdir():
        for file, told in (("nodeDefs", served[folder.name]["nodeDefs"]), ("main", served[folder.name])):
            written = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
            assert {key: told[key] for key in written} == written
    assert served["zh"]["nodeDefs"]["DinoTile_PlanTiles"]["display_name"] == "\u89c4\u5212\u5206\u5757"


def test_the_pack_is_imported_in_a_fifth_of_a_second(server, report):
    """In every start but the first, where Python compiles it; the best of those that were, as other work lengthens some."""
    assert "(IMPORT FAILED)" not in server.log
    report(f"imports of the pack: {server.imports} s")
    assert min(server.imports) <= 0.2


def test_the_start_leaves_no_traceback_and_no_warning_of_ours(server):
    start = server.log.split("To see the GUI")[0]
    assert "Traceback" not in start
    assert not re.search(r"(warning|error).*dinotile", start, re.IGNORECASE)


def test_a_second_copy_of_the_pack_is_left_out_in_a_sentence_and_the_host_starts(host, host_python, tmp_path):
    """With both, it would not have: it refuses to answer one address twice."""
    folders = [tmp_path / name for name in ("DINOTile", "DINOTile-main")]
    for folder in folders:
        folder.symlink_to(PACK)
    script = f"""
import asyncio, sys
sys.path.insert(0, {str(host)!r})
from comfy.cli_args import args
args.cpu, args.base_directory = True, {str(tmp_path)!r}
import nodes, server
from aiohttp import web
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
served = server.PromptServer(loop)
print([loop.run_until_complete(nodes.load_custom_node(folder)) for folder in {[str(folder) for folder in folders]}])
web.Application().add_routes(served.routes)
print(list(nodes.EXTENSION_WEB_DIRS))
"""
    run = subprocess.run([host_python, "-c", script], cwd=host, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["[True, False]", "['DINOTile']"]
    assert (
        f"DINOTile is installed twice, in {folders[0]}, which is used, and in {folders[1]}" in run.stderr + run.stdout
    )
