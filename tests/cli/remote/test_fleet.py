"""What a job over several servers makes of files that are there already."""

import json

import pytest

from .stand_in import png
from .test_workflow import WORKFLOW


@pytest.fixture
def job(tmp_path, stand_in):
    """Arguments of a job with a manifest, and the folder of its results."""
    (tmp_path / "in.png").write_bytes(png())
    workflow = tmp_path / "workflow.json"
    arguments = ["run", workflow, "--image", tmp_path / "in.png", "-o", f"{tmp_path}/out/", "--server", stand_in.url]
    changes(workflow, stand_in, "red")
    return [*arguments, "--manifest", tmp_path / "jobs.jsonl"], tmp_path / "out"


def changes(workflow, server, *colors, size=(8, 8)):
    """The workflow becomes another one, with a result of each colour."""
    nodes = {name: {**node, "_meta": {"title": f"{name} {colors} {size}"}} for name, node in WORKFLOW.items()}
    workflow.write_text(json.dumps(nodes))
    server.files = {f"{color}.png": png(size, color) for color in colors}
    shown = [{"filename": name, "subfolder": "", "type": "output"} for name in server.files]
    server.outputs = {"9": {"images": shown}}


def test_a_further_result_takes_the_place_of_no_file_that_the_job_did_not_write(dinotile, job, stand_in):
    arguments, out = job
    assert dinotile(*arguments)[0] == 0
    (out / "in-2.png").write_text("mine")
    changes(arguments[1], stand_in, "green", "blue")
    for _ in range(2):
        code, said, _ = dinotile(*arguments)
        assert code == 1 and "in-2.png exists already" in said
        assert (out / "in-2.png").read_text() == "mine" and (out / "in.png").read_bytes() == png(color="red")
    assert dinotile(*arguments, "--overwrite")[0] == 0 and (out / "in-2.png").read_bytes() == png(color="blue")


def test_further_results_that_the_job_wrote_are_its_own_also_where_it_was_cut_short(dinotile, job, stand_in):
    arguments, out = job
    for size in ((8, 8), (16, 8), (24, 8)):
        changes(arguments[1], stand_in, "green", "blue", size=size)
        assert dinotile(*arguments)[0] == 0 and (out / "in-2.png").read_bytes() == png(size, "blue")
        if size == (16, 8):
            done = arguments[-1].read_text().splitlines(keepends=True)
            arguments[-1].write_text("".join(done[:-1]))
    (out / "in-2.png").write_text("mine")
    changes(arguments[1], stand_in, "blue", "green")
    assert dinotile(*arguments)[0] == 1 and (out / "in-2.png").read_text() == "mine"
