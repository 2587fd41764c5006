"""Ways for links over more than one column: up beside their source, along above all nodes, and down beside their target.

The page draws a link through its reroutes, points that hang together by ``parentId``, from the source on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

FIRST, NEXT, BESIDE, STEP = (
    60,
    22,
    26,
    9,
)  # px: of the lowest lane above the nodes, between lanes, beside a node, between ways


def around(nodes: Mapping[str, dict], links: list[dict], ends: Mapping[str, tuple[float, float]]) -> list[dict]:
    """The reroutes of one level; writes ``parentId`` into its links. ends: left and right edge of the nodes at its ends."""
    edges = {key: (node["pos"][0], node["pos"][0] + node["size"][0]) for key, node in nodes.items()} | dict(ends)
    lefts = sorted({left for left, _ in edges.values()})
    column = {key: lefts.index(left) for key, (left, _) in edges.items()}
    ceiling = min(node["pos"][1] for node in nodes.values()) - 30
    ways: dict[tuple, dict] = {}
    lanes: dict[tuple, float] = {}
    risers: Counter = Counter()

    def point(key: tuple, side: tuple[int, str], x: float, sign: int, lane: float, parent: dict | None) -> dict:
        if key not in ways:
            ways[key] = {"id": len(ways) + 1, "pos": [x + sign * (BESIDE + STEP * risers[side]), lane], "linkIds": []}
            ways[key] |= {} if parent is None else {"parentId": parent["id"]}
            risers[side] += 1
        return ways[key]

    for link in sorted(links, key=lambda link: (column[str(link["origin_id"])], -link["origin_slot"])):
        source, target = str(link["origin_id"]), str(link["target_id"])
        if column[target] - column[source] < 2:
            continue
        output = (source, link["origin_slot"])
        lane = lanes.setdefault(output, ceiling - FIRST - NEXT * len(lanes))
        up = point(output, (column[source], "right"), edges[source][1], 1, lane, None)
        down = point((*output, column[target]), (column[target], "left"), edges[target][0], -1, lane, up)
        for each in (up, down):
            each["linkIds"].append(link["id"])
        link["parentId"] = down["id"]
    return [*ways.values()]
