"""What ``import dinotile`` offers: its types, its page, and how its results show themselves."""

from __future__ import annotations

import ast
import inspect
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

import dinotile
from dinotile.cli.remote.answers import Output
from dinotile.demo import DEMO, SAMPLE
from dinotile.upscaling.limits import LIMITS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
NAMES: dict[str, str] = dinotile._API
WIDE = 110  # characters of a line of the page


def typed() -> dict[str, str]:
    """What type checkers are told: each name and where it comes from."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.name == alias.asname for node in imports for alias in node.names)
    return {alias.name: f".{node.module}" for node in imports for alias in node.names}


def definition(name: str) -> ast.FunctionDef | ast.ClassDef:
    source = Path(import_module(NAMES[name], "dinotile").__file__ or "")
    found = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", None) == name]
    (node,) = found
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return node


def annotations(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """The types of a function's arguments, of a dataclass's fields or of what a class is made of, as the source writes them."""
    if isinstance(node, ast.ClassDef):
        makers = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if not makers:
            lines = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            return {ast.unparse(each.target): ast.unparse(each.annotation) for each in lines}
        (node,) = makers
    arguments = [*node.args.args, *node.args.kwonlyargs, *([node.args.kwarg] if node.args.kwarg else [])]
    return {each.arg: ast.unparse(each.annotation) for each in arguments if each.annotation}


def told(parameter: inspect.Parameter, kind: str) -> str:
    default: Any = parameter.default
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    plain = isinstance(default, (int, float, str, tuple, type(None)))
    known = "" if default is parameter.empty else f" = {default!r}" if plain else " = ..."
    return f"{stars}{parameter.name}: {kind}{known}"


def signature(name: str) -> str:
    node, kinds = definition(name), annotations(definition(name))
    parts, keywords = [], False
    for parameter in inspect.signature(getattr(dinotile, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            parts.append("*")
            keywords = True
        parts.append(told(parameter, kinds[parameter.name]))
    returns = f" -> {ast.unparse(node.returns)}" if isinstance(node, ast.FunctionDef) and node.returns else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) > WIDE:
        ranges = LIMITS if name == "UpscaleSettings" else {}
        notes = [f"  # {ranges[key]}" if (key := part.split(":")[0]) in ranges else "" for part in parts]
        lines = [f"    {part},{note}\n" for part, note in zip(parts, notes, strict=True)]
        line = f"{name}(\n{''.join(lines)}){returns}"
    return line


def reference() -> str:
    """The part of the page that the sources give: every name with what it says of itself and its types."""
    text = []
    for name in NAMES:
        paragraphs = (ast.get_docstring(definition(name)) or "").replace("``", "`").split("\n\n")
        said = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        text.append(f"### {name}\n\n{said}\n\n```python\n{signature(name)}\n```\n")
    return "\n".join(text)


def test_the_page_has_every_name_with_its_types(request):
    """After a change on purpose: ``pytest tests/test_python.py --rewrite-texts``."""
    page = PAGE.read_text()
    head, found, _ = page.partition("## Reference\n\n")
    assert found, "there is no heading '## Reference'"
    if request.config.getoption("--rewrite-texts"):
        PAGE.write_text(page := head + found + reference())
    assert page == head + found + reference()


def test_type_checkers_see_the_names_that_are_there():
    assert typed() == NAMES
    for name in NAMES:
        assert getattr(dinotile, name).__module__ == f"dinotile{NAMES[name]}"


def test_a_type_checker_knows_what_a_call_gives(tmp_path):
    """A wrong use is an error, a right one is none."""
    (tmp_path / "dinotile").symlink_to(ROOT, target_is_directory=True)  # pyright does not follow an editable install
    (tmp_path / "right.py").write_text(
        "import dinotile\n\nn: int = dinotile.plan_tiles(64, 64, tile=64, overlap=0).count\n"
    )
    (tmp_path / "wrong.py").write_text("import dinotile\n\nn: str = dinotile.load_picture('a.png').pixels\n")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    runs = [
        subprocess.run([*command, f"{name}.py"], cwd=tmp_path, capture_output=True, text=True)
        for name in ("right", "wrong")
    ]
    assert [run.returncode for run in runs] == [0, 1], runs[0].stdout + runs[0].stderr
    assert '"Tensor" is not assignable to' in runs[1].stdout


def test_the_wheel_says_that_it_is_typed(tmp_path):
    code = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    others = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks", "build", "*.egg-info")
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=others)
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = ZipFile(wheel).namelist()
    assert {"dinotile/py.typed", "dinotile/locales/zh/nodeDefs.json", "dinotile/web/docs/DinoTile_Upscale.md"} <= set(
        inside
    )
    assert not [name for name in inside if name.startswith(("tests", "dinotile/tests", "dinotile/benchmarks"))]


def test_the_examples_of_dino_and_tiles_run_as_they_stand(tmp_path):
    (example,) = [each for each in PAGE.read_text().split("```python\n") if "plan_tiles(2048" in each]
    (tmp_path / "example.py").write_text(example.partition("```")[0])
    made = runpy.run_path(str(tmp_path / "example.py"))
    assert made["features"].patches.shape[:1] == (1,) and made["first"].height == made["plan"].tile_height


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    pixels = torch.rand(1, 3, 512, 768)
    encoder = dinotile.load_dino(DEMO / "dino" / "dinotile-demo.safetensors")
    features = encoder.encode(pixels[..., :70, :84], settings=dinotile.EncodeSettings(side=84))
    adapter = dinotile.load_adapter(DEMO / "model_patches" / "dinotile-demo.safetensors")
    return {
        "Picture(384 x 256 px, RGB, 8 bits": dinotile.load_picture(SAMPLE),
        "DinoEncoder(dinov2-demo, fingerprint=": encoder,
        "FeatureMap(dinov2-demo layers 3, patches [1, 5, 6, 128], cls [1, 128], of 84 x 70 px)": features,
        "LoadedAdapter(dinov2-demo layers 3, ": adapter,
        "DinoTokens(patches [1, 5, 6, ": adapter.module.project(features),
        "TilePlan(9216 x 9216 in 64 tiles of 1264 x 1264, overlap 128": dinotile.plan_tiles(9216, 9216),
        "Masks(dino [1, 1, 512, 768], denoise None)": dinotile.Masks(pixels[:, :1]),
        "WorkflowResult(2 files, 2,000,000 bytes, prompt_id='a', note='')": dinotile.WorkflowResult(
            [bytes(10**6)] * 2, prompt_id="a", outputs=[Output("9", "", "a.png", "", "output")] * 2
        ),
    }


def test_a_result_shows_itself_in_one_short_line(results):
    for start, result in results.items():
        assert repr(result).startswith(start) and "\n" not in repr(result) and len(repr(result)) < 160, repr(result)
