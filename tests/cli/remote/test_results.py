"""What becomes of a run's files: none lost, none written over."""

import json
import os
import signal
from io import BytesIO

import pytest
from PIL import Image

import dinotile as package
from dinotile.cli.remote import client, results

from .stand_in import answer, http, png
from .test_following import refused


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(client, "POLL", 0.05)
    monkeypatch.setattr(client, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(client, "HURRY", 0.05)


def shown(*names, kind="output", key="images", **more):
    return {key: [{"filename": name, "subfolder": "", "type": kind} for name in names], **more}


def several(server):
    server.files = {name: png(color=name.partition(".")[0]) for name in ("red.png", "green.png", "blue.png")}
    server.outputs = {"10": shown("blue.png"), "9": shown("red.png"), "9:2": shown("green.png")}


def color(path):
    with Image.open(path) as image:
        return {(255, 0, 0): "red", (0, 128, 0): "green", (0, 0, 255): "blue"}[image.getpixel((0, 0))]


def test_results_come_in_the_order_of_node_ids_and_say_their_node(dinotile, sent, stand_in):
    arguments, output = sent
    several(stand_in)
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0, err
    places = [output, output.with_stem("out-2"), output.with_stem("out-3")]
    assert [color(place) for place in places] == ["red", "green", "blue"]
    for line, place, node in zip(out.splitlines(), places, ("9", "9:2", "10"), strict=True):
        assert line.startswith(f"{place}  from node {node} #{node}  (")
    result = package.run_workflow(arguments[1], arguments[3], server=stand_in.url)
    assert [output.node for output in result.outputs] == ["9", "9:2", "10"] and result.prompt_id == stand_in.run
    assert len(result.images) == 3 and result.files[2] == stand_in.files["blue.png"]


def test_no_file_is_written_over_unless_it_is_asked_for(dinotile, sent, stand_in):
    arguments, output = sent
    several(stand_in)
    output.write_text("mine")
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert (code, out) == (2, "") and f"output {output} exists already" in err and "--overwrite" in err
    assert output.read_text() == "mine" and not stand_in.requests
    output.unlink()
    second, third = output.with_stem("out-2"), output.with_stem("out-3")
    second.write_text("mine")
    output.with_stem("out-2024").write_text("no place of a result")
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 2 and f"output {second} exists already" in err and f"dinotile fetch {stand_in.run}" in err
    assert second.read_text() == "mine" and (color(output), color(third)) == ("red", "blue")
    code, _, err = dinotile(*arguments, "--server", stand_in.url, "--overwrite")
    assert code == 0, err
    assert color(output) == "red" and color(second) == "green"


@pytest.mark.parametrize("name", ["out.png", "out-2.png", "out-3.png"])
@pytest.mark.parametrize("link", [False, True])
def test_no_output_takes_the_place_of_the_picture_that_was_sent(dinotile, sent, stand_in, name, link):
    arguments, output = sent
    several(stand_in)
    picture = output.with_name(name)
    if link:
        os.link(output.with_name("in.png"), picture)
        picture = output.with_name("in.png")
    else:
        picture.write_bytes(png())
    arguments[3], before = picture, picture.read_bytes()
    code, out, err = dinotile(*arguments, "--server", stand_in.url, "--overwrite")
    assert (code, out) == (2, "") and f"output {output.with_name(name)} is the input itself" in err
    assert picture.read_bytes() == before and not stand_in.requests


def test_a_result_with_an_ending_of_its_own_does_not_take_the_place_of_the_picture(dinotile, sent, stand_in):
    arguments, output = sent
    arguments[3] = output.with_suffix(".gif")
    arguments[3].write_bytes(b"GIF89a mine")
    stand_in.files, stand_in.outputs = {"a.gif": b"theirs"}, {"3": shown("a.gif")}
    code, _, err = dinotile(*arguments, "--server", stand_in.url, "--overwrite")
    assert code == 2 and "is the input itself" in err and f"dinotile fetch {stand_in.run}" in err
    assert arguments[3].read_bytes() == b"GIF89a mine"


WHOLE = png((64, 64))
CUTS = {
    "of fewer bytes than said": http("200 OK", WHOLE)[:-20],
    "that ends early": http("200 OK", WHOLE[:-20]),
    "with a byte that fell over": http("200 OK", WHOLE[:60] + bytes([WHOLE[60] ^ 255]) + WHOLE[61:]),
    "without a length": b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE[:-20],
    "in pieces": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + WHOLE[:16] + b"\r\n",
    "of nothing": http("200 OK"),
    "of a page": http("200 OK", "<html>log in</html>"),
    "that is busy": http("503 Service Unavailable"),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_download_that_broke_off_is_tried_again(dinotile, sent, stand_in, cut):
    arguments, output = sent
    stand_in.files["a.png"], stand_in.faults["view"] = WHOLE, [lambda *_: cut, lambda *_: cut, None]
    code, _, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0, err
    assert output.read_bytes() == WHOLE


def test_what_came_stays_and_fetch_brings_the_rest(dinotile, sent, stand_in):
    arguments, output = sent
    several(stand_in)
    stand_in.faults["view"] = [None, lambda *_: http("200 OK", WHOLE)[:-20]]
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 2 and out.startswith(str(output)) and color(output) == "red"
    assert f"dinotile fetch {stand_in.run} --server {stand_in.url} -o OUT" in err and "Traceback" not in err
    assert sorted(os.listdir(output.parent)) == ["in.png", "out.png", "workflow.json"]

    stand_in.faults, stand_in.requests = {}, []
    code, out, err = dinotile("fetch", stand_in.run, "--server", stand_in.url, "-o", output)
    assert code == 0, err
    assert [color(output.with_stem(stem)) for stem in ("out", "out-2", "out-3")] == ["red", "green", "blue"]
    assert len(stand_in.asked("view")) == 3 and "(was there already)" in out.splitlines()[0]
    assert "from ImageScale" not in out and not stand_in.asked("prompt")


def test_ctrl_c_in_a_download_names_the_run_and_keeps_what_came(dinotile, sent, stand_in):
    arguments, output = sent
    several(stand_in)

    def interrupting(server, request):
        interrupted = False
        while not interrupted:  # again where it came amid what swallows it, such as a finalizer
            os.kill(os.getpid(), signal.SIGINT)
            interrupted = server.over.wait(10)
        return b""

    stand_in.faults["view"] = [None, interrupting]
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 130 and out.startswith(str(output)) and f"dinotile fetch {stand_in.run} --server" in err
    assert sorted(os.listdir(output.parent)) == ["in.png", "out.png", "workflow.json"]
    assert not stand_in.asked("interrupt")


def test_fetch_waits_for_a_run_and_names_one_that_is_unknown(dinotile, sent, stand_in):
    _, output = sent
    stand_in.run, stand_in.state, done = "7", "running", lambda server, request: finish(server, request)

    def finish(server, request):
        server.state = "done"
        return answer({"queue_running": [[1, "7"]], "queue_pending": []})

    stand_in.faults["queue"] = [done]
    command = ["--server", stand_in.url, "-o", output]
    code, _, err = dinotile("fetch", "7", *command)
    assert code == 0 and output.read_bytes() == stand_in.files["a.png"], err
    code, _, err = dinotile("fetch", "../8 \x1b[2J", *command)
    assert code == 2 and "does not know the run ../8 \\x1b[2J" in err
    stand_in.faults, stand_in.outputs = {}, {}
    code, _, err = dinotile("fetch", "7", *command)
    assert code == 2 and "the run 7 left no file" in err
    stand_in.faults["history"] = [lambda *_: b""]
    code, _, err = dinotile("fetch", "7", *command)
    assert code == 2 and "cannot be reached" in err and len(stand_in.asked("history")) < 10


def test_a_file_that_is_gone_is_named(dinotile, sent, stand_in):
    stand_in.files = {}
    said = refused(dinotile, sent, stand_in, "a.png of node 3 #3 is gone from http")
    assert "run the workflow again" in said


def test_a_file_that_is_gone_does_not_hold_back_the_others(dinotile, sent, stand_in):
    arguments, output = sent
    several(stand_in)
    del stand_in.files["red.png"]
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 2 and "red.png of node 9 #9 is gone" in err and out.count("\n") == 2
    assert [color(output.with_stem(stem)) for stem in ("out-2", "out-3")] == ["green", "blue"] and not output.exists()


def test_a_stream_that_cannot_show_a_title_shows_its_code(sent, stand_in, dinotile_process, monkeypatch):
    arguments, output = sent
    workflow = json.loads(arguments[1].read_text())
    arguments[1].write_text(json.dumps(workflow | {"3": workflow["2"] | {"_meta": {"title": ":cat: \u732b"}}}))
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    process = dinotile_process(*arguments, "--server", stand_in.url)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and r"from :cat: \u732b #3" in out, err


def test_videos_and_animations_come_back_as_files(dinotile, sent, stand_in):
    arguments, output = sent
    moving, frames = BytesIO(), [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    frames[0].save(moving, format="WEBP", save_all=True, append_images=frames[1:])
    stand_in.files = {"v.mp4": b"a film", "a.webp": moving.getvalue(), "b.png": png(), "c": b"?", "s.flac": b"a song"}
    stand_in.outputs = {
        "1": shown("v.mp4", key="gifs"),
        "2": shown("a.webp", animated=[True]),
        "3": shown("b.png"),
        "4": shown("c", key="3d"),
        "5": shown("s.flac", key="audio"),
    }
    code, _, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0, err
    names = ["out.mp4", "out-2.webp", "out-3.png", "out-4.bin", "out-5.flac"]
    assert [output.with_name(name).read_bytes() for name in names] == list(stand_in.files.values())
    code, _, err = dinotile(*arguments, "--server", stand_in.url, "-o", output.with_name("film.mp4"))
    assert code == 0 and output.with_name("film.mp4").read_bytes() == b"a film", err
    assert output.with_name("film-3.png").exists()


def test_an_animation_is_not_made_a_single_picture_and_holds_nothing_back(dinotile, sent, stand_in):
    arguments, output = sent
    moving, frames = BytesIO(), [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    frames[0].save(moving, format="WEBP", save_all=True, append_images=frames[1:])
    stand_in.files, stand_in.outputs = {"a.webp": moving.getvalue(), "b.png": png()}, {"2": shown("a.webp", "b.png")}
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0 and "is an animation (WEBP), which out.png cannot hold whole, and keeps its ending" in out, err
    assert output.with_suffix(".webp").read_bytes() == moving.getvalue() and not output.exists()
    assert output.with_stem("out-2").read_bytes() == stand_in.files["b.png"]


def test_a_result_too_large_to_be_converted_stays_as_the_server_made_it(dinotile, sent, stand_in, monkeypatch):
    arguments, output = sent
    monkeypatch.setattr(results, "MEGAPIXELS", 1e-5)
    code, _, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 0 and output.read_bytes() == stand_in.files["a.png"], err
    code, out, err = dinotile(*arguments, "--server", stand_in.url, "-o", output.with_name("other.jpg"))
    assert code == 0 and "8 x 8 px is too large to become other.jpg, and keeps its ending" in out, err
    assert output.with_name("other.png").read_bytes() == stand_in.files["a.png"]


def test_a_result_that_cannot_be_converted_stays_as_the_server_made_it(dinotile, sent, stand_in):
    _, output = sent
    odd = BytesIO()
    Image.new("F", (8, 8), float("nan")).save(odd, format="TIFF")
    stand_in.files, stand_in.outputs = {"a.tif": odd.getvalue()}, {"3": shown("a.tif")}
    code, out, err = dinotile(*sent[0], "--server", stand_in.url)
    assert code == 0 and "the result cannot become out.png (a.tif: the picture has pixels that are NaN" in out, err
    assert output.with_suffix(".tif").read_bytes() == odd.getvalue() and os.listdir(output.parent).count("out.png") == 0


def test_a_foreign_file_under_a_results_own_ending_holds_no_other_back_and_stays(dinotile, sent, stand_in):
    arguments, output = sent
    film = output.with_suffix(".mp4")
    film.write_bytes(b"mine!!")
    stand_in.files, stand_in.outputs = {"v.mp4": b"a film", "b.png": png()}, {"1": shown("v.mp4"), "2": shown("b.png")}
    command = ["fetch", "RUN", "-o", output]
    for _ in range(2):
        code, out, err = dinotile(*arguments, "--server", stand_in.url)
        assert code == 2 and f"output {film} exists already" in err
        assert film.read_bytes() == b"mine!!" and output.with_stem("out-2").read_bytes() == stand_in.files["b.png"]
        arguments = [stand_in.run if part == "RUN" else part for part in command]
    code, out, err = dinotile(*arguments, "--server", stand_in.url, "--overwrite")
    assert code == 0 and film.read_bytes() == b"a film", err


@pytest.mark.parametrize("name", ["out.png", "out.jpg"])
@pytest.mark.parametrize("mine", [b"mine", png(color="blue")], ids=["text", "picture"])
def test_fetch_keeps_a_file_only_where_it_is_the_runs(dinotile, sent, stand_in, name, mine):
    _, output = sent
    output = output.with_name(name)
    stand_in.run, command = "7", ["fetch", "7", "--server", stand_in.url, "-o", output]
    output.write_bytes(mine)
    code, out, err = dinotile(*command)
    assert (code, out) == (2, "") and f"output {output} exists already" in err and output.read_bytes() == mine
    assert dinotile(*command, "--overwrite")[0] == 0
    brought = output.read_bytes()
    code, out, err = dinotile(*command)
    assert code == 0 and "(was there already)" in out and output.read_bytes() == brought, err


def test_a_full_disk_is_no_fault_of_the_server(dinotile, sent, stand_in):
    from ...limits import largest_file

    stand_in.files["a.png"] = png((300, 300))
    with largest_file(100):
        refused(dinotile, sent, stand_in, "out.png cannot be written (File too large)")
    assert len(stand_in.asked("view")) == 1
