"""README, docs/ and CONTRIBUTING: links lead somewhere, and every command that they show is one that is taken."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from dinotile.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app)
RUN_BY_CI = 'dinotile upscale demo/sample.jpg -o "$place/upscaled.png"'


def fenced(text: str) -> Iterator[str]:
    """Command lines of code blocks and between backticks, without comments, joined where they go on."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```", text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    yield from (re.sub(r"\s+# .*", "", part).strip() for line in lines for part in line.split("&&"))
    yield from re.findall(r"`((?:dinotile|python) [^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text).replace("\n", " "))


@cache
def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub and mkdocs call them."""
    titles = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", page.read_text()))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?ms)^```.*?^```", "", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            found.append(target)
    return found


def refused(line: str) -> str:
    """Why a command line would not be taken; nothing where it would. Nothing is run."""
    words = [word for word in shlex.split(line) if "=" not in word or word.startswith("-")]
    if words[0] == "dinotile":
        command = COMMANDS.commands.get(words[1]) if words[1:] else COMMANDS
        if command is None:
            return "" if words[1].startswith("-") else f"no command {words[1]}"
        if hasattr(command, "commands"):  # a group, such as flatdino
            command = command.commands.get(words[2]) if words[2:] else command
            if command is None:
                return f"no command {words[1]} {words[2]}"
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    elif words[1] == "-m" and words[2].startswith(("benchmarks", "dinotile.demo")):
        folder = ROOT.joinpath(*words[2].removeprefix("dinotile.").split("."))
        sources = [folder.with_suffix(".py"), folder / "__main__.py", folder / "run.py"]
        text = "".join(source.read_text() for source in sources if source.exists())
        if not text:
            return f"no module {words[2]}"
        options = set(re.findall(r'"(--?[\w-]+)"', text))
    elif words[1].endswith(".py"):
        options = set(re.findall(r'"(--?[\w-]+)"', (ROOT / words[1]).read_text()))
    else:
        return ""
    return ", ".join(sorted({word.partition("=")[0] for word in words[2:] if word.startswith("-")} - options - {"-m"}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path):
    assert broken(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_is_there(page: Path):
    lines = [line for line in fenced(page.read_text()) if line.startswith(("dinotile ", "python "))]
    assert {line: why for line in lines if (why := refused(line))} == {}


def test_a_wrong_command_link_or_option_is_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#other) [c](gone.md)\n")
    assert broken(page) == ["#other", "gone.md"]
    assert refused("dinotile upscale a.jpg --gone 1") == "--gone" and refused("dinotile gone") == "no command gone"
    assert refused("python -m benchmarks.gone") and refused("python benchmarks/flux_size.py --gone") == "--gone"


def test_the_readme_is_short_and_its_first_command_is_the_one_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert (
        "dinotile upscale demo/sample.jpg -o upscaled.png" in text and RUN_BY_CI in (ROOT / ".ci" / "run").read_text()
    )


def test_the_address_of_the_repository_is_the_same_everywhere():
    address = re.search(r'(?m)^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text())[1]
    assert f"git clone {address} " in (ROOT / "README.md").read_text()
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["repo_url"] == address


def test_every_page_is_in_the_table_of_contents():
    shown = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(shown) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
