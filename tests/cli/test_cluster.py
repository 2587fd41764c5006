"""``dinotile upscale --ray`` on a real cluster of two workers of one core, of which one is killed."""

import json
import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from dinotile.cli.batch import Batch
from dinotile.cli.cluster_tiles import Shares
from dinotile.cli.cluster_worker import Worker
from dinotile.cli.kept import Store
from dinotile.files.pictures import Picture, save_picture
from dinotile.tiling.wanted import WantedSize

from ..tiny import picture

LIMIT = 900  # seconds; a machine may be crowded
COUNT = 4


@pytest.fixture
def job(tmp_path, models):
    """Arguments of a job over four pictures, and the folder of its results."""
    (tmp_path / "in").mkdir()
    for number in range(COUNT):
        save_picture(Picture(picture(40, 40 + 8 * number)), tmp_path / "in" / f"{number}.png")
    return ["upscale", tmp_path / "in", *models], tmp_path / "out"


@pytest.fixture
def cluster(monkeypatch):
    """Whether there is a Ray; its workers are told to use one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'dinotile[ray]'")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def lines(out):
    manifest = out / "jobs.jsonl"
    whole = manifest.read_text().splitlines(keepends=True) if manifest.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def actors(driver):
    """The workers below a process, by what Linux says of all."""
    found, parents = [], {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(int(place.name))
    return [pid for pid in found if driver in chain(pid, parents)]


def chain(pid, parents):
    while pid:
        yield pid
        pid = parents.get(pid)


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def test_a_worker_that_is_killed_costs_no_picture_and_results_are_those_of_one_machine(
    cluster, dinotile, dinotile_process, job
):
    arguments, out = job
    assert dinotile(*arguments, "-o", f"{out}-alone/", "--device", "cpu", "--steps", 20)[0] == 0
    command = [*arguments, "-o", f"{out}/", "--manifest", out / "jobs.jsonl", "--device", "cpu", "--steps", 20]
    process = dinotile_process(*command, "--ray", "local", "--workers", 2)
    end = time.monotonic() + LIMIT
    while not (done := [line for line in lines(out) if line["status"] == "done"]):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(int(done[0]["where"].rpartition(" ")[2]), signal.SIGKILL)
    said, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said + err
    assert contents(out) == contents(out.with_name("out-alone"))
    ends = Counter(line["output"] for line in lines(out) if line["status"] == "done")
    assert len(ends) == COUNT and set(ends.values()) == {1}
    begun = Counter(line["output"] for line in lines(out) if line["status"] == "running")
    assert "its worker was lost, another goes on with it" in said and sorted(begun.values()) == [1, 1, 1, 2]
    code, told, _ = dinotile(*command, "--ray", "local")
    assert code == 0 and told.endswith(f"{COUNT} of {COUNT} pictures are done already\n")


def test_workers_that_share_the_tiles_of_a_picture_draw_what_one_machine_does(dinotile, job, tmp_path):
    """Without Ray: what two workers are asked, the last group of each wave first."""
    arguments, out = job
    source, mask = tmp_path / "in" / "3.png", tmp_path / "mask.png"
    save_picture(Picture(picture(40, 64, seed=5)), mask)
    alone = [
        *arguments[2:],
        "--mode",
        "sequential",
        "--width",
        "256",
        "--no-recipe",
        "--device",
        "cpu",
        "--denoise-mask",
        mask,
    ]
    assert dinotile("upscale", source, *alone, "-o", tmp_path / "alone.png")[0] == 0
    models = {"model_path": arguments[arguments.index("--model-path") + 1], "dino": None, "adapter": None}
    settings = {"tile": 64, "overlap": 16, "steps": 2, "mode": "sequential"}
    options = {"variant": "demo", "device": "cpu", "denoise_mask": str(mask), **models, **settings}
    batch, shared = Batch([], recipe=False, store=Store(tmp_path / "store")), tmp_path / "shared.png"
    batch.wanted = WantedSize(width=256)
    workers = [Worker(batch, options) for _ in range(2)]
    shares, turns, groups = Shares.of(workers[0].waves(source, shared).waves, workers=2), cycle(workers), 0
    while not shares.over:
        for group in reversed(shares.following()):
            assert not shares.over and shares.following() == []  # before all of a wave are finished
            done = next(turns).tiles(source, group)
            assert done.failed == ""
            shares.finished(group, done)
            groups += 1
        for gone in [*batch.store.folder.glob("*/*.tile")][:1]:  # as another job may need its room
            gone.unlink()
    last = workers[0].upscale(source, shared)
    assert last.failed == "" and last.report["kept"]["sampled"] == 1
    assert len(last.report["kept"]["reused"]) + 1 == shares.total == shares.done > groups > 4
    assert shared.read_bytes() == (tmp_path / "alone.png").read_bytes()
    whole, parts = shares.whole(last), [found.report for _, found in shares.finds]
    assert whole["kept"]["reused"] == [] and whole["kept"]["sampled"] > shares.total  # all, and those that were gone
    assert whole["seconds"]["sample"] > max(part["seconds"]["sample"] for part in parts) > 0
    assert whole["peak_memory"]["process"] >= last.report["peak_memory"]["process"]
    assert whole["workers"] == len({worker.where for worker in workers}) == 1  # two of one process
    (failed,) = {worker.tiles(Path(tmp_path / "none.png"), [0]).failed for worker in workers}
    assert "none.png" in failed
    workers[1].batch = replace(batch, store=Store(tmp_path / "small", 1e-6))
    assert "raise --store-size" in workers[1].tiles(source, [0]).failed
    assert "does not exist" in workers[0].waves(source, shared / "below.png").failed  # before there are any tiles


def test_a_killed_worker_costs_a_shared_picture_no_finished_tile(cluster, dinotile, dinotile_process, job, tmp_path):
    arguments, _ = job
    source, store = tmp_path / "in" / "3.png", tmp_path / "store"
    command = ["upscale", source, *arguments[2:], "--scale", "6", "--device", "cpu", "--steps", "20", "--no-recipe"]
    assert dinotile(*command, "--mode", "sequential", "-o", tmp_path / "alone.png")[0] == 0
    process = dinotile_process(
        *command, *("--store", store, "-o", tmp_path / "shared.png", "--report", tmp_path / "r.json"),
        *("--ray", "local", "--workers", 2, "--manifest", tmp_path / "jobs.jsonl"),
    )  # fmt: skip
    end = time.monotonic() + LIMIT
    while len(list(store.glob("*/*.tile"))) < 3:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.02)
    first, second = actors(process.pid)
    os.kill(second, signal.SIGKILL)
    said, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and "its worker was lost, another goes on with it" in said, said + err
    assert (tmp_path / "shared.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    (picture_,) = json.loads((tmp_path / "r.json").read_text())["pictures"]
    kept, count = picture_["kept"], picture_["tiles"]["count"]
    assert kept["sampled"] > 0 and count - 3 <= kept["sampled"] + len(kept["reused"]) <= count + 1
    workers = picture_["workers"]  # one, where the other's successor came too late for anything
    assert workers in (1, 2, 3) and (f", by {workers} workers, " in said) is (workers > 1)
    (done,) = [line for line in lines(tmp_path) if line["status"] == "done"]
    assert done["seconds"] > sum(picture_["seconds"].values()) > 0  # of all workers


def test_what_is_wrong_with_a_picture_or_the_models_is_told_by_a_worker(cluster, dinotile_process, job, tmp_path):
    arguments, out = job
    (tmp_path / "in" / "1.png").write_text("no picture")
    process = dinotile_process(
        *arguments, "-o", f"{out}/", "--ray", "local", "--workers", 1, "--report", out / "r.json"
    )
    said, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1 and "1 of 4 pictures failed" in said, said + err
    assert sorted(contents(out)) == ["0.png", "2.png", "3.png"]
    report = json.loads((out / "r.json").read_text())
    assert len(report["pictures"]) == 3 and "1.png is not" in report["failed"][0]["error"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no address"])
def test_a_cluster_that_is_not_there_is_one_sentence(cluster, dinotile_process, job, address):
    arguments, out = job
    process = dinotile_process(*arguments, "-o", f"{out}/", "--ray", address)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 2 and f"the Ray cluster {address} cannot be joined" in err.splitlines()[-1], err


def test_without_ray_it_is_one_sentence(dinotile, job, monkeypatch):
    arguments, out = job
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = dinotile(*arguments, "-o", f"{out}/", "--ray", "local")
    assert (code, err.count("\n")) == (2, 1) and 'ray is not installed: pip install "dinotile[ray]"' in err
    assert not out.exists()
    code, _, err = dinotile(*arguments, "-o", f"{out}/", "--workers", 2)
    assert code == 2 and "--workers acts with --ray only" in err
