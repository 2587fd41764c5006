"""How a run is followed to its end, whatever happens to the connection."""

import threading
import time

import pytest

from dinotile.cli.remote import client, events, link

from .stand_in import answer, frame, handshake, http, message


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Shorter pauses, so that the tests are quick; what is done after them stays."""
    monkeypatch.setattr(client, "POLL", 0.1)
    monkeypatch.setattr(client, "POLL_WITH_EVENTS", 0.3)
    monkeypatch.setattr(client, "TICK", 0.05)
    monkeypatch.setattr(client, "HURRY", 0.05)
    monkeypatch.setattr(link.Unreachable, "patience", 1.0)


def refused(dinotile, sent, server, words, *more):
    arguments, output = sent
    code, out, err = dinotile(*arguments, "--server", server.url, *more)
    sentence = err.splitlines()[-1]
    assert (code, out) == (2, "") and sentence.startswith("dinotile: ") and words in sentence, err
    assert not output.exists()
    return sentence


def brought(dinotile, sent, server, *more):
    arguments, output = sent
    code, out, err = dinotile(*arguments, "--server", server.url, *more)
    assert code == 0, err
    assert output.read_bytes() == server.files["a.png"]
    return out


def stopped(server):
    return [*server.asked("interrupt"), *(request for request in server.asked("queue") if request.method == "POST")]


def closing(server, request):
    yield handshake(request)
    yield b"\x88\x00"


def broken(server, request):
    yield handshake(request)


def ending(server, request, seconds=0.3):
    """A websocket over which nothing comes while the run ends."""
    yield handshake(request)
    time.sleep(seconds)
    server.state = "done"
    server.over.wait()


@pytest.mark.parametrize(
    "fault", [closing, broken, lambda *_: http("404 Not Found"), lambda *_: http("200 OK", "hello")]
)
def test_a_run_goes_on_without_its_websocket(dinotile, sent, stand_in, fault):
    stand_in.faults["ws"] = [fault]
    brought(dinotile, sent, stand_in)
    assert not stopped(stand_in)


def test_a_websocket_that_a_proxy_closed_comes_back_under_the_same_name(dinotile, sent, stand_in):
    stand_in.state, stand_in.faults["ws"] = "running", [closing, ending]
    brought(dinotile, sent, stand_in)
    first, second, *_ = stand_in.asked("ws")
    assert "clientId=" in first.path and first.path == second.path
    assert not stopped(stand_in)


def test_an_end_that_was_told_while_the_websocket_was_away_is_asked_for(dinotile, sent, stand_in, monkeypatch):
    monkeypatch.setattr(client, "POLL", 1.0)
    monkeypatch.setattr(client, "POLL_WITH_EVENTS", 60)

    def away(server, request):
        yield handshake(request)
        while not server.run:
            time.sleep(0.01)
        server.state = "done"

    stand_in.state, stand_in.faults["ws"] = "running", [away, lambda server, request: ending(server, request, 60)]
    brought(dinotile, sent, stand_in, "--timeout", 5)


def test_the_end_of_a_run_is_seen_in_the_history_alone(dinotile, sent, stand_in):
    stand_in.state, stand_in.faults["ws"] = "queued", [ending]
    brought(dinotile, sent, stand_in)


def test_a_server_that_is_busy_or_away_for_a_moment_is_asked_again(dinotile, sent, stand_in):
    busy, garbled = lambda *_: http("503 Service Unavailable"), lambda *_: b""
    stand_in.faults["history"] = [busy, garbled, busy, None]
    brought(dinotile, sent, stand_in)


def test_a_workflow_whose_answer_was_lost_is_not_sent_twice(dinotile, sent, stand_in):
    def lost(server, request):
        server.prompt(request)
        return b""

    stand_in.faults["prompt"] = [lost]
    brought(dinotile, sent, stand_in)
    assert len(stand_in.asked("prompt")) == 1


@pytest.mark.parametrize("said", [http("504 Gateway Timeout"), b""], ids=["busy", "cut"])
def test_a_run_that_a_server_takes_in_after_its_proxy_gave_up_is_followed(dinotile, sent, stand_in, said):
    def later(server, request):
        threading.Timer(0.3, server.prompt, [request]).start()
        return said

    stand_in.faults["prompt"] = [later]
    brought(dinotile, sent, stand_in)


def test_a_workflow_that_may_be_lost_is_stopped_and_names_its_run(dinotile, sent, stand_in):
    stand_in.faults["prompt"] = [lambda *_: http("504 Gateway Timeout")]
    said = refused(dinotile, sent, stand_in, "answered 504 Gateway Timeout")
    run = stand_in.asked("prompt")[0].json["prompt_id"]
    assert f"dinotile fetch {run}" in said and [request.json for request in stopped(stand_in)][-1] == {"delete": [run]}


def gone_after(server, request, *, drop):
    yield handshake(request)
    while not server.run:
        time.sleep(0.01)
    time.sleep(0.5)
    server.state = "gone"
    if not drop:
        server.over.wait()


def test_a_run_that_somebody_deleted_from_the_queue_says_so(dinotile, sent, stand_in):
    stand_in.state = "queued"
    stand_in.faults["ws"] = [lambda *at: gone_after(*at, drop=False)]
    refused(dinotile, sent, stand_in, "somebody deleted the run from the queue")


def test_a_run_whose_results_were_cleared_says_so(dinotile, sent, stand_in):
    stand_in.state = "running"
    stand_in.faults["ws"] = [lambda *at: gone_after(*at, drop=False)]
    refused(dinotile, sent, stand_in, "somebody cleared its history")


def test_a_server_that_was_restarted_or_lost_the_run_behind_a_proxy_says_so(dinotile, sent, stand_in):
    stand_in.state = "running"
    stand_in.faults["ws"] = [lambda *at: gone_after(*at, drop=True), lambda *_: http("404 Not Found")]
    refused(dinotile, sent, stand_in, "no longer knows the run: it was restarted, or the run was deleted")
    assert not stopped(stand_in)


def test_a_server_that_is_gone_names_the_run_and_is_not_asked_to_stop_it(dinotile, sent, stand_in):
    stand_in.state, stand_in.faults["history"] = "running", [lambda *_: b""]
    said = refused(dinotile, sent, stand_in, "vanished in the middle of the run")
    assert f"dinotile fetch {stand_in.run} --server {stand_in.url}" in said
    assert not stopped(stand_in)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (
            "execution_error",
            {"node_id": "2", "exception_message": "too\nlarge"},
            "node 2 (ImageScale) failed on the server: too large",
        ),
        ("execution_interrupted", {"node_id": "2"}, "interrupted on the server at ImageScale"),
    ],
)
def test_a_run_that_failed_says_why_without_a_websocket(dinotile, sent, stand_in, kind, data, words):
    stand_in.faults["ws"] = [lambda *_: http("404 Not Found")]
    stand_in.status = {"status_str": "error", "completed": False, "messages": [["execution_start", {}], [kind, data]]}
    refused(dinotile, sent, stand_in, words)


LEFT_OUT = {
    "2": {"errors": [{"message": "Value not in list", "extra_info": {"input_name": "ckpt"}}], "class_type": "X"}
}


def test_a_part_of_a_workflow_is_an_error_and_its_saved_pictures_stay(dinotile, sent, stand_in):
    arguments, output = sent
    stand_in.node_errors = LEFT_OUT
    code, out, err = dinotile(*arguments, "--server", stand_in.url)
    assert code == 2 and out.startswith(str(output)) and output.exists()
    assert "the server ran only a part of the workflow: node 2 (ImageScale), input ckpt: Value not in list" in err


def test_a_preview_is_not_the_result_of_a_part_of_a_workflow(dinotile, sent, stand_in):
    stand_in.node_errors, stand_in.outputs["3"]["images"][0]["type"] = LEFT_OUT, "temp"
    refused(dinotile, sent, stand_in, "the server ran only a part of the workflow")
    assert not stand_in.asked("view")


def test_a_preview_is_not_the_result_where_another_output_showed_nothing(dinotile, sent, stand_in):
    def without_the_saved(server, request):
        server.outputs["3"]["images"][0]["type"] = "temp"
        entry = {"prompt": [1, server.run, server.workflow, {}, ["3", "7:3"]], "outputs": server.outputs}
        return answer({server.run: entry | {"status": None}})

    stand_in.faults["history"] = [without_the_saved]
    refused(dinotile, sent, stand_in, "ended without a picture")


# One deadline


def silent(server, request):
    server.over.wait()
    return b""


def dripping(server, request):
    for letter in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000:
        yield bytes([letter])
        time.sleep(0.05)


def endless(server, request):
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield b" " * 1000
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [silent, dripping, endless])
@pytest.mark.parametrize("phase", ["upload", "prompt", "history", "view"])
def test_nothing_outlives_the_deadline(dinotile, sent, stand_in, phase, fault):
    stand_in.faults[phase], start = [fault], time.monotonic()
    refused(dinotile, sent, stand_in, "took longer than 0.3 s", "--timeout", 0.3)
    assert time.monotonic() - start < 3


def pinging(server, request):
    yield handshake(request)
    while True:
        yield frame(b"", 9)
        time.sleep(0.01)


def in_fragments(server, request):
    yield handshake(request)
    yield frame(b"{", fin=False)
    while True:
        yield frame(b" ", 0, fin=False)
        time.sleep(0.01)


def of_a_giant(server, request):
    yield handshake(request) + b"\x81\x7f" + (1 << 60).to_bytes(8, "big")
    while True:
        yield b" " * 100
        time.sleep(0.01)


def of_others(server, request):
    yield handshake(request)
    while True:
        yield message("progress", prompt_id="another", value=1, max=2)


@pytest.mark.parametrize("fault", [silent, pinging, in_fragments, of_a_giant, of_others])
def test_no_websocket_outlives_the_deadline_which_stops_the_run(dinotile, sent, stand_in, fault):
    stand_in.state, stand_in.faults["ws"], start = "running", [fault], time.monotonic()
    refused(
        dinotile, sent, stand_in, "the run took longer than 0.5 s and was stopped: raise --timeout", "--timeout", 0.5
    )
    assert time.monotonic() - start < 3
    assert [request.json for request in stopped(stand_in)][-1:] == [{"delete": [stand_in.run]}] or fault is silent


@pytest.mark.parametrize("fault", [pinging, in_fragments])
def test_a_busy_websocket_does_not_hide_the_end_of_the_run(dinotile, sent, stand_in, fault):
    stand_in.faults["ws"] = [fault]
    brought(dinotile, sent, stand_in)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_timeout_that_is_none_is_refused(dinotile, sent, stand_in, seconds):
    refused(dinotile, sent, stand_in, "must be a number of seconds", "--timeout", seconds)
    assert not stand_in.requests


def test_answers_are_bounded(dinotile, sent, stand_in, monkeypatch):
    monkeypatch.setattr(link, "JSON_BYTES", 1000)
    monkeypatch.setattr(events, "JSON_BYTES", 1000)
    stand_in.faults["upload"] = [lambda *_: http("200 OK", b" " * 1001)]
    refused(dinotile, sent, stand_in, "/upload/image sent more than is allowed")
    stand_in.faults["upload"] = [None]
    refused(dinotile, sent, stand_in, "sent more than is allowed", "--max-bytes", 20)
    brought(dinotile, sent, stand_in, "--max-bytes", len(stand_in.files["a.png"]))
