"""The zip of ComfyUI's registry: all that an installation needs, nothing else, and no bigger than docs/nodes.md says."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from . import house
from .packed import packed_files

ROOT = Path(__file__).parents[1]
TOP = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.txt", "__init__.py", "py.typed"}
ROOMS = {room.split("/")[0] for _, line in house.FLOORS for room in line} - {"benchmarks"}
TEXTS = {"docs", "locales", "web", "workflows"}

if not (ROOT / ".git").exists():
    pytest.skip("this is no git checkout, which says what is packed", allow_module_level=True)


@pytest.fixture(scope="module")
def packed() -> list[str]:
    return packed_files(ROOT)


def test_nothing_is_packed_but_the_pack_its_texts_and_what_installs_it(packed):
    assert {name.split("/")[0] for name in packed} == TOP | ROOMS | TEXTS
    assert not [name for name in packed if name.startswith("demo/train/") or Path(name).name.startswith(("test_", "."))]
    assert {Path(name).suffix for name in packed if name.split("/")[0] in TEXTS} <= {
        ".md",
        ".jpg",
        ".png",
        ".json",
        ".yaml",
        ".js",
    }


def test_every_file_that_an_installation_reads_is_packed(packed):
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in house.sources(ROOT)} - house.SCRIPTS
    needed = {path.relative_to(ROOT).as_posix() for room in rooms for path in (ROOT / room).glob("*.py")}
    for pattern in ("web/docs/*.md", "locales/*/*.json", "workflows/*.*", "workflows/api/*", "demo/**/*.safetensors"):
        found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert found, pattern
        needed |= found
    assert needed <= set(packed)


def test_the_zip_is_as_big_as_the_guide_says(packed, tmp_path):
    with zipfile.ZipFile(tmp_path / "pack.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        for name in packed:
            pack.write(ROOT / name, name)
    told = re.findall(r"([\d.]+) MB zipped", (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8"))
    size = (tmp_path / "pack.zip").stat().st_size / 1e6
    assert len(told) == 1 and abs(size - float(told[0])) < 0.5, f"{size:.1f} MB zipped"
