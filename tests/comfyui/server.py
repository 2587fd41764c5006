"""A real ComfyUI server in its own process, and a client that talks to it as a browser does."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from PIL import Image

from ..packed import copy_packed

START_LIMIT, RUN_LIMIT = 120, 120  # seconds


@dataclass
class Result:
    """What one prompt came to. Errors are the host's own: ``node_errors`` before it runs, ``error`` while it runs."""

    prompt_id: str = ""
    outputs: dict = field(default_factory=dict)
    node_errors: dict = field(default_factory=dict)
    error: dict | None = None
    interrupted: bool = False
    cached: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.node_errors or self.error or self.interrupted)


class Server:
    """``main.py --cpu`` over a base directory of its own, with the pack as its only custom node.

    imports: seconds in which the host imported the pack, compiled as after a first start, of all starts in this process.
    """

    imports: ClassVar[list[float]] = []

    def __init__(self, host: Path, python: Path, base: Path, pack: Path) -> None:
        self.host, self.python, self.base = host, python, base
        for folder in ("input", "output", "temp", "user", "custom_nodes"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        installed = base / "custom_nodes" / "DINOTile"
        install(pack, installed)
        subprocess.run([python, "-m", "compileall", "-q", installed], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = base / "server.log"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            self.python,
            "main.py",
            "--cpu",
            "--base-directory",
            self.base,
            "--database-url",
            "sqlite:///:memory:",
        ]
        command += ["--disable-api-nodes", "--listen", "127.0.0.1", "--port", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.host,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | {"OMP_NUM_THREADS": "1"},  # on a shared machine waiting threads are slower than one
            )
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                self.imports += map(float, re.findall(r"([\d.]+) seconds: .*DINOTile", self.log))
                return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start, the end of its log:\n{self.log[-4000:]}")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    # HTTP

    def get(self, path: str, **query: str):
        return json.loads(self._open(f"{path}?{urlencode(query)}" if query else path))

    def post(self, path: str, body: dict):
        return json.loads(self._open(path, json.dumps(body).encode(), {"Content-Type": "application/json"}) or b"null")

    def upload(self, picture: Image.Image, name: str) -> str:
        """Put a PNG into the input folder through /upload/image; returns its name for LoadImage."""
        data = io.BytesIO()
        picture.save(data, "png")
        boundary = uuid.uuid4().hex
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: image/png\r\n\r\n"
        ).encode()
        body += (
            data.getvalue()
            + (
                f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{boundary}--\r\n'
            ).encode()
        )
        answer = self._open("/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return json.loads(answer)["name"]

    def picture(self, entry: dict) -> Image.Image:
        """The picture of an entry of ``outputs[node]["images"]``."""
        keys = ("filename", "subfolder", "type")
        data = self._open(f"/view?{urlencode({key: entry[key] for key in keys})}")
        return Image.open(io.BytesIO(data))

    def _open(self, path: str, data: bytes | None = None, headers: dict | None = None) -> bytes:
        with urlopen(Request(self.url + path, data, headers or {}), timeout=30) as answer:
            return answer.read()

    # Prompts

    def queue(self, prompt: dict, *, client_id: str = "", previews: str = "none") -> Result:
        """Send a prompt and do not wait. previews: ``--preview-method``, for this prompt only."""
        body = {"prompt": prompt, "client_id": client_id or uuid.uuid4().hex}
        body["extra_data"] = {"preview_method": previews}
        try:
            return Result(prompt_id=self.post("/prompt", body)["prompt_id"])
        except HTTPError as error:
            answer = json.loads(error.read())
            return Result(node_errors=answer.get("node_errors") or {"": answer["error"]})

    def wait(self, result: Result, *, limit: float = RUN_LIMIT) -> Result:
        """Wait until a queued prompt has ended and fill in what came of it."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            entry = self.get(f"/history/{result.prompt_id}").get(result.prompt_id)
            if entry is not None:
                break
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI has ended, the end of its log:\n{self.log[-4000:]}")
            time.sleep(0.05)
        else:
            raise TimeoutError(f"prompt {result.prompt_id} did not end within {limit} s")
        result.outputs = entry["outputs"]
        for event, data in entry["status"]["messages"]:
            if event == "execution_error":
                result.error = data
            if event == "execution_interrupted":
                result.interrupted = True
            if event == "execution_cached":
                result.cached = data["nodes"]
        return result

    def run(self, prompt: dict, *, limit: float = RUN_LIMIT) -> Result:
        result = self.queue(prompt)
        return result if result.node_errors else self.wait(result, limit=limit)


def install(pack: Path, place: Path) -> None:
    """Copy into custom_nodes what the registry's zip holds; where no git says what that is, all but tests."""
    if (pack / ".git").exists():
        copy_packed(pack, place)
    else:
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(".git", "__pycache__", ".venv", "tests"))
