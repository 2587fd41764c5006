"""ComfyUI's HTTP API and websocket: send a workflow, follow it, bring its pictures back."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import websocket

from ...files.progress import Progress
from .workflow import Workflow, failure, label, left_out, pictures_of, refusal

DEFAULT_SERVER = "http://127.0.0.1:8188"
ANSWER_SECONDS = 30  # for one HTTP request
QUIET_SECONDS = 10  # without a message, before the server is asked whether it still works on the run


class ComfyClient:
    """One ComfyUI server. Every failure is a ValueError in one sentence.

    ``note``: what the server left out of the last workflow, as one sentence; empty where it ran all.
    """

    def __init__(self, server: str = DEFAULT_SERVER) -> None:
        parts = _parts_of(server)
        place = f"{parts.netloc}{parts.path.rstrip('/')}"
        self.server = f"{parts.scheme}://{place}"
        self.socket = f"{'wss' if parts.scheme == 'https' else 'ws'}://{place}/ws"
        self.id = uuid.uuid4().hex
        self.note = ""
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = urllib.request.ProxyHandler({}) if local else urllib.request.ProxyHandler()
        self._opener = urllib.request.build_opener(proxies)

    def upload(self, picture: Path) -> str:
        """Put a picture into the server's input folder and return its name there."""
        boundary = uuid.uuid4().hex
        name = picture.name.replace('"', "_")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        content = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + picture.read_bytes()
        body = content + f"\r\n--{boundary}--\r\n".encode()
        with self._understood("/upload/image"):
            kind = f"multipart/form-data; boundary={boundary}"
            answer = json.loads(self._request("/upload/image", body, kind=kind))
            name = _text(answer, "name")
            return f"{answer['subfolder']}/{name}" if answer.get("subfolder") else name

    def run(self, workflow: Workflow, *, timeout: float = 0, progress: Progress | None = None) -> list[bytes]:
        """Run a workflow to its end and return its pictures' files. ``timeout``: seconds for the whole run, 0 for none.

        Whatever ends this call early (Ctrl-C, the timeout, an error) also stops the run on the server.
        """
        try:
            socket = websocket.create_connection(f"{self.socket}?clientId={self.id}", timeout=ANSWER_SECONDS)
        except (OSError, websocket.WebSocketException) as error:
            raise ValueError(self._unreachable(error)) from error
        run = str(uuid.uuid4())
        try:
            run = self._submit(workflow, run)
            self._follow(socket, run, workflow, timeout=timeout, progress=progress)
        except BaseException:
            self.cancel(run)
            raise
        finally:
            with suppress(OSError, websocket.WebSocketException):
                socket.close(timeout=1)
        with self._understood("/history"):
            images = pictures_of(json.loads(self._request(f"/history/{run}")).get(run, {}))
        if not images:
            raise ValueError(self.note or "the workflow ended without a picture: give it a SaveImage node")
        return [self._request(f"/view?{urllib.parse.urlencode(image)}") for image in images]

    def cancel(self, run: str) -> None:
        """Stop a run, or take it out of the queue; a server that is gone needs neither."""
        for path, body in (("/interrupt", {"prompt_id": run}), ("/queue", {"delete": [run]})):
            with suppress(ValueError):
                self._request(path, json.dumps(body).encode(), timeout=5)

    def _submit(self, workflow: Workflow, run: str) -> str:
        body = json.dumps({"prompt": workflow, "client_id": self.id, "prompt_id": run}).encode()
        with self._understood("/prompt"):
            answer = json.loads(self._request("/prompt", body, workflow=workflow))
            self.note = left_out(answer, workflow)
            return _text(answer, "prompt_id")

    def _follow(
        self, socket: websocket.WebSocket, run: str, workflow: Workflow, *, timeout: float, progress: Progress | None
    ) -> None:
        """Read messages until the run has ended."""
        start = heard = time.monotonic()
        socket.settimeout(0.5)
        while True:
            now = time.monotonic()
            if timeout and now - start > timeout:
                raise ValueError(f"the run took longer than {timeout:g} s and was stopped: raise --timeout")
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                if now - heard > QUIET_SECONDS:
                    if not self._knows(run):
                        raise ValueError(
                            f"{self.server} no longer knows the run: it was restarted, send it again"
                        ) from None
                    heard = now
                continue
            except (OSError, websocket.WebSocketException) as error:
                raise ValueError(
                    f"{self.server} vanished in the middle of the run ({str(error).rstrip('.')}): restart it, run again"
                ) from error
            heard = now
            if not message:
                raise ValueError(
                    f"{self.server} closed the connection in the middle of the run: restart it and run again"
                )
            with self._understood("/ws"):
                if isinstance(message, str) and self._ended(json.loads(message), run, workflow, progress):
                    return

    def _ended(self, message: dict[str, Any], run: str, workflow: Workflow, progress: Progress | None) -> bool:
        """Handle one message; True when it says that the run is over."""
        kind, data = message.get("type"), message.get("data", {})
        if data.get("prompt_id") != run:
            return False
        if kind == "execution_error":
            raise ValueError(failure(data, workflow))
        if kind == "execution_interrupted":
            raise ValueError(f"the run was interrupted on the server at {label(workflow, str(data.get('node_id')))}")
        if kind == "executing" and data.get("node") is None:
            return True
        if progress is not None and kind == "progress_state":
            for state in data.get("nodes", {}).values():
                if state.get("state") in ("running", "finished"):
                    node = str(state.get("display_node_id") or state.get("node_id"))
                    progress(f"{label(workflow, node)} #{node}", float(state["value"]), float(state["max"]))
        return False

    def _knows(self, run: str) -> bool:
        """Whether the run is queued, running or done there."""
        with self._understood("/queue"):
            queue = json.loads(self._request("/queue"))
            waiting = [*queue.get("queue_running", []), *queue.get("queue_pending", [])]
            return any(entry[1] == run for entry in waiting) or run in json.loads(self._request(f"/history/{run}"))

    @contextmanager
    def _understood(self, path: str) -> Iterator[None]:
        """Turn what an answer of another form raises into one ValueError."""
        try:
            yield
        except (AttributeError, LookupError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.server}{path} did not answer as ComfyUI does: check the address") from error

    def _request(
        self,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        workflow: Workflow | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> bytes:
        request = urllib.request.Request(self.server + path, data=body, headers={"Content-Type": kind} if body else {})
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 400 and workflow is not None:
                with suppress(AttributeError, LookupError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
                    raise ValueError(refusal(json.loads(error.read()), workflow)) from error
            raise ValueError(f"{self.server}{path.partition('?')[0]} answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise ValueError(self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> str:
        reason = str(getattr(error, "reason", error)).partition(" -+-+-")[0]  # a websocket error goes on with headers
        return f"{self.server} cannot be reached ({reason}): start ComfyUI there, or give its address with --server"


def _parts_of(server: str) -> urllib.parse.SplitResult:
    """A server's address in its parts, the scheme in lower case. Raises ValueError."""
    try:
        parts = urllib.parse.urlsplit(server)
        (parts.hostname or "").encode("idna")  # also refuses labels over 63 characters
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # UnicodeError is one
        whole = False
    if not whole or parts.query or parts.fragment:
        raise ValueError(f"server {server!r} must be an http or https address such as {DEFAULT_SERVER}")
    return parts


def _text(answer: dict[str, Any], key: str) -> str:
    if not isinstance(answer[key], str):
        raise TypeError(f"{key} is {answer[key]!r}, not text")
    return answer[key]
