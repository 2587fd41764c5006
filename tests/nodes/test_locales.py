"""The nodes' texts in other languages against the schema snapshot: nothing is missing, left over or said otherwise."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text())
LANGUAGES = ("de", "ja", "ko", "zh")
LETTERS = {"ja": "[\u3040-\u30ff\u4e00-\u9fff]", "ko": "[\uac00-\ud7af]", "zh": "[\u4e00-\u9fff]", "de": "[A-Za-z]"}
SPECIAL = re.compile(r"[{}|@]")  # has a meaning of its own in the page's messages
Texts = dict[tuple[str, ...], str]


def english() -> dict:
    """``nodeDefs.json`` as ComfyUI reads it, of the schema."""
    nodes = {}
    for name, info in sorted(SCHEMA.items()):
        inputs = {key: options for kind in ("required", "optional") for key, options in ordered(info, kind)}
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        nodes[name] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {key: {"name": key, "tooltip": options["tooltip"]} for key, options in inputs.items()},
            "outputs": {str(at): {"name": key, "tooltip": tooltip} for at, (key, tooltip) in enumerate(outputs)},
        }
    return nodes


def ordered(info: dict, kind: str) -> Iterator[tuple[str, dict]]:
    for key in info["input_order"].get(kind, []):
        yield key, info["input"][kind][key][1]


def read(language: str, file: str) -> dict:
    return json.loads((PACK / "locales" / language / file).read_text(encoding="utf-8"))


def texts(tree: dict, *way: str) -> Texts:
    """Every text by the keys that lead to it."""
    found: Texts = {}
    for key, value in tree.items():
        found |= texts(value, *way, key) if isinstance(value, dict) else {(*way, key): value}
    return found


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def choices(key: tuple[str, ...], text: str) -> set[str]:
    """Of a list, the values that the tooltip ``text`` names: the page does not translate them."""
    options = {name: given for kind in SCHEMA[key[0]]["input"].values() for name, (_, given) in kind.items()}
    values = options[key[2]].get("options") if key[1] == "inputs" else None
    known = values if isinstance(values, list) else []  # the host's own are none of ours
    return {value for value in known if re.search(rf"\b{value}\b", text, re.ASCII)}


def test_english_is_what_the_schema_says(request):
    """After a change on purpose: ``pytest tests/nodes --rewrite-texts``; then translate what has changed."""
    file = PACK / "locales" / "en" / "nodeDefs.json"
    if request.config.getoption("--rewrite-texts"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(english(), indent=1) + "\n")
    assert read("en", "nodeDefs.json") == english()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", ["main.json", "nodeDefs.json"])
def test_a_language_has_every_text_and_none_that_is_left_over(language, file):
    found, known = texts(read(language, file)), texts(read("en", file))
    assert sorted(known.keys() - found.keys()) == [] and sorted(found.keys() - known.keys()) == []
    assert [key for key, text in found.items() if not text.strip() or SPECIAL.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_the_same_with_the_same_numbers_and_choices(language):
    found, known = texts(read(language, "nodeDefs.json")), texts(english())
    said: dict[str, set[str]] = {}
    for key, text in known.items():
        if key[-1] in ("tooltip", "description"):
            assert numbers(found[key]) == numbers(text), key
            assert choices(key, text) <= choices(key, found[key]), key
            assert re.search(LETTERS[language], found[key]) and found[key] != text, key
            said.setdefault(text, set()).add(found[key])
    assert [text for text, ways in said.items() if len(ways) > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_titles_of_a_language_differ_and_the_names_within_a_node_too(language):
    nodes = read(language, "nodeDefs.json")
    assert len({node["display_name"] for node in nodes.values()}) == len(nodes)
    for name, node in nodes.items():
        assert len({each["name"] for each in node["inputs"].values()}) == len(node["inputs"]), name


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_menu_and_the_sockets_are_named_in_every_language(language):
    parts = {part for info in SCHEMA.values() for part in info["category"].split("/")[1:]}
    used = [given[0] for info in SCHEMA.values() for kind in info["input"].values() for given in kind.values()]
    used += [kind for info in SCHEMA.values() for kind in info["output"]]
    main = read(language, "main.json")
    assert set(main["nodeCategories"]) == parts
    assert set(main["dataTypes"]) == {kind for kind in used if isinstance(kind, str) and kind.startswith("DINOTILE_")}
