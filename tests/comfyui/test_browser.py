"""What a person meets in ComfyUI's page, in a real browser: templates, widgets, a run, help; drawn both ways."""

import json
import os
import shutil
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from .conftest import LINES
from .page import LIMIT, RENDERERS, find_browser, opened, saved_widgets

PACK = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
KNOWN_SINCE = (0, 33)  # the ComfyUI whose page these tests know
SMALL = (96, 64)


def graph(name: str) -> dict:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def browser() -> str:
    program = find_browser(os.environ.get("CHROMIUM"))
    if program is None:
        pytest.skip("there is no Chromium here: install chromium, or set CHROMIUM to the program")
    return program


@pytest.fixture(scope="module")
def page(browser, server, host, tmp_path_factory):
    """One page for all tests, with the pictures that a fresh ComfyUI has for its Load Image."""
    version = server.get("/system_stats")["system"]["comfyui_version"]
    if tuple(map(int, version.split(".")[:2])) < KNOWN_SINCE:
        pytest.skip(f"the page of ComfyUI {version} is not known here, only that of 0.33 and later")
    for picture in (host / "input").glob("*.png"):
        shutil.copy(picture, server.base / "input")
    shots = tmp_path_factory.mktemp("screenshots")
    LINES.append(f"pictures of the page: {shots}")
    with opened(browser, server.url, shots, prepare=server.post) as page:
        yield page


@pytest.fixture(scope="module", params=RENDERERS)
def drawn(request, page) -> str:
    page.draw_with(request.param)
    return request.param


def test_the_page_opens_without_an_error(page):
    assert page.at_start == []


def test_the_template_browser_shows_every_workflow_with_its_picture_and_opens_one(page):
    with page.quiet():
        page.page.get_by_role("button", name="Templates").click()
        page.page.get_by_text("DINOTile", exact=True).last.click()
        for name in NAMES:
            card = page.page.get_by_test_id(f"template-workflow-{name}")
            card.scroll_into_view_if_needed()
            picture = card.locator("img").first
            page.wait("picture => picture.complete && picture.naturalWidth", picture.element_handle())
        page.shot("templates")
        page.page.get_by_test_id("template-workflow-demo").click()
        page.wait("count => app.rootGraph.nodes.length === count", len(graph("demo")["nodes"]))
    assert {node["type"] for node in page.save()["nodes"]} == {node["type"] for node in graph("demo")["nodes"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_without_an_error_and_keeps_every_value_through_load_and_save(page, server, drawn, name):
    file = server.get(f"/api/workflow_templates/DINOTile/{quote(name)}.json")
    with page.quiet():
        page.load(file)
        if drawn == "vue":
            page.wait("count => document.querySelectorAll('[data-node-id]').length >= count", len(file["nodes"]))
        else:
            assert page.elements() == 0
        values = page.named_values()
        for node in file["nodes"]:
            known = values[str(node["id"])]
            assert {key: known.get(key) for key in node.get("widgets_values_named", {})} == node.get(
                "widgets_values_named", {}
            ), node["type"]
        saved = page.save()
        assert saved_widgets(saved) == saved_widgets(file)
        page.load(saved)
        assert saved_widgets(page.save()) == saved_widgets(file)
        page.shot(f"{name}-{drawn}")


def test_the_demo_runs_from_the_page_and_its_progress_goes_through_encoding_tiles_and_decoding(page, server, drawn):
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        small = server.upload(photo.convert("RGB").resize(SMALL), f"small-{drawn}.png")
    with page.quiet():
        page.load(graph("demo"))
        page.set("LoadImage", "image", small)
        page.page.evaluate(
            "() => { window.heard = []; for (const kind of ['progress', 'execution_error', 'execution_success'])"
            " app.api.addEventListener(kind, event => heard.push([kind, event.detail, document.title])) }"
        )
        page.page.get_by_test_id("queue-button").click()
        page.wait("() => heard.some(([kind]) => kind.startsWith('execution'))")
        heard = page.page.evaluate("() => heard")
        assert heard[-1][0] == "execution_success", heard[-1]
        (node,) = (node for node in graph("demo")["nodes"] if node["type"] == "DinoTile_Upscale")
        steps = node["widgets_values_named"]["steps"]
        told = [detail for kind, detail, _ in heard if kind == "progress" and detail["node"] == str(node["id"])]
        told = [detail["value"] / detail["max"] for detail in told if detail["max"] > 1]  # 1: of the host's enlargement
        dino, encode, first, decode = (part / (steps + 3) for part in (1, 2, 3, steps + 2))
        assert told == sorted(told) and told[-1] == 1
        assert {0, dino, encode, first, decode} <= set(told)  # of later steps the host shows one in a tenth of a second
        shown = [title for _, _, title in heard if "DinoTile_Upscale" in title]
        assert len(set(shown)) >= 3, shown
        page.wait(RESULT[drawn], [2 * side for side in SMALL])
        page.shot(f"ran-{drawn}")
        if drawn == "canvas":
            slide(page)


def slide(page):
    """The middle of the comparison shows another picture on either side of the mouse, and the first again."""
    left, top, width, height = page.wait(COMPARED)
    middle = {"x": left + 0.4 * width, "y": top + 0.4 * height, "width": 0.2 * width, "height": 0.2 * height}

    def drawn(share: float, *, until: Callable[[bytes], bool]) -> bytes:
        page.page.mouse.move(left + share * width, top + 0.6 * height)
        end = time.monotonic() + LIMIT / 1000
        while not until(shown := page.page.screenshot(clip=middle)):
            assert time.monotonic() < end
            page.page.wait_for_timeout(100)
        return shown

    begun = page.page.screenshot(clip=middle)  # with the edge in it
    after = drawn(0.25, until=lambda shown: shown != begun)
    before = drawn(0.75, until=lambda shown: shown not in (begun, after))
    assert before != drawn(0.25, until=lambda shown: shown == after)


@pytest.mark.parametrize("drawn", ["canvas"], indirect=True)
def test_a_comparison_outlasts_its_tab_and_an_undo_and_fills_in_a_subgraph_that_was_closed(page, server, drawn):
    tabs, script = page.page.locator(".workflow-tab"), page.page.evaluate
    with page.quiet():
        page.load(EMPTY)
        script(COMPARISON, server.upload(Image.new("RGB", (64, 64), RED), "red.png"))
        script(MOVE, 50)
        wait_for_colours(page, set())
        script("() => app.queuePrompt(0, 1)")
        wait_for_colours(page, {RED, CYAN})
        page.load(EMPTY)
        tabs.nth(tabs.count() - 2).click()
        wait_for_colours(page, {RED, CYAN})
        script(MOVE, 400)
        script("() => app.extensionManager.command.execute('Comfy.Undo')")
        page.wait("() => app.graph.nodes[0].pos[1] === 50")
        wait_for_colours(page, {RED, CYAN})
        script(f"() => app.graph.convertToSubgraph(new Set([{COMPARING}]))")
        script("() => app.queuePrompt(0, 1)")
        page.wait("() => Object.keys(app.nodeOutputs).some(place => place.includes(':'))")
        script("() => { const node = app.graph.nodes.find(node => node.isSubgraphNode()); "
               "app.canvas.openSubgraph(node.subgraph, node) }")  # fmt: skip
        wait_for_colours(page, {RED, CYAN})
        page.shot("compared")
    gone = [{"filename": "gone.png", "subfolder": "", "type": "temp"}]
    script(
        "told => { for (const place in app.nodeOutputs) app.nodeOutputs[place] = told; app.canvas.setDirty(true, true) }",
        {"a_images": gone, "b_images": gone},
    )
    wait_for_colours(page, set())
    assert [error for error in page.errors if "gone.png" not in error] == []


def wait_for_colours(page, wanted: set):
    """Until the comparison has as many of red and cyan as are wanted."""
    end = time.monotonic() + LIMIT / 1000
    while True:
        left, top, width, height = page.wait(COMPARED)
        shown = page.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})
        colours = Image.open(BytesIO(shown)).convert("RGB").getcolors(2**24)
        if {colour for count, colour in colours if count > 1000} & {RED, CYAN} == wanted:
            return
        assert time.monotonic() < end, page.shot("not-compared")
        page.page.wait_for_timeout(200)


