"""``dinotile run`` in a process of its own, and its Python function, against a real ComfyUI."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps

import dinotile

from . import graphs
from .graphs import soft_picture
from .jobs import DEMO, HEIGHT, LIMIT, PACK, WIDTH, ended, failed, fresh, shown
from .server import Result


def test_a_run_brings_the_picture_back_in_twice_the_size(job):
    code, out, err = job.run(fresh(scale=2.0, steps=3))
    assert code == 0, err
    done, total = shown(err, "DinoTile_Upscale #upscale")
    assert done == total > 3
    assert out.startswith(str(job.output)) and out.count("\n") == 1
    assert job.files() == {"in.png", "out.png"}
    with Image.open(job.output) as picture:
        picture.load()
        assert picture.size == (2 * WIDTH, 2 * HEIGHT)


def test_the_readmes_command_enlarges_a_photo_that_nobody_prepared(job, tmp_path):
    """A JPEG that lies on its side, of odd size, on the demo models that the pack itself shows to the host."""
    with Image.open(PACK / "demo" / "sample.jpg") as sample:
        lying = sample.resize((131, 97))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    lying.save(tmp_path / "photo.jpg", exif=exif)
    code, _, err = job.run(DEMO, "--image", tmp_path / "photo.jpg")
    assert code == 0, err
    done, total = shown(err, "DINO Tiled Upscale #8")
    assert done == total > 6
    with Image.open(tmp_path / "photo.jpg") as photo, Image.open(job.output) as picture:
        made = picture.convert("RGB")
        known = ImageOps.exif_transpose(photo).resize((194, 262), Image.Resampling.BICUBIC)
    assert made.size == known.size
    error = np.mean((np.asarray(made, float) - np.asarray(known, float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 20  # dB: the same picture


def test_python_runs_a_workflow_as_the_command_does(job):
    workflow, seen = fresh(scale=2.0, steps=2), []
    result = dinotile.run_workflow(
        job.file(workflow),
        job.folder / "in.png",
        server=job.url,
        settings=["upscale.scale=3"],
        progress=lambda *state: seen.append(state),
    )
    (image,) = result.images
    assert image.size == (3 * WIDTH, 3 * HEIGHT) and result.note == ""
    assert any(stage == "DinoTile_Upscale #upscale" and done == total > 2 for stage, done, total in seen)
    assert result.save(job.folder / "python.png") == [job.folder / "python.png"]
    assert (job.folder / "python.png").read_bytes() == result.files[0]

    code, _, err = job.run(workflow, "--set", "upscale.scale=3")
    assert code == 0, err
    with Image.open(job.output) as picture:
        assert picture.tobytes() == image.tobytes()


def test_python_refuses_what_the_command_refuses(job):
    file, picture = job.file(fresh()), job.folder / "in.png"
    with pytest.raises(ValueError, match="has no input depth"):
        dinotile.run_workflow(file, picture, server=job.url, settings=["upscale.depth=3"])
    with pytest.raises(ValueError, match=r"no\.png does not exist"):
        dinotile.run_workflow(file, job.folder / "no.png", server=job.url)
    with pytest.raises(ValueError, match=r"node upscale \(DinoTile_Upscale\).*tile 72 must be a multiple of 16"):
        dinotile.run_workflow(file, picture, server=job.url, settings=["upscale.tile=72"])


def test_what_the_server_left_out_is_said_at_the_end(job):
    """ComfyUI runs the outputs that are valid and names the others."""
    workflow = fresh()
    workflow["second"] = graphs.node("ImageScaleBy", image=("image", 0), upscale_method="lanczos")
    workflow["second save"] = graphs.node("SaveImage", images=("second", 0), filename_prefix="second")
    code, out, err = job.run(workflow)
    assert code == 2, err
    assert out.startswith(str(job.output)) and out.count("\n") == 1 and job.files() == {"in.png", "out.png"}
    assert err.splitlines()[-1] == (
        "dinotile: the server ran only a part of the workflow: "
        "node second (ImageScaleBy), input scale_by: Required input is missing"
    )


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


def test_what_a_run_left_is_fetched_again_and_animations_stay_whole(server, job):
    workflow = fresh()
    still = graphs.node("SaveImage", images=("upscale", 0), filename_prefix="still")
    moving = graphs.node("ImageBatch", image1=("upscale", 0), image2=("image", 0))
    saver = {
        "images": ["2", 0],
        "filename_prefix": "moving",
        "fps": 6,
        "lossless": True,
        "quality": 80,
        "method": "default",
    }
    workflow |= {"10": still, "2": moving, "9": {"class_type": "SaveAnimatedWEBP", "inputs": saver}}
    workflow |= {"8": graphs.node("PreviewImage", images=("upscale", 0))}
    del workflow["save"]
    code, out, err = job.run(workflow, "--set", "10.filename_prefix=again")
    assert code == 0, err
    assert job.files() == {"in.png", "out.webp", "out-2.png"}
    assert "from SaveAnimatedWEBP #9" in out.splitlines()[0] and "from SaveImage #10" in out.splitlines()[1]
    with Image.open(job.folder / "out.webp") as picture:
        assert picture.n_frames == 2

    run = list(server.get("/history"))[-1]
    code, _, err = job.run(workflow)
    assert code == 2 and "out.webp exists already" in err and "(and 1 more)" in err
    (job.folder / "out.webp").unlink()
    command = [sys.executable, "-m", "dinotile.cli", "fetch", run, "--server", job.url, "-o", job.output]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0 and "out-2.png  from SaveImage #10  (was there already)" in done.stdout, done.stderr
    assert job.files() == {"in.png", "out.webp", "out-2.png"}


def test_a_run_that_is_deleted_from_the_queue_says_so(server, job):
    busy = server.queue(graphs.one_node(server.upload(soft_picture(HEIGHT, WIDTH), "busy.png"), steps=400, seed=1))
    process = job.start(fresh())
    end = time.monotonic() + LIMIT
    while not (pending := server.get("/queue")["queue_pending"]):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    server.post("/queue", {"delete": [pending[0][1]]})
    try:
        failed(job, ended(process), f"somebody deleted the run from the queue of {job.url}")
    finally:
        server.post("/interrupt", {"prompt_id": busy.prompt_id})
        emptied(server)


def test_a_proxy_that_cuts_websockets_ends_no_run(server, job):
    """All bytes go through; a websocket lives for a fifth of a second."""
    cut = []

    def forward(source, target):
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client):
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", server.port)) as behind:
            head = client.recv(1 << 16)
            behind.sendall(head)
            ways = [
                threading.Thread(target=forward, args=way, daemon=True) for way in ((client, behind), (behind, client))
            ]
            for way in ways:
                way.start()
            if b" /ws?" in head:
                cut.append(head)
                time.sleep(0.2)
                for end in (client, behind):
                    end.shutdown(socket.SHUT_RDWR)
            else:
                ways[1].join()

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        job.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        code, _, err = job.run(fresh(steps=60))
        listening.shutdown(socket.SHUT_RDWR)
    assert code == 0 and job.files() == {"in.png", "out.png"}, err
    assert len(cut) > 1 and len({re.search(rb"clientId=(\w+)", head)[1] for head in cut}) == 1


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
