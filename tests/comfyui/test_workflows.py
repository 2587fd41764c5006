"""The workflows of the template browser and the help pages, held against the real host."""

import json
from urllib.request import urlopen

import pytest
from PIL import Image

from .drawing import draw
from .flat import FLUX, NAMES, PACK, address, flat, graph, model_files, prompt
from .templates import TEMPLATES, slug
from .thumbnails import SHAPES, SHOWN, SIDE, halves, on_demo_models, save, three

NO_SOCKET = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def is_link(value: object) -> bool:
    return isinstance(value, list)


def is_widget(declared: list) -> bool:
    return isinstance(declared[0], list) or declared[0] in NO_SOCKET


def text_at(server, path: str) -> bytes:
    with urlopen(server.url + path, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.get("/object_info")


def test_the_workflows_are_those_that_are_meant():
    flux = (
        "dev guided",
        "dev upscale",
        "dual guidance",
        "schnell upscale",
        "tile ControlNet DINO",
        "tile ControlNet guided",
    )
    assert NAMES == [
        *(f"FLUX.1 {name}" for name in flux),
        "FLUX.1 upscale",
        "FLUX.2 klein guided",
        "What DINO does",
        "What FlatDINO keeps",
        "Z-Image Turbo guided",
        "demo",
    ]
    assert sorted(map(slug, NAMES)) == sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))


def test_the_graphs_are_drawn_from_the_prompts(info, request):
    """After a change on purpose: ``pytest -n 0 tests/comfyui/test_workflows.py --rewrite-workflows``."""
    for title, drawing in TEMPLATES.items():
        drawn = draw(title, prompt(title), drawing, info)
        if request.config.getoption("--rewrite-workflows"):
            text = json.dumps(drawn, indent=1, ensure_ascii=False) + "\n"
            (PACK / "workflows" / f"{title}.json").write_text(text, encoding="utf-8")
        assert graph(title)["definitions"]["subgraphs"] == drawn["definitions"]["subgraphs"]
        assert graph(title) == drawn


@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_a_prompt_is_known_and_none_is_missing(info, name):
    sent = prompt(name)
    for node in sent.values():
        kind, given = node["class_type"], node["inputs"]
        declared = {**info[kind]["input"]["required"], **info[kind]["input"].get("optional", {})}
        assert set(info[kind]["input"]["required"]) <= set(given) <= set(declared), kind
        for key, value in given.items():
            if is_link(value):
                source, slot = value
                offered = info[sent[source]["class_type"]]["output"][slot]
                assert declared[key][0] in (offered, "*"), f"{kind}.{key} takes {declared[key][0]}, gets {offered}"


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_and_the_prompt_are_the_same_workflow(name):
    drawn, sent = flat(graph(name)), prompt(name)
    assert {key: node["type"] for key, node in drawn.items()} == {key: node["class_type"] for key, node in sent.items()}
    for key, node in drawn.items():
        assert node["title"] == sent[key]["_meta"]["title"]
        assert node["joined"] == {name: value for name, value in sent[key]["inputs"].items() if is_link(value)}
        values = {name: value for name, value in sent[key]["inputs"].items() if not is_link(value)}
        values.pop("compare_view", None)  # the page's own, which the graph does not keep
        assert values == {name: node["widgets_values_named"][name] for name in values}, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_subgraph_shows_is_what_the_nodes_inside_have(name):
    drawn = graph(name)
    inside = {inner["id"]: inner for inner in drawn["definitions"]["subgraphs"]}
    for node in drawn["nodes"]:
        if node["type"] not in inside:
            continue
        inner = inside[node["type"]]
        shown = [slot for slot in node["inputs"] if "widget" in slot]
        assert [slot["name"] for slot in node["inputs"]] == [end["name"] for end in inner["inputs"]]
        assert len(shown) == len(node["widgets_values"])
        for slot, value in zip(shown, node["widgets_values"], strict=True):
            (number,) = next(end["linkIds"] for end in inner["inputs"] if end["name"] == slot["name"])
            (link,) = [link for link in inner["links"] if link["id"] == number]
            (target,) = [each for each in inner["nodes"] if each["id"] == link["target_id"]]
            assert target["widgets_values_named"][target["inputs"][link["target_slot"]]["name"]] == value