EMPTY = {"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0}
RED, CYAN = (255, 0, 0), (0, 255, 255)
COMPARISON = """picture => {
  const [before, after, node] = ['LoadImage', 'ImageInvert', 'ImageCompare'].map((kind, number) => {
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    node.pos = [50 + 350 * number, 50];
    return node;
  });
  node.size = [350, 350];
  before.widgets[0].value = picture;
  before.connect(0, after, 0);
  before.connect(0, node, 0);
  after.connect(0, node, 1);
  app.canvas.ds.reset();
}"""  # of a picture and its negative
MOVE = """top => {
  app.graph.nodes[0].pos = [50, top];
  const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker; // a mouse would tell it
  (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
}"""

COMPARING = "app.canvas.graph.nodes.find(node => node.type === 'ImageCompare')"
COMPARED = (
    f"() => {{ const node = {COMPARING}"
    + """, { ds } = app.canvas;
  return [...[0, 1].map(axis => (node.pos[axis] + ds.offset[axis]) * ds.scale), ...node.size.map(side => side * ds.scale)];
}"""
)  # left, top, width, height of the node on the page

RESULT = {  # whether Save Image shows a picture of this size
    "canvas": "([width, height]) => app.rootGraph.nodes.find(node => node.type === 'SaveImage').imgs?.some("
    "picture => picture.complete && picture.naturalWidth === width && picture.naturalHeight === height)",
    "vue": "([width, height]) => { const id = app.rootGraph.nodes.find(node => node.type === 'SaveImage').id;"
    " return [...document.querySelectorAll(`[data-node-id='${id}'] img`)].some("
    "picture => picture.naturalWidth === width && picture.naturalHeight === height) }",
}


def test_the_info_of_a_node_shows_its_page_of_help(page, drawn):
    written = (PACK / "web" / "docs" / "DinoTile_Upscale.md").read_text().splitlines()
    title, first = written[0].removeprefix("# "), next(line for line in written[1:] if line)
    with page.quiet():
        page.load(graph("demo"))
        page.page.evaluate(
            "() => app.canvas.selectNode(app.rootGraph.nodes.find(node => node.type === 'DinoTile_Upscale'))"
        )
        page.page.get_by_test_id("info-button").click()
        help = page.page.locator(".node-help-content")
        help.get_by_text(first.split(".")[0]).first.wait_for()
        assert title in help.inner_text()
        assert help.locator("table tr").count() > 20  # inputs and outputs
        page.shot(f"help-{drawn}")
