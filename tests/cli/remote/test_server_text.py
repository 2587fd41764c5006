"""Whatever a server says is data: it ends in one clean sentence, or is not looked at."""

import json

import pytest

from dinotile.cli.bars import Bars
from dinotile.cli.remote.answers import choices, ended, progress_of
from dinotile.cli.remote.link import parsed

from .stand_in import answer, frame, handshake, http, message
from .test_following import brought, hurried, refused  # noqa: F401
from .test_workflow import WORKFLOW

ODD = "[/draft] [bold] :cat: {x} \x1b[2J\x07 \u202e \ud800 \u2028 end"


def test_titles_with_markup_and_control_characters_are_printed_as_they_are(dinotile, sent, stand_in):
    arguments, _ = sent
    workflow = json.loads(arguments[1].read_text())
    workflow["2"]["_meta"] = {"title": ODD}
    arguments[1].write_text(json.dumps(workflow))
    state = {"node_id": "2", "state": "running", "value": 1, "max": 3}

    def telling(server, request):
        yield handshake(request)
        while not server.run:
            pass
        yield message("progress_state", prompt_id=server.run, nodes={"2": state})
        yield message("executing", prompt_id=server.run, node=None)
        server.over.wait()

    stand_in.faults["ws"] = [telling]
    clean = r"[/draft] [bold] :cat: {x} \x1b[2J\x07 \u202e \ud800 end"
    code, _, err = dinotile(*arguments, "--server", stand_in.url)
    bar = err.splitlines()[-1]
    assert code == 0 and f"{clean} #2" in bar and " 1/3 " in bar
    stand_in.faults["ws"] = [telling]
    stand_in.status["messages"] = [["execution_error", {"node_id": "2", "exception_message": ODD}]]
    code, _, err = dinotile(*arguments, "--overwrite", "--server", stand_in.url)
    assert code == 2 and err == f"dinotile: node 2 ({clean}) failed on the server: {clean}\n"


def test_bars_take_any_text():
    with Bars() as bars:
        bars("Upscale [/draft] [link=x]", 1, 2, "[/]")


@pytest.mark.parametrize(
    "states",
    [
        None,
        [1],
        {"2": None},
        {"2": {"state": "running"}},
        *(
            {"2": {"state": "running", "node_id": "2", "value": v, "max": 2}}
            for v in (1e999, -1, 1e300, 10**400, "1", None, [])
        ),
        {"2": {"state": "running", "node_id": "2", "value": float("nan"), "max": 2}},
        {"2": {"state": "running", "node_id": "not ours", "value": 1, "max": 2}},
        {"2": {"state": ["running"], "node_id": {}, "value": 1, "max": 2}},
    ],
)
def test_progress_that_no_bar_can_show_is_not_shown(states):
    assert list(progress_of({"nodes": states}, WORKFLOW)) == []


