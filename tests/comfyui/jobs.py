"""``dinotile run`` in a process of its own, on a workflow and a picture in a folder."""

import json
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from . import graphs

PACK = Path(__file__).parents[2]
DEMO = PACK / "workflows" / "api" / "demo.json"
WIDTH, HEIGHT = 40, 56  # of the picture

LIMIT = 120  # seconds
MAIN = "from dinotile.cli.app import main; main()"  # as the installed command; Python run with -m may end by the signal itself


@dataclass
class Job:
    """A folder with a workflow and a picture, and the command on them."""

    folder: Path
    url: str

    @property
    def output(self) -> Path:
        return self.folder / "out.png"

    def start(self, workflow: graphs.Prompt | Path, *options: object) -> subprocess.Popen:
        command = [sys.executable, "-c", MAIN, "run", self.file(workflow), "--image", self.folder / "in.png"]
        command += ["-o", self.output, "--server", self.url, *options]
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )

    def run(self, workflow: graphs.Prompt | Path, *options: object) -> tuple[int, str, str]:
        return ended(self.start(workflow, *options))

    def file(self, workflow: graphs.Prompt | Path) -> Path:
        if isinstance(workflow, Path):
            return workflow
        (self.folder / "workflow.json").write_text(json.dumps(workflow))
        return self.folder / "workflow.json"

    def files(self) -> set[str]:
        return set(os.listdir(self.folder)) - {"workflow.json"}


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def fresh(**changed) -> graphs.Prompt:
    """The one-node path with a seed that the server has not seen; --image says which picture."""
    return graphs.one_node("", seed=uuid.uuid4().int % 2**32, **changed)


def failed(job: Job, result: tuple[int, str, str], *parts: str, on_the_way: bool = False) -> None:
    code, out, err = result
    assert (code, out) == (2, ""), err
    *bars, sentence = err.splitlines()
    assert sentence.startswith("dinotile: ") and (not bars or on_the_way)
    for part in parts:
        assert part in sentence
    assert job.files() == {"in.png"}


def shown(err: str, node: str) -> tuple[int, int]:
    """How far the bar of a node went, and its maximum."""
    (done,) = re.findall(rf" {re.escape(node)} .* (\d+)/(\d+) ", err)
    return int(done[0]), int(done[1])
