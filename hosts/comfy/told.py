"""What this pack tells of itself over the host's HTTP: its version, by which ``dinotile run`` knows servers that differ."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGE = __name__.rpartition(".hosts.")[0]
FOLDER = Path(__file__).parents[2]
PROJECT = FOLDER / "pyproject.toml"  # the one place with the version; the pack is not installed


def check_alone() -> None:
    """ValueError where the host has the nodes of another copy of the pack. Two would share node ids and model folders, and the
    host does not start at all where an address is answered twice."""
    import nodes  # the host's

    node = nodes.NODE_CLASS_MAPPINGS.get("DinoTile_Upscale")
    other = PACKAGE if node is None else node.__module__.rpartition(".nodes.")[0]
    if other != PACKAGE:
        web = [name for name, folder in nodes.EXTENSION_WEB_DIRS.items() if Path(folder).is_relative_to(FOLDER)]
        for name in web:
            del nodes.EXTENSION_WEB_DIRS[name]  # its page code would be served beside that of the other
        used, left_out = (Path(sys.modules[name].__file__ or name).parent for name in (other, PACKAGE))
        raise ValueError(
            f"DINOTile is installed twice, in {used}, which is used, and in {left_out}, which is not: remove one of them and "
            "restart ComfyUI"
        )


def register_version() -> None:
    """Answer GET /dinotile/version, where the host serves at all."""
    from aiohttp import web
    from server import PromptServer

    served = getattr(PromptServer, "instance", None)
    found = re.search(r'(?m)^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"))
    if served is None or found is None:
        return

    @served.routes.get("/dinotile/version")
    async def version(request: web.Request) -> web.Response:
        return web.json_response({"dinotile": found[1]})
