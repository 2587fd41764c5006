"""Where a ComfyUI is, and what is sent along so that it lets us in."""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_SERVER = "http://127.0.0.1:8188"
MAX_BYTES = 2 << 30  # of a file that is brought back
AUTH = "DINOTILE_AUTH"  # in the environment: the Authorization header, or a bearer token alone
OWN_HEADERS = set("accept-encoding connection content-length content-type host transfer-encoding upgrade".split())


@dataclass(frozen=True)
class Address:
    """``place``: host and port as written. ``path``: what comes before ComfyUI's own paths, without a slash at its end."""

    scheme: str
    host: str
    port: int
    place: str
    path: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def local(self) -> bool:
        return self.host in ("localhost", "127.0.0.1", "::1")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"


def parse_address(server: str) -> tuple[Address, str]:
    """A server's address (http:// where no scheme is named), and its ``user:password``, or "". Raises ValueError."""
    try:
        parts = urllib.parse.urlsplit(server if "://" in server else f"http://{server}")
        user, _, place = parts.netloc.rpartition("@")
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port  # refuses labels over 63 characters
        whole = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.:%-]+", host, re.ASCII) and port != 0
        place = place if place.isascii() else f"{host}:{port}" if port else host
    except ValueError:  # UnicodeError is one
        whole = False
    if not whole or parts.query or parts.fragment:
        before, at, shown = server.rpartition("@")  # a password is never shown
        shown = f"{before.partition('://')[0]}://{shown}" if "://" in before else shown
        advice = ", / in a password written as %2F" if at else ""
        raise ValueError(f"server {shown!r} must be an http or https address such as {DEFAULT_SERVER}{advice}")
    path = urllib.parse.quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    port = port or (443 if parts.scheme == "https" else 80)
    return Address(parts.scheme, host, port, place, path), urllib.parse.unquote(user)


def headers_for(user: str, headers: Sequence[str]) -> dict[str, str]:
    """What goes with every request: ``headers`` ("NAME=VALUE" each), else the address's user, else DINOTILE_AUTH.

    Raises ValueError, which never shows a value.
    """
    if isinstance(headers, str):
        raise ValueError('headers must be a list of "NAME=VALUE" texts: write it in brackets')
    sent = dict(_header(header) for header in headers)
    given = os.environ.get(AUTH, "").strip()
    if user:
        given = basic(user if ":" in user else f"{user}:")
    elif given and " " not in given:
        given = f"Bearer {given}"
    if given and "authorization" not in {name.lower() for name in sent}:
        sent["Authorization"] = _value(given, AUTH)
    return sent


def basic(user: str) -> str:
    """An Authorization header's value of ``user:password``."""
    return f"Basic {base64.b64encode(user.encode()).decode()}"


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
        raise ValueError('--header must be NAME=VALUE, for example --header "Authorization=Bearer TOKEN"')
    if name.lower() in OWN_HEADERS or name.lower().startswith("sec-websocket"):
        raise ValueError(f"--header {name} is set by dinotile itself: leave it out")
    return name, _value(value.strip(), f"--header {name}")


def _value(value: str, name: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"the value of {name} holds characters that a header cannot have: give printable ASCII")
    return value
