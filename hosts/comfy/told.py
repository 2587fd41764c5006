"""What this pack tells of itself over the host's HTTP: its version, by which ``dinotile run`` knows servers that differ."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"  # the one place with the version; the pack is not installed


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