@pytest.mark.parametrize("name", NAMES)
def test_widget_values_stand_in_the_order_of_the_nodes_inputs(info, name):
    """A graph keeps them by position: an input that is added later than the graph was saved shows here."""
    for node in flat(graph(name)).values():
        if not node["type"].startswith("DinoTile_"):
            continue
        inputs = info[node["type"]]["input"]
        declared = {**inputs["required"], **inputs.get("optional", {})}
        expected = []
        for key, value in declared.items():
            if is_widget(value):
                expected.append(key)
                if value[1].get("control_after_generate") or key in ("seed", "noise_seed"):
                    expected.append("control_after_generate")
        named = node.get("widgets_values_named", {})
        assert list(named) == expected, node["type"]
        assert list(named.values()) == node.get("widgets_values", []), node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_to_download_has_a_link_and_a_folder_that_the_host_knows(server, name):
    folders = server.get("/models")
    offered = set()
    for node in flat(graph(name)).values():
        for model in node["properties"].get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] in folders
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(".safetensors")
            assert "/resolve/main/" in model["url"]
            offered.add(model["name"])
    assert offered == model_files(name)


def test_the_page_is_given_the_pictures_that_the_templates_begin_with(server):
    assert "/extensions/DINOTile/examples.js" in server.get("/extensions")
    for picture in (PACK / "web" / "examples").iterdir():
        with urlopen(f"{server.url}/extensions/DINOTile/examples/{picture.name}", timeout=30) as answer:
            assert answer.read() == picture.read_bytes()


def drawn_for_the_browser(server, name: str) -> Image.Image:
    """A template's thumbnail, of what comes of it on the demo models."""
    if name in SHAPES:
        with Image.open(PACK / "web" / "examples" / "dinotile_shapes.png") as shapes:
            before, said = shapes.convert("RGB"), ""
    else:
        (left, top, side), said = SHOWN[name]
        with Image.open(PACK / "demo" / "sample.jpg") as sample:
            before = sample.convert("RGB").crop((left, top, left + side, top + side))
    photo = server.upload(before, "before.png")
    sent = on_demo_models(prompt(name), photo) if name in FLUX else prompt(name)
    (load,) = (node for node in sent.values() if node["class_type"] == "LoadImage")
    load["inputs"]["image"] = photo
    result = server.wait(server.queue(sent), limit=600)
    assert result.ok, result
    (compared,) = (output for output in result.outputs.values() if "b_images" in output)
    first, second = (server.picture(compared[side][0]).convert("RGB") for side in ("a_images", "b_images"))
    if name in SHAPES:
        return three(before, first, second, said=SHAPES[name])
    return halves(before, second, said=said)


def test_no_two_templates_show_the_same_picture():
    assert len({(PACK / "workflows" / f"{name}.jpg").read_bytes() for name in NAMES}) == len(NAMES)


def test_the_template_browser_lists_every_workflow_with_a_picture(server, request):
    assert sorted(server.get("/api/workflow_templates")["DINOTile"]) == NAMES
    for name in NAMES:
        if request.config.getoption("--rewrite-workflows"):
            save(drawn_for_the_browser(server, name), PACK / "workflows" / f"{name}.jpg")
        served = json.loads(text_at(server, address(name, "json")))
        assert served["version"] == 0.4
        picture = text_at(server, address(name, "jpg"))
        assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 100_000
        with Image.open(PACK / "workflows" / f"{name}.jpg") as thumbnail:
            assert thumbnail.size == (SIDE, SIDE)


def test_every_node_has_a_help_page_that_names_its_inputs(server, info):
    ours = {kind: node for kind, node in info.items() if kind.startswith("DinoTile_")}
    assert {path.stem for path in (PACK / "web" / "docs").glob("*.md")} == set(ours)
    for kind, node in ours.items():
        page = text_at(server, f"/extensions/DINOTile/docs/{kind}.md").decode("ascii")
        assert page.startswith(f"# {node['display_name']}\n")
        table = page.split("## Inputs")[1].split("## Outputs")[0]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")][2:]
        named = [name.strip() for row in rows for name in row.split(",")]
        declared = [*node["input"].get("required", {}), *node["input"].get("optional", {})]
        assert sorted(named) == sorted(declared), kind
