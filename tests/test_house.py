"""Rules of the house, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("nodes", "dino", "flux_patch", "tiling", "standalone", "training", "demo")
ALLOWED = {
    "dino": set(),
    "tiling": set(),
    "flux_patch": {"dino"},
    "nodes": {"dino", "flux_patch", "tiling", "training"},
    "standalone": {"dino", "flux_patch", "tiling", "demo", "training"},
    "training": {"dino", "flux_patch", "tiling", "standalone", "demo"},
}
HOST = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "execution", "server"}
LAZY = {"transformers", "diffusers"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))


def imports(path, *, top_level=False):
    """(package or level-2 sibling, module) of every import statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ",".join(alias.name for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_packages_import_only_what_the_layout_allows(path):
    package = path.parent.name
    for level, module in imports(path):
        assert level <= 2, f"{module} is imported from above the pack"
        is_script = path.parent.name == "demo" and path.name == "train.py"
        assert level > 0 or module.split(".")[0] != "dinotile" or is_script, "imports inside the pack are relative"
        if level == 2 and package in ALLOWED:
            assert module.split(".")[0] in ALLOWED[package], f"{package} must not import {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_only_the_host_modules_import_comfy(path):
    found = {module.split(".")[0] for level, module in imports(path) if level == 0} & HOST
    assert not found or (path.parent.name == "nodes" and path.name.startswith("host"))


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.name)
def test_nodes_import_training_only_where_they_train(path):
    assert not {module.split(".")[0] for level, module in imports(path, top_level=True) if level == 2} & {"training"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_heavy_libraries_are_imported_where_a_model_is_built(path):
    if path.parent.name != "demo":
        assert not {module.split(".")[0] for level, module in imports(path, top_level=True) if level == 0} & LAZY


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "__init__.py"], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_sources_are_plain_ascii(path):
    path.read_text(encoding="ascii")


def test_the_package_imports_without_torch():
    code = "import sys, dinotile; print(sorted({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_version_is_written_once():
    pattern = 'version = "'
    holders = [p.name for p in ROOT.glob("*.toml") if pattern in p.read_text(encoding="utf-8")]
    assert holders == ["pyproject.toml"]
    import importlib.metadata

    import dinotile

    assert dinotile.__version__ == importlib.metadata.version("dinotile")
