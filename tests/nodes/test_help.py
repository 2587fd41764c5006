"""The nodes' help pages: titles and tables are the schema's, the prose around them is written by hand."""

import re
from pathlib import Path
from typing import Any

import pytest

from dinotile.flux_patch.families import FAMILIES

from .test_locales import PACK, SCHEMA

PAGES = PACK / "web" / "docs"
TABLE = r"(## {heading}\n\n)(?:\|.*\n)*\n?"


def number(value: float) -> str:
    return "2^64 - 1" if value == 2**64 - 1 else f"{value:.10g}"


def values(kind: str, options: dict[str, Any], *, optional: bool) -> str:
    """What an input takes."""
    if kind in ("INT", "FLOAT"):
        step = options.get("step", 1)
        by = f", by {step}" if kind == "INT" and step > 1 else ""
        return f"{number(options['min'])} to {number(options['max'])}{by}"
    if kind == "COMBO":
        return ", ".join(options["options"]) if isinstance(options["options"], list) else "what ComfyUI lists"
    if kind in ("BOOLEAN", "STRING"):
        return {"BOOLEAN": "on, off", "STRING": "text"}[kind]
    return kind + (", optional" if optional else "")


def default(kind: str, options: dict[str, Any]) -> str:
    value = options.get("default", "")
    if kind == "BOOLEAN":
        return "on" if value else "off"
    return number(value) if kind in ("INT", "FLOAT") else str(value)


def table(*rows: tuple[str, ...]) -> str:
    head, *others = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows]
    return "".join([head, "|---" * len(rows[0]) + "|\n", *others])


def inputs(info: dict) -> str:
    rows = [("input", "meaning", "takes", "default")]
    for part in ("required", "optional"):
        for name in info["input_order"].get(part, []):
            kind, options = info["input"][part][name]
            takes = values(kind, options, optional=part == "optional")
            rows.append((name, options["tooltip"], takes, default(kind, options)))
    return table(*rows)


def outputs(info: dict) -> str:
    return table(("output", "meaning"), *zip(info["output_name"], info["output_tooltips"], strict=True))


def written(page: str, info: dict) -> str:
    """A page with the schema's title and tables, and its own prose."""
    page = re.sub(r"\A# .*\n", lambda _: f"# {info['display_name']}\n", page)
    parts = {"Inputs": inputs(info)} | ({"Outputs": outputs(info)} if info["output"] else {})
    for heading, rows in parts.items():
        page, found = re.subn(TABLE.format(heading=heading), lambda at, rows=rows: f"{at[1]}{rows}\n", page)
        assert found == 1, f"there is no heading '## {heading}'"
    return page.rstrip("\n") + "\n"


def page_of(name: str) -> Path:
    return PAGES / f"{name}.md"


@pytest.mark.parametrize("name", SCHEMA)
def test_the_tables_of_a_page_are_those_of_the_schema(name, request):
    """After a change on purpose: ``pytest tests/nodes --rewrite-texts``."""
    page = page_of(name).read_text(encoding="ascii")
    if request.config.getoption("--rewrite-texts"):
        page = written(page, SCHEMA[name])
        page_of(name).write_text(page, encoding="ascii")
    assert page == written(page, SCHEMA[name])


@pytest.mark.parametrize("name", SCHEMA)
def test_a_page_has_prose_of_its_own(name):
    page = page_of(name).read_text(encoding="ascii")
    prose = [line for line in page.splitlines() if line and not line.startswith(("|", "#"))]
    tooltips = [options["tooltip"] for kind in SCHEMA[name]["input"].values() for _, options in kind.values()]
    assert sum(map(len, prose)) > 150 and not set(prose) & set(tooltips)


def test_a_table_that_differs_from_the_schema_is_seen():
    name = "DinoTile_PlanTiles"
    page = page_of(name).read_text(encoding="ascii")
    for old, new in (
        ("16 to 4096, by 16", "16 to 2048, by 16"),
        ("| plan | For", "| plan | Not for"),
        ("# Plan", "# A"),
    ):
        assert old in page
        changed = page.replace(old, new, 1)
        assert written(changed, SCHEMA[name]) == page != changed


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_no_page_refuses_a_family_of_adapters(page):
    """As pages did that were written before there was another one than FLUX.1."""
    said = (PAGES / page).read_text(encoding="utf-8")
    assert not re.search("not supported|supports FLUX", said)
    assert all(
        family.title in line for line in said.splitlines() if "adapters are for" in line for family in FAMILIES.values()
    )
