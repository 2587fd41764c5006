"""The templates as a person meets them: readable when they open, nothing over anything else, with pictures to begin with."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinotile import demo
from dinotile.demo.train import world

from ..comfyui.flat import INPUT, NOTES, OUTPUT, graph, levels
from ..comfyui.templates import TEMPLATES

PACK = Path(__file__).parents[2]
EXAMPLES = PACK / "web" / "examples"
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
TITLE, FOOTER, SLOT, ROW = (
    30,
    34,
    20,
    28,
)  # px: above a node's place; what Vue nodes hang below one; of a socket; of a widget
PAGE, FILL = (1600, 900), 0.75  # the page fits a template into so much of itself
SCENE = 2_000_001  # the seed of the shapes


@pytest.fixture(params=NAMES)
def drawn(request) -> dict:
    return graph(request.param)


def box(node: dict, below: int = 0) -> tuple[float, float, float, float]:
    """Left, top, right, bottom, with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height + below


def ends(link: dict, level: dict) -> tuple[np.ndarray, np.ndarray]:
    """Where a link leaves and where it enters."""
    nodes = {node["id"]: node for node in level["nodes"]}
    if link["origin_id"] == INPUT:
        left, top, width, _ = level["inputNode"]["bounding"]
        start = (left + width, top + SLOT * (link["origin_slot"] + 1))
    else:
        source = nodes[link["origin_id"]]
        start = (source["pos"][0] + source["size"][0], source["pos"][1] + SLOT * (link["origin_slot"] + 0.7))
    if link["target_id"] == OUTPUT:
        left, top, *_ = level["outputNode"]["bounding"]
        return np.array(start), np.array((left, top + SLOT * (link["target_slot"] + 1)))
    target = nodes[link["target_id"]]
    sockets = [slot for slot in target["inputs"] if "widget" not in slot]
    widgets = [slot for slot in target["inputs"] if "widget" in slot]
    entered = target["inputs"][link["target_slot"]]
    row = SLOT * len(sockets) + ROW * (widgets.index(entered) + 0.5) if entered in widgets else 0.0
    return np.array(start), np.array(
        (target["pos"][0], target["pos"][1] + (row or SLOT * (sockets.index(entered) + 0.7)))
    )


def curve(link: dict, level: dict) -> np.ndarray:
    """Points of a link as the page draws it: splines through its reroutes, which leave and enter the nodes level, by a quarter of
    the way to the next point."""
    start, end = ends(link, level)
    reroutes, way, at = {each["id"]: each for each in level.get("reroutes", [])}, [end], link.get("parentId")
    while at is not None:
        way.insert(0, np.array(reroutes[at]["pos"], float))
        at = reroutes[at].get("parentId")
    points, t = [], np.linspace(0, 1, 200)[:, None]
    for number, (one, two) in enumerate(zip([start, *way], way, strict=False)):
        reach = np.array([np.linalg.norm(two - one) / 4, 0])
        out, back = one + reach * (number == 0), two - reach * (number == len(way) - 1)
        points.append((1 - t) ** 3 * one + 3 * (1 - t) ** 2 * t * out + 3 * (1 - t) * t**2 * back + t**3 * two)
    return np.concatenate(points)


def test_every_template_lets_before_and_after_be_compared(drawn):
    (compare,) = [node for node in drawn["nodes"] if node["type"] == "ImageCompare"]
    sources = {link[1:3][0] for link in drawn["links"] if link[3] == compare["id"]}
    assert len(sources) == 2


def test_every_template_has_a_handful_of_nodes_and_one_note(drawn):
    assert len(drawn["nodes"]) <= 10
    assert [node["type"] for node in drawn["nodes"] if node["type"] in NOTES] == ["MarkdownNote"]
    for node in drawn["nodes"]:
        if node["type"] in [inner["id"] for inner in drawn["definitions"]["subgraphs"]]:
            assert sum("widget" in slot for slot in node["inputs"]) <= 7


def test_the_first_template_for_flux_hides_nothing():
    first = graph("FLUX.1 upscale")
    assert not first["definitions"]["subgraphs"]
    assert "DinoTile_Upscale" in [node["type"] for node in first["nodes"]]


def test_numbers_are_used_once_over_all_subgraphs(drawn):
    """The page gives a node another one else, and the prompt's ids are no longer those of the graph."""
    ids = [node["id"] for _, level in levels(drawn) for node in level["nodes"]]
    assert len(ids) == len(set(ids))


def test_no_two_nodes_overlap_with_their_titles_and_footers(drawn):
    for _, level in levels(drawn):
        boxes = [box(node, FOOTER) for node in level["nodes"]]
        for number, one in enumerate(boxes):
            for other in boxes[:number]:
                apart = one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
                assert apart, (one, other)


def test_no_link_passes_behind_a_node(drawn):
    for _, level in levels(drawn):
        for link in level["links"]:
            points = curve(link, level)
            for node in level["nodes"]:
                left, upper, right, lower = box(node)
                x, y = points.T
                behind = (x > left + 1) & (x < right - 1) & (y > upper) & (y < lower)
                assert not behind.any(), (link, node["title"])


def test_a_template_opens_so_that_its_titles_can_be_read(drawn):
    boxes = np.array([box(node, FOOTER) for node in drawn["nodes"]])
    width, height = boxes[:, 2].max() - boxes[:, 0].min(), boxes[:, 3].max() - boxes[:, 1].min()
    assert FILL * min(PAGE[0] / width, PAGE[1] / height) >= 0.74  # of the page's 14 px


def test_the_templates_begin_with_pictures_that_are_shipped_and_that_the_page_uploads(drawn):
    offered = re.search(r"const EXAMPLES = \[(.*)\]", (PACK / "web" / "examples.js").read_text())
    assert offered and sorted(re.findall(r'"([^"]+)"', offered[1])) == sorted(path.name for path in EXAMPLES.iterdir())
    (load,) = [node for node in drawn["nodes"] if node["type"] == "LoadImage"]
    assert (EXAMPLES / load["widgets_values"][0]).is_file()


def test_the_shapes_are_a_source_of_the_benchmark_world_and_the_photo_is_the_demos():
    scene = world.scene(np.random.default_rng(SCENE))
    with Image.open(EXAMPLES / "dinotile_shapes.png") as shapes:
        assert np.array_equal(np.asarray(shapes), (scene.source() * 255).round().astype(np.uint8))
    assert (EXAMPLES / "dinotile_photo.jpg").read_bytes() == demo.SAMPLE.read_bytes()


def test_the_files_are_those_of_the_table():
    assert NAMES == sorted(TEMPLATES)
    for title, drawing in TEMPLATES.items():
        (note,) = [node for node in graph(title)["nodes"] if node["type"] in NOTES]
        assert note["widgets_values"] == [drawing.note]
