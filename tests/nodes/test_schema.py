"""The schema snapshot against what else names the nodes; test_nodes.py in tests/comfyui holds it against ComfyUI."""

import json
import re
from pathlib import Path

import pytest

from dinotile.upscaling.limits import LIMITS
from dinotile.upscaling.settings import UpscaleSettings

PACK = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text())


def test_the_snapshot_has_every_node_of_the_sources():
    sources = "".join(path.read_text() for path in sorted((PACK / "nodes").glob("*.py")))
    assert sorted(re.findall(r'node_id="(\w+)"', sources)) == sorted(SCHEMA)


@pytest.mark.parametrize("name", SCHEMA)
def test_every_node_has_a_help_page_and_no_page_is_left_over(name):
    assert (PACK / "web" / "docs" / f"{name}.md").is_file()
    assert {page.stem for page in (PACK / "web" / "docs").glob("*.md")} == set(SCHEMA)


@pytest.mark.parametrize("name", SCHEMA)
def test_every_number_and_text_has_a_default(name):
    inputs = SCHEMA[name]["input"]["required"]
    for input_name, (type_, options) in inputs.items():
        if type_ in ("INT", "FLOAT", "BOOLEAN", "STRING"):
            assert "default" in options, input_name


def test_the_one_node_has_the_names_ranges_and_defaults_of_the_command_line():
    inputs = SCHEMA["DinoTile_Upscale"]["input"]
    numbers = {
        name: options
        for kind in inputs.values()
        for name, (type_, options) in kind.items()
        if type_ in ("INT", "FLOAT")
    }
    assert len(numbers) == 14
    for name, options in numbers.items():
        assert (options["min"], options["max"]) == (LIMITS[name].least, LIMITS[name].most), name
        assert options["default"] == getattr(UpscaleSettings, name), name
    for name in ("tile", "overlap"):
        assert SCHEMA["DinoTile_PlanTiles"]["input"]["required"][name][1]["max"] == LIMITS[name].most
