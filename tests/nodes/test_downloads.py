"""Files that the workflows ask for: called as their links call them, and as the README says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import pytest

PACK = Path(__file__).parents[2]
GRAPHS = sorted((PACK / "workflows").glob("*.json"))


def asked(tree: object) -> Iterator[dict[str, str]]:
    """What the nodes of a graph, and of the graphs in it, offer to download."""
    if isinstance(tree, dict):
        yield from (tree.get("properties") or {}).get("models", [])
    for part in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from asked(part)


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_a_file_is_called_as_the_link_to_it_calls_it(graph):
    """A browser saves it so; a folder of its own may stand before the name."""
    found = list(asked(json.loads(graph.read_text())))
    assert bool(found) == graph.stem.startswith(("FLUX.", "Z-Image"))
    for file in found:
        assert PurePosixPath(file["name"]).name == PurePosixPath(urlparse(file["url"]).path).name


def test_the_readme_names_the_same_files_and_folders_as_the_workflow_of_its_steps():
    readme = (PACK / "README.md").read_text()
    assert "saved as" not in readme
    (title,) = re.findall(r"Open \*(FLUX\.1 [\w ]+)\*", readme)
    found = {
        (file["url"], file["directory"], file["name"])
        for file in asked(json.loads((PACK / "workflows" / f"{title}.json").read_text()))
    }
    assert len(found) > 3
    for url, folder, name in found:
        file = PurePosixPath(folder) / name
        (row,) = [line for line in readme.splitlines() if f"[{file.name}]({url})" in line]
        assert row.endswith(f"| `{file.parent}` |"), file
