"""``dinotile run`` in a process of its own, against a real ComfyUI."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from . import graphs
from .server import Result
from .test_graphs import soft_picture

PACK = Path(__file__).parents[2]
WIDTH, HEIGHT = 40, 56
LIMIT = 120  # seconds
MAIN = (  # a process started in the background of a shell ignores SIGINT, one in a terminal does not
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from dinotile.standalone.cli import main; main()"
)


@dataclass
class Job:
    """A folder with a workflow and a picture, and the command on them."""

    folder: Path
    url: str

    @property
    def output(self) -> Path:
        return self.folder / "out.png"

    def start(self, workflow: graphs.Prompt | Path) -> subprocess.Popen:
        if isinstance(workflow, dict):
            (self.folder / "workflow.json").write_text(json.dumps(workflow))
            workflow = self.folder / "workflow.json"
        command = [sys.executable, "-c", MAIN, "run", workflow, "--image", self.folder / "in.png"]
        command += ["-o", self.output, "--server", self.url]
        return subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, workflow: graphs.Prompt | Path) -> tuple[int, str, str]:
        return ended(self.start(workflow))

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


@pytest.fixture
def job(server, tmp_path) -> Job:
    soft_picture(HEIGHT, WIDTH).save(tmp_path / "in.png")
    return Job(tmp_path, server.url)


def refused(job: Job, workflow: graphs.Prompt | Path, *parts: str, on_the_way: bool = False) -> None:
    """One sentence on stderr, after the progress bars where the run fails ``on_the_way``, and no new file."""
    code, out, err = job.run(workflow)
    assert (code, out) == (2, ""), err
    *bars, sentence = err.splitlines()
    assert sentence.startswith("dinotile: ") and (not bars or on_the_way)
    for part in parts:
        assert part in sentence
    assert job.files() == {"in.png"}


def test_a_run_brings_the_picture_back_in_twice_the_size(job):
    code, out, err = job.run(fresh(scale=2.0))
    assert code == 0, err
    assert out.startswith(str(job.output)) and out.count("\n") == 1
    assert job.files() == {"in.png", "out.png"}
    with Image.open(job.output) as picture:
        picture.load()
        assert picture.size == (2 * WIDTH, 2 * HEIGHT)


@pytest.mark.parametrize(
    ("node", "kind", "name"),
    [
        ("flux", "UNETLoader", "unet_name"),
        ("dino", "DinoTile_LoadDino", "dino_name"),
        ("adapter", "DinoTile_LoadAdapter", "adapter_name"),
    ],
)
def test_a_missing_model_is_named_with_its_node_and_input(job, node, kind, name):
    workflow = fresh()
    workflow[node]["inputs"][name] = "nothing.safetensors"
    refused(job, workflow, f"node {node} ({kind}), input {name}", "nothing.safetensors")


def test_a_node_that_fails_is_named_with_its_sentence(job):
    refused(job, fresh(tile=72), "node upscale (DinoTile_Upscale)", "tile 72 must be a multiple of 16", on_the_way=True)


def test_a_graph_of_the_browser_is_refused_before_anything_is_sent(job, base):
    uploaded = set((base / "input").iterdir())
    graph = PACK / "workflows" / "demo.json"
    refused(job, graph, "is a graph of the browser", "export it as API")
    assert set((base / "input").iterdir()) == uploaded


def test_ctrl_c_stops_the_run_on_the_server_too(server, base, job):
    saved = set((base / "output").iterdir())
    process = job.start(fresh(steps=400))
    run = running(server, process)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    code, out, err = ended(process)
    assert time.monotonic() - start < 20
    assert (code, out) == (130, ""), err
    assert "Traceback" not in err and "interrupted, nothing half-written was left" in err
    assert job.files() == {"in.png"}

    stopped = server.wait(Result(prompt_id=run), limit=20)
    assert stopped.interrupted and not stopped.outputs
    emptied(server)
    assert set((base / "output").iterdir()) == saved

    code, _, err = job.run(fresh())
    assert code == 0, err
    assert job.files() == {"in.png", "out.png"}


def running(server, process: subprocess.Popen) -> str:
    """The id of the run that the server works on, as soon as there is one."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        if entries := server.get("/queue")["queue_running"]:
            return entries[0][1]
        time.sleep(0.05)
    raise AssertionError(f"the server never ran it: {ended(process)}")


def emptied(server) -> None:
    end = time.monotonic() + 10
    while any(server.get("/queue").values()):
        assert time.monotonic() < end, server.get("/queue")
        time.sleep(0.05)