BROKEN = [
    b"[" * 100_000,
    b"[" + b"[]," * 1_000_000 + b"[]]",
    b"NaN",
    b"[1e400]",
    b"{'a': 1}",
    b"\xff\xfe\x00",
    b"1" * 10_000,
    b"",
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_broken_json_is_one_kind_of_error(content):
    with pytest.raises(ValueError):
        parsed(content)


@pytest.mark.parametrize("phase", ["upload", "prompt", "history", "queue"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[[1]]"], ids=range(2))
def test_other_json_is_one_sentence(dinotile, sent, stand_in, phase, content):
    stand_in.state = "running" if phase == "queue" else "done"
    stand_in.faults[phase] = [lambda *_: http("200 OK", content)]
    refused(dinotile, sent, stand_in, "did not answer as ComfyUI does")


STATUSES = (None, [], {"messages": 3}, {"messages": [None, [], ["execution_error"]]})
NO_FILES = (None, [], {"images": 3}, {"images": [None, 3, {"filename": []}]}, {"images": [[]]})
NO_FILE = {"filename": {}, "subfolder": [], "type": {}}
ENTRIES = [
    *(None, 3, [], {"outputs": []}, {"outputs": None}),
    *({"outputs": {}, "status": status} for status in STATUSES),
    *({"outputs": {"1": shown}} for shown in NO_FILES),
    {"outputs": {"1": {"images": [NO_FILE], "animated": 3}}, "prompt": [1, 2, {"a": 3}, 4, 5]},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_a_history_of_other_types_holds_no_files_or_is_refused(entry):
    try:
        assert ended({"a": entry}, "a", WORKFLOW).outputs == []
    except ValueError:
        assert not isinstance(entry, dict) or not isinstance(entry["outputs"], dict)


@pytest.mark.parametrize(
    "reply", [3, [], {"X": 3}, {"X": {"input": []}}, {"X": {"input": {"required": {"a": 3, "b": [3]}}}}]
)
def test_lists_of_other_types_are_none(reply):
    assert choices(reply, "X") == {}


def test_the_reason_of_a_status_is_printed_clean(dinotile, sent, stand_in):
    stand_in.faults["upload"] = [lambda *_: b"HTTP/1.1 500 \x1b[31mBad\x07\x9b\r\n\r\n"]
    assert refused(dinotile, sent, stand_in, r"/upload/image answered 500 \x1b[31mBad\x07\x9b").isascii()


@pytest.mark.parametrize(
    "errors",
    [
        {"2": None},
        {"2": {"errors": [None, 3, {"message": [ODD], "extra_info": 3, "details": {}}]}},
        {ODD: {"errors": {}}},
    ],
)
def test_a_refusal_of_other_types_is_still_one_sentence(dinotile, sent, stand_in, errors):
    stand_in.faults["prompt"] = [lambda *_: http("400 Bad Request", json.dumps({"error": ODD, "node_errors": errors}))]
    assert refused(dinotile, sent, stand_in, "the server refused the workflow: node ").isprintable()


def test_messages_of_another_form_are_not_looked_at(dinotile, sent, stand_in):
    def odd(server, request):
        yield handshake(request)
        for content in (
            b"",
            b"3",
            b"{",
            b"[" * 50_000,
            b'{"type": [], "data": 3}',
            b'{"type": "progress_state"}',
            b"\xff",
        ):
            yield frame(content)
        yield frame(b"\x00" * 100, 2) + message("progress_state", prompt_id=server.run, nodes={"2": 3})
        yield message("executing", prompt_id=[], node={})
        yield frame(b"", 0)  # a fragment of nothing

    stand_in.faults["ws"] = [odd]
    brought(dinotile, sent, stand_in)


def test_a_name_that_cannot_be_asked_for_is_one_sentence(dinotile, sent, stand_in):
    stand_in.outputs["3"]["images"][0]["filename"] = "\ud800.png"
    refused(dinotile, sent, stand_in, ".png of node 3 #3 is gone")
    stand_in.outputs["3"]["images"][0]["filename"] = "../../a/b.png\r\nX: y"
    refused(dinotile, sent, stand_in, "b.png X: y of node 3 #3 is gone")
    assert stand_in.asked("view")[-1].path.startswith("/view?filename=..%2F..%2Fa%2Fb.png%0D%0AX%3A+y&")


def test_an_upload_that_is_too_large_says_why(dinotile, sent, stand_in):
    def early(server, request):
        return http("413 Request Entity Too Large")

    stand_in.faults["upload"] = [early]
    refused(dinotile, sent, stand_in, "413 Request Entity Too Large: give a smaller picture")


def test_an_answer_without_a_history_is_waited_for(dinotile, sent, stand_in):
    stand_in.state = "running"
    stand_in.faults["history"] = [lambda *_: answer({}), lambda *_: answer({"another": 3}), None]

    def later(server, request):
        server.state = "done"
        return answer({"queue_running": [None, 3, [], [1], [1, server.run]], "queue_pending": [[]]})

    stand_in.faults["queue"] = [later]
    brought(dinotile, sent, stand_in)
