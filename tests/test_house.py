"""Rules of the house, read from the sources. What they are is in house.py."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dinotile

from . import house
from .conftest import ORDER

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_house_keeps_the_law():
    assert house.violations(ROOT) == []
    assert len(house.sources(ROOT)) > 100


def planted(folder, **files):
    """A house with a file in each of its rooms that matters here; ``__`` in a name is a slash."""
    rooms = ("files", "dino", "tiling", "flux_patch", "hosts", "hosts/comfy", "hosts/diffusers", "upscaling", "nodes")
    rooms += (
        "training",
        "training/core",
        "training/data",
        "training/adapter",
        "cli",
        "cli/remote",
        "demo/train",
        "demo",
    )
    contents = {f"{room}/__init__.py": '"""A room."""\n' for room in rooms} | {
        "flux_patch/families.py": "CELL = 4 * 2\nSIDE = CELL // 8\n",
        "hosts/host.py": "from ..flux_patch.families import CELL\nfrom ..dino import views\n",
        "dino/views.py": "import torch\n",
        "hosts/comfy/sampling.py": "import comfy.samplers\nfrom ..host import CELL\n",
        "hosts/diffusers/load.py": "def load():\n    import diffusers\n",
        "nodes/tiles.py": "from comfy_api.latest import io\nfrom ..hosts.comfy.sampling import CELL\n",
        "demo/train/run.py": "import diffusers\nfrom dinotile.training.core import loop\n",
        "training/core/loop.py": "half = width // 2\n",
        "__init__.py": "def entry():\n    from .nodes import tiles\n",
        "tests/test_it.py": "import comfy\n",
    }
    contents |= {f"{name.replace('__', '/')}.py": text for name, text in files.items()}
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return house.violations(folder, no_sizes={})


def test_a_house_that_keeps_the_law_has_no_violations(tmp_path):
    assert planted(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "text", "told"),
    [
        ("dino__up", "from ..flux_patch import families", "dino/up.py:1: imports flux_patch, which is not below dino"),
        (
            "dino__late",
            "def f():\n    from ..hosts import host",
            "dino/late.py:2: imports hosts, which is not below dino",
        ),
        ("dino__over", "from ..tiling import x", "dino/over.py:1: imports tiling, which is not below dino"),
        ("hosts__x", "from .comfy import sampling", "hosts/x.py:1: imports hosts/comfy, which is not below hosts"),
        ("hosts__comfy__x", "from ..diffusers import load", "imports hosts/diffusers, which is not below hosts/comfy"),
        ("upscaling__x", "from ..training.core import loop", "imports training/core, which is not below upscaling"),
        ("upscaling__y", "from ..hosts.comfy import x", "imports hosts/comfy, which is there for nodes"),
        ("training__core__x", "from ..data import x", "imports training/data, which is not below training/core"),
        ("nodes__x", "from ..cli.remote import x", "imports cli/remote, which is there for cli"),
        ("cli__x", "from ..demo.train import run", "imports demo/train, which is not below cli"),
        ("cli__y", "from .. import __version__", "cli/y.py:1: imports the roof"),
        ("cli__z", "from ...other import x", "cli/z.py:1: imports from above the pack"),
        ("cli__remote__x", "if TYPE_CHECKING:\n    from ..app import x", "imports cli, which is not below cli/remote"),
        ("cellar__x", "", "cellar/x.py:1: cellar has no floor"),
        ("training__attic__x", "", "training/attic has no floor"),
        ("tiling__x", "import comfy.utils", "tiling/x.py:1: imports comfy: only hosts/comfy does"),
        ("nodes__y", "def f():\n    import comfy.sd", "nodes/y.py:2: imports comfy: only hosts/comfy does"),
        ("nodes__z", "import folder_paths", "imports folder_paths: only hosts/comfy does"),
        (
            "nodes__t",
            "from ..training import core",
            "nodes/t.py:1: imports training/core at once: only nodes that train",
        ),
        ("dino__a", "import transformers", "dino/a.py:1: imports transformers at once"),
        ("dino__b", "try:\n    from diffusers import x\nexcept ImportError:\n    pass", "imports diffusers at once"),
        ("dino__c", "class A:\n    import transformers", "dino/c.py:2: imports transformers at once"),
        ("dino__d", "from dinotile.files import x", "imports dinotile.files.x by its whole name"),
        ("dino__e", "dash = '\u2013'", "dino/e.py:1: holds characters beyond ASCII"),
        ("hosts__a", "x = side // 8", "hosts/a.py:1: side // 8 is a bare size"),
        ("upscaling__a", "x = f(y, cell=16)", "upscaling/a.py:1: cell=16 is a bare size"),
        ("hosts__b", "x = rearrange(y, 'b', p=2, q=2)", "hosts/b.py:1: q=2 is a bare size"),
        ("training__a", "x = latent_height // 2", "latent_height // 2 is a bare size"),
    ],
)
def test_what_breaks_the_law_is_told(tmp_path, place, text, told):
    assert any(told in violation for violation in planted(tmp_path, **{place: text}))


def test_a_circle_of_folders_is_told(tmp_path):
    found = planted(
        tmp_path, dino__x="from ..tiling import y", tiling__y="from ..files import z", files__z="from ..dino import x"
    )
    assert "circle of folders: dino > tiling > files > dino" in found


def test_an_excuse_that_is_no_longer_needed_is_told(tmp_path):
    planted(tmp_path, hosts__a="x = side // 8")
    excuses = {("hosts/a.py", "side // 8"): "bits of a byte", ("hosts/a.py", "side % 16"): "gone"}
    assert house.violations(tmp_path, no_sizes=excuses) == ["hosts/a.py:1: side % 16 is excused, but not there"]


def test_contributing_shows_the_same_floors():
    rows = re.findall(
        r"^\| `([^`]+)/` \| (\d+) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [(room, int(floor)) for room, floor in rows] == [
        (room, floor) for floor, line in house.FLOORS for room in line
    ]


def test_every_folder_of_tests_has_its_turn():
    places = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert places == set(ORDER)


def listed(name):
    """The strings of a list in pyproject.toml."""
    (inside,) = re.findall(rf"^{name} = \[$(.*?)^\]$", PROJECT, re.MULTILINE | re.DOTALL)
    return re.findall(r'^    "(.*?)",', inside, re.MULTILINE)


def test_the_wheel_has_every_room_and_no_script_of_the_clone():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in house.sources(ROOT)} - house.SCRIPTS - {"."}
    assert set(listed("packages")) == {"dinotile", *(f"dinotile.{folder.replace('/', '.')}" for folder in folders)}


def test_comfyui_installs_what_the_nodes_need():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == listed("dependencies")


def test_the_package_imports_without_torch():
    code = "import sys, dinotile; print(sorted({'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_version_is_written_once():
    pattern = 'version = "'
    holders = [p.name for p in ROOT.glob("*.toml") if pattern in p.read_text(encoding="utf-8")]
    assert holders == ["pyproject.toml"]
    assert dinotile.__version__ == importlib.metadata.version("dinotile")
