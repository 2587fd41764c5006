"""What a browser is told while graphs run."""

import io
import json
import struct
import uuid

import numpy as np
import pytest
import websocket
from PIL import Image

from . import graphs
from .graphs import node
from .server import Result

pytestmark = pytest.mark.usefixtures("clean_log")
PREVIEW_IMAGE = 1  # ComfyUI's protocol.py


def watch(server, prompt, at: str, **settings) -> tuple[set[tuple[int, int]], list[Image.Image]]:
    """What a browser is sent while node ``at`` runs: (step, steps), and previews."""
    result, steps, previews = watched(server, prompt, at, **settings)
    assert result.ok
    return steps, previews


def watched(server, prompt, at: str, *, at_progress=lambda: None, **settings) -> tuple[Result, set, list[Image.Image]]:
    """The same, also of a run that does not end well. at_progress: called whenever the node tells how far it is."""
    client = uuid.uuid4().hex
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={client}", timeout=60)
    queued = server.queue(prompt, client_id=client, **settings)
    steps, previews, running = set(), [], ""
    while running is not None:
        message = socket.recv()
        if isinstance(message, bytes):
            if struct.unpack(">I", message[:4]) == (PREVIEW_IMAGE,):
                assert running == at
                previews.append(Image.open(io.BytesIO(message[8:])))
            continue
        event = json.loads(message)
        if event["type"] == "progress" and event["data"]["node"] == at:
            steps.add((event["data"]["value"], event["data"]["max"]))
            at_progress()
        if event["type"] == "executing":
            running = event["data"]["node"]
    socket.close()
    return server.wait(queued), steps, previews


def test_progress_is_reported_while_tiles_are_sampled(server, small):
    steps, previews = watch(server, graphs.one_node(small, steps=3, seed=11), "upscale")
    assert len(steps) > 1 and max(steps) == (600, 600)  # ComfyUI leaves out what follows too fast
    assert previews == []
    _, previews = watch(server, graphs.one_node(small, steps=3, seed=12), "upscale", previews="latent2rgb")
    assert [preview.size for preview in previews] == [(512, 384)] * 3


def test_an_interrupt_ends_the_drawing_of_many_tiles(server):
    canvas = {"width": 4096, "height": 4096}
    prompt = {
        "plan": node("DinoTile_PlanTiles", **canvas, tile=64, overlap=16),
        "canvas": node("EmptyImage", **canvas, batch_size=1, color=0),
        "view": node("DinoTile_PreviewTiles", plan=("plan", 0), image=("canvas", 0)),
    }
    stop = iter([True])
    result, steps, _ = watched(
        server, prompt, "view", at_progress=lambda: next(stop, False) and server.post("/interrupt", {})
    )
    assert result.interrupted and max(steps)[0] < 4096 == max(steps)[1]


def test_the_tiled_sampler_sends_progress_and_previews_of_the_whole_canvas(server, small):
    prompt = graphs.step_by_step(small, tile=64, overlap=16, seed=11) | graphs.by_tiled_sampler()
    prompt["sigmas"]["inputs"]["steps"] = 3
    steps, previews = watch(server, prompt, "sampler", previews="latent2rgb")
    assert len(steps) > 1 and max(steps) == (3, 3)
    assert len(previews) > 1
    for preview in previews:
        assert preview.size == (512, 384)  # ComfyUI's largest, in the shape of 128 x 96
        assert np.asarray(preview).std() > 5
