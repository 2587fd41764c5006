"""Where the nodes of a template stand: in columns, apart as far as both of the page's renderers need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SIZE = {"width": 310, "title": 30, "gap": 46, "channel": 72, "wide": 190}  # px. gap: below a node, for its footer
VIEW = (76, 108, 1584, 880)  # left, top, right and bottom of what the page leaves of 1600 x 900 to a graph
SLOT, ROW, FOOT, BADGE, TEXT = (
    20,
    28,
    18,
    24,
    50,
)  # px of a socket, a widget, a node's end, our badge, and a text beyond a row
LEAST = 86  # px of a node without its title
KINDS = {"LoadImage": 350, "SaveImage": 220, "ImageCompare": 430, "MarkdownNote": 480, "CLIPTextEncode": 130}
SHOWING = {"DinoTile_PreviewTiles": 300, "DinoTile_PreviewPatches": 300, "PreviewAny": 150}
Columns = tuple[tuple[int, int, tuple[str, ...]], ...]


def height_of(node: dict) -> int:
    """px without the title: what the wider of both renderers needs."""
    if node["type"] in KINDS:
        return KINDS[node["type"]]
    widgets = sum("widget" in each for each in node["inputs"])
    sockets = max(len(node["inputs"]) - widgets, len(node["outputs"]))
    texts = sum("widget" in each and each["type"] == "STRING" for each in node["inputs"])
    height = max(LEAST, sockets * SLOT + widgets * ROW + texts * TEXT + FOOT) + SHOWING.get(node["type"], 0)
    return height + BADGE * node["type"].startswith("DinoTile_")


def columns_of(nodes: Mapping[str, dict], links: list[dict]) -> Columns:
    """Every node to the right of all that it takes from, and as near as it can to what it gives to."""
    takes = {
        key: {str(link["origin_id"]) for link in links if str(link["target_id"]) == key} & set(nodes) for key in nodes
    }
    depth: dict[str, int] = {}
    while len(depth) < len(nodes):
        for key in nodes:
            if takes[key] <= set(depth):
                depth[key] = max((depth[each] + 1 for each in takes[key]), default=0)
    for key in sorted(nodes, key=lambda each: -depth[each]):
        gives = [depth[other] for other in nodes if key in takes[other]]
        depth[key] = max(depth[key], min(gives) - 1) if gives else depth[key]
    count = max(depth.values()) + 1
    return tuple((SIZE["width"], 0, tuple(key for key in nodes if depth[key] == column)) for column in range(count))


def place(
    nodes: Mapping[str, dict], columns: Columns, heights: Mapping[str, int], *, channel: int = SIZE["channel"]
) -> None:
    """Writes ``pos`` and ``size``."""
    left = 0
    for width, top, keys in columns:
        for key in keys:
            nodes[key]["pos"] = [left, top]
            nodes[key]["size"] = [width, heights.get(key, nodes[key]["size"][1])]
            top += nodes[key]["size"][1] + SIZE["title"] + SIZE["gap"]
        left += width + channel


def view(nodes: Iterable[dict]) -> dict:
    """The page's scale and offset with which all nodes are seen, as large as they may be."""
    nodes = [*nodes]
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    bottom = max(node["pos"][1] + node["size"][1] for node in nodes)
    top = min(node["pos"][1] for node in nodes) - SIZE["title"]
    scale = min(1.0, (VIEW[2] - VIEW[0]) / right, (VIEW[3] - VIEW[1]) / (bottom - top))
    return {"scale": round(scale, 3), "offset": [round(VIEW[0] / scale, 1), round(VIEW[1] / scale - top, 1)]}
