"""A ComfyUI in its own process with a few packs, and prompts sent to it."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from PIL import Image

Prompt = dict[str, dict[str, Any]]
START_S = 300


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """A link is (id of another node, number of its output)."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}


class Server:
    """``main.py`` of a ComfyUI over a base folder of its own. packs: name in custom_nodes, and what is linked there."""

    def __init__(self, comfyui: Path, base: Path, packs: dict[str, Path], options: list[str]) -> None:
        self.base, self.log = base, base / "server.log"
        for folder in ("input", "output", "temp", "user", "models", "custom_nodes"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for name, pack in packs.items():
            (base / "custom_nodes" / name).symlink_to(pack.absolute())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        own = [
            place for place in (comfyui / ".venv/bin/python", comfyui / ".venv/Scripts/python.exe") if place.exists()
        ]
        command = [str(own[0] if own else sys.executable), "main.py", "--base-directory", str(base.absolute())]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--port", str(port), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT, env=os.environ)

    def __enter__(self) -> Server:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise SystemExit(f"ComfyUI did not start, the end of its log:\n{self.log.read_text(errors='replace')[-3000:]}")

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def get(self, path: str) -> Any:
        with urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def run(self, prompt: Prompt) -> dict[str, Any]:
        """The outputs by node; SystemExit where it fails."""
        body = json.dumps({"prompt": prompt}).encode()
        try:
            with urlopen(
                Request(f"{self.url}/prompt", body, {"Content-Type": "application/json"}), timeout=60
            ) as answer:
                number = json.loads(answer.read())["prompt_id"]
        except HTTPError as error:
            raise SystemExit(f"ComfyUI refused the prompt: {error.read().decode(errors='replace')[:2000]}") from None
        while number not in (history := self.get(f"/history/{number}")):
            if self.process.poll() is not None:
                raise SystemExit(f"ComfyUI ended, the end of its log:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        found = history[number]
        if found["status"]["status_str"] != "success":
            raise SystemExit(f"the prompt failed: {json.dumps(found['status']['messages'][-1])[:2000]}")
        return found["outputs"]

    def picture(self, entry: dict[str, str]) -> Image.Image:
        """Of ``outputs[node]["images"]``."""
        query = urlencode({key: entry[key] for key in ("filename", "subfolder", "type")})
        with urlopen(f"{self.url}/view?{query}", timeout=60) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB")
