"""``dinotile run`` over several real ComfyUI servers, of which one dies."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from dinotile.files.pictures import Picture, save_picture

from ..tiny import picture
from . import graphs
from .conftest import PACK
from .server import Server

LIMIT = 900  # seconds; a machine may be crowded
COUNT = 4


@pytest.fixture(scope="module")
def second(host, host_python, base, tmp_path_factory):
    """Another server with the same models."""
    own = tmp_path_factory.mktemp("second")
    (own / "models").symlink_to(base / "models")
    server = Server(host, host_python, own, PACK)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def job(tmp_path):
    """A folder with pictures and a workflow."""
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        save_picture(Picture(picture(40, 40 + 8 * number)), tmp_path / "in" / f"{number}.png")
    write(tmp_path, "workflow.json", steps=2)
    return tmp_path


def write(job, name, **inputs):
    (job / name).write_text(json.dumps(graphs.one_node("", **inputs)))


def start(job, *servers, out="out", workflow="workflow.json"):
    return run(job, workflow, "in", f"{out}/", *servers, options=("--manifest", f"{out}/jobs.jsonl"))


def run(job, workflow, image, output, *servers, options=()):
    command = [sys.executable, "-m", "dinotile.cli", "run", workflow, "--image", image, "-o", output, *options]
    command += [part for server in servers for part in ("--server", server)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=job, env=os.environ | {"COLUMNS": "200"}, **pipes)


def ended(process):
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def lines(job, out="out"):
    manifest = job / out / "jobs.jsonl"
    whole = manifest.read_text().splitlines(keepends=True) if manifest.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def ends(job, out="out"):
    """How often each picture was done."""
    return Counter(os.path.basename(line["output"]) for line in lines(job, out) if line["status"] == "done")


def queued(server, state, seed):
    """Whether a server has a graph of a seed in its queue: "pending" behind another, or "running"."""
    return any(entry[2]["upscale"]["inputs"]["seed"] == seed for entry in server.get("/queue")[f"queue_{state}"])


def long_run(job, server):
    """A command for one picture that the server works on, and longer than it will live."""
    large = Image.new("RGB", (512, 512))
    large.save(job / "large.png")
    write(job, "long.json", steps=1000, seed=3)
    assert server.queue(graphs.one_node(server.upload(large, "large.png"), steps=1000, seed=2)).ok  # until it is queued
    process = run(job, "long.json", "large.png", "large out.png", server.url)
    until(lambda: queued(server, "running", 2) and queued(server, "pending", 3), process)
    server.post("/interrupt", {})
    until(lambda: queued(server, "running", 3), process)
    return process


def until(happened, process):
    """Wait for it, while that process runs."""
    end = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


def contents(job, out="out"):
    """Pixels: the host writes into a file's text where the server has its models."""
    return {path.name: np.asarray(Image.open(path)).tolist() for path in (job / out).glob("*.png")}


def test_two_servers_share_the_pictures_and_one_that_is_killed_costs_none(server, second, job, report):
    code, out, err = ended(start(job, server.url, second.url, "127.0.0.1:1"))
    assert (
        code == 0 and f"0 of {COUNT} pictures are done already" in out and "http://127.0.0.1:1 is left out: " in out
    ), out + err
    assert len(contents(job)) == COUNT
    shares = Counter(line["where"] for line in lines(job) if line["status"] == "done")
    assert shares.keys() == {server.url, second.url} and sum(shares.values()) == COUNT
    assert {line["dinotile"] for line in lines(job)} == {server.get("/dinotile/version")["dinotile"]}
    code, out, err = ended(start(job, server.url, second.url))
    assert code == 0 and out == f"out/jobs.jsonl: {COUNT} of {COUNT} pictures are done already\n", out + err
    report(f"{COUNT} pictures on two servers: {sorted(shares.values())}")

    # half of the inputs change, and another workflow is asked for: all of it is sent again, and the second server dies
    for number in range(0, COUNT, 2):
        save_picture(Picture(1 - picture(40, 40 + 8 * number)), job / "in" / f"{number}.png")
    write(job, "workflow.json", steps=4)
    write(job, "other.json", steps=12, seed=1)
    lone = start(job, second.url, out="lone", workflow="other.json")
    until(lambda: ends(job, "lone"), lone)
    single = long_run(job, second)
    both = start(job, server.url, second.url)
    until(lambda: queued(second, "pending", 0), both)
    second.process.kill()
    second.process.wait()
    start_of_wait = time.monotonic()
    code, out, err = ended(single)
    assert time.monotonic() - start_of_wait < 20
    *_, sentence = err.splitlines()
    assert (code, out) == (2, "") and not (job / "large out.png").exists(), err
    assert sentence.startswith(f"dinotile: {second.url} vanished in the middle of the run")
    code, out, err = ended(both)
    assert code == 0 and f"{second.url} is left out: " in out and "vanished in the middle" in out, out + err
    assert f"0 of {COUNT} pictures are done already, {COUNT} changed since and done again" in out
    assert ends(job) == {name: 2 for name in contents(job)}  # those of the former workflow, and these
    code, _, err = ended(start(job, server.url, out="again"))
    assert code == 0 and contents(job, "again") == contents(job), err

    # whose only server it was
    code, out, err = ended(lone)
    done = len(ends(job, "lone"))
    said = (
        f"no server is left, and {COUNT - done} of {COUNT} pictures are not done: start one, and give the same command"
    )
    assert code == 2 and done and said in err.splitlines()[-1], out + err
    code, out, err = ended(start(job, server.url, out="lone", workflow="other.json"))
    assert code == 0 and f"{done} of {COUNT} pictures are done already" in out, out + err
    assert len(contents(job, "lone")) == COUNT and set(ends(job, "lone").values()) == {1}
    report(f"{COUNT} pictures, {done} of them done when their only server was killed: each done once")


def test_servers_that_do_not_answer_are_one_sentence(job):
    code, _, err = ended(start(job, "127.0.0.1:1", "127.0.0.1:2"))
    *_, sentence = err.splitlines()
    assert code == 2 and sentence.startswith("dinotile: no server answers: ") and not (job / "out").exists()


def test_a_picture_that_fails_on_the_servers_is_listed_and_the_others_are_done(server, job):
    (job / "in" / "3.png").write_text("no picture")
    code, out, err = ended(start(job, server.url))
    assert code == 1 and f"1 of {COUNT} pictures failed" in out and len(contents(job)) == COUNT - 1, out + err
    (failed,) = [line for line in lines(job) if line["status"] == "failed"]
    assert re.search(r"3\.png", failed["source"]) and "LoadImage" in failed["why"]
