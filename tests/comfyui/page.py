"""ComfyUI's page in a real browser: what it drew, what it keeps of a workflow, and what it complained of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = {  # of a person who has been here before; the rest only saves time where the processor draws
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MaximumFps": 5,
}
RENDERERS = ("canvas", "vue")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1600, "height": 900}
LIMIT = 60_000  # ms, for anything that the page does; a busy machine draws slowly
# What the page complains of without any pack: files of a user that are not there yet, sizes of missing models that it asks
# the hub for, and its own order of start; and that a pack has no page of help in a folder of the language.
OF_THE_HOST = ("/userdata", "/user.css", "missingModelMetadata", "accessed before initialization", "/en.md")


def find_browser(given: str | None) -> str | None:
    """The program of a Chromium: ``given``, else the first of ``BROWSERS`` that is here."""
    return shutil.which(given) if given else next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """A page of a ComfyUI, ready for use. errors: what came to its console since ``quiet`` was last entered; at_start: before."""

    def __init__(self, page: Any, url: str, shots: Path) -> None:
        self.page, self.url, self.shots = page, url, shots
        self.errors: list[str] = []
        page.set_default_timeout(LIMIT)
        page.on("console", lambda said: self._heard(said.text, said.location["url"]) if said.type == "error" else None)
        page.on("pageerror", lambda error: self._heard(f"{error.name}: {error.message}", error.stack or ""))
        page.route(lambda target: not target.startswith(url), lambda route: route.abort())  # nothing beyond the host
        page.goto(url)
        page.wait_for_function("() => window.app?.vueAppReady && app.graph && app.extensionManager")
        page.get_by_test_id("queue-button").wait_for()
        self.at_start = list(self.errors)

    def _heard(self, text: str, where: str) -> None:
        if not any(known in f"{text} {where}" for known in OF_THE_HOST):
            self.errors.append(f"{text} ({where})")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """That nothing inside brings an error to the console."""
        self.errors.clear()
        yield
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert not self.errors, "\n".join(self.errors)

    def draw_with(self, renderer: str) -> None:
        """canvas: ComfyUI draws nodes on its canvas; vue: as elements of the page."""
        vue = renderer == "vue"
        self.page.evaluate("vue => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue)", vue)

    def load(self, graph: dict) -> None:
        """As the page opens a file."""
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)

    def save(self) -> dict:
        """As the page writes a file."""
        return self.page.evaluate("() => app.rootGraph.serialize()")

    def named_values(self) -> dict[str, dict[str, Any]]:
        """{id: {name: value}} of every node's widgets on the first level, as they stand in the page."""
        return self.page.evaluate(
            "() => Object.fromEntries(app.rootGraph.nodes.map(node => [String(node.id),"
            " Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value]))]))"
        )

    def set(self, kind: str, name: str, value: Any) -> None:
        """Set a widget of the only node of a kind."""
        self.page.evaluate(
            "([kind, name, value]) => { const node = app.rootGraph.nodes.find(node => node.type === kind);"
            " const widget = node.widgets.find(widget => widget.name === name);"
            " widget.value = value; widget.callback?.(value) }",
            [kind, name, value],
        )

    def elements(self) -> int:
        """How many nodes are elements of the page."""
        return self.page.locator("[data-node-id]").count()

    def wait(self, condition: str, given: Any = None) -> Any:
        """Until a JavaScript function of ``given`` says something; what it says."""
        return self.page.wait_for_function(condition, arg=given).json_value()

    def shot(self, name: str) -> Path:
        """Keep a picture of the page for review."""
        place = self.shots / f"{name}.png"
        self.page.screenshot(path=place)
        return place


@contextmanager
def opened(browser: str, url: str, shots: Path, *, prepare: Callable[[str, dict], Any]) -> Iterator[Page]:
    """The page of a ComfyUI in a browser that ends with this. prepare: posts to a path of the host before the page opens."""
    from playwright.sync_api import sync_playwright

    prepare("/settings", SETTINGS)
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver, driver.chromium.launch(executable_path=browser, args=options) as running:
        context = running.new_context(viewport=SIZE, reduced_motion="reduce", locale="en-US")
        yield Page(context.new_page(), url, shots)


def saved_widgets(graph: dict) -> dict[tuple[str, str], list]:
    """{(name of a subgraph or nothing, id): values} of all nodes of a file, in the order of their widgets."""
    inner = (graph.get("definitions") or {}).get("subgraphs", [])
    levels = [("", graph["nodes"]), *((subgraph["name"], subgraph["nodes"]) for subgraph in inner)]
    return {(name, str(node["id"])): list(node.get("widgets_values") or []) for name, nodes in levels for node in nodes}
