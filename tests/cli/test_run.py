"""``dinotile run`` without a server, and with answers that no ComfyUI gives. tests/comfyui runs it against a real one."""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dinotile.cli.remote.client import ComfyClient
from dinotile.cli.remote.run import WorkflowResult

from ..limits import largest_file
from .remote.test_workflow import WORKFLOW


@pytest.fixture
def job(tmp_path):
    """Arguments of a run, and the output that must not appear."""
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW))
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    output = tmp_path / "out.png"
    return ["run", tmp_path / "workflow.json", "--image", tmp_path / "in.png", "-o", output], output


@pytest.fixture
def foreign_server():
    """A socket that answers one request after the other as it is told, which need not be HTTP, and then goes away."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def serve(answers):
        held = []
        for answer in answers:
            connection, _ = listening.accept()
            held.append(connection)
            request = connection.recv(1 << 16).decode("latin1")
            connection.sendall(answer(request) if callable(answer) else answer)
        listening.close()
        for connection in held:
            connection.close()

    def start(*answers):
        threading.Thread(target=serve, args=(answers,), daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    listening.close()


def http(status, body):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def handshake(request):
    """The websocket's opening (RFC 6455, section 4.2.2)."""
    key = re.search(r"Sec-WebSocket-Key: (\S+)", request)[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
    return f"{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()


UPLOADED = http("200 OK", '{"name": "in.png", "subfolder": ""}')


def refused(dinotile, job, server, words, *more):
    arguments, output = job
    before = sorted(os.listdir(output.parent))
    code, out, err = dinotile(*arguments, "--server", server, *more)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("dinotile: ") and words in err
    assert sorted(os.listdir(output.parent)) == before


def test_no_server(dinotile, job):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused(dinotile, job, f"http://127.0.0.1:{port}", "cannot be reached")


def test_a_server_that_closes_at_once(dinotile, job, foreign_server):
    refused(dinotile, job, foreign_server(b""), "cannot be reached")


def test_a_server_without_a_websocket(dinotile, job, foreign_server):
    refused(dinotile, job, foreign_server(UPLOADED, http("404 Not Found", "")), "cannot be reached")


def test_a_server_that_is_no_comfyui(dinotile, job, foreign_server):
    refused(dinotile, job, foreign_server(http("200 OK", "<html>")), "did not answer as ComfyUI does")


def test_another_page_at_that_address(dinotile, job, foreign_server):
    refused(dinotile, job, foreign_server(http("404 Not Found", "")), "/upload/image answered 404 Not Found")


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "file:///etc/passwd", "http://"])
def test_only_http_addresses(dinotile, job, address):
    refused(dinotile, job, address, "must be an http or https address")


@pytest.mark.parametrize("address", ["http://[::1", f"http://{'a' * 64}.org", "http://a..b", "http://a:99999"])
def test_addresses_that_are_none_are_one_sentence(dinotile, job, address):
    refused(dinotile, job, address, "must be an http or https address")


def test_the_websocket_lies_beside_the_server_in_any_case():
    assert ComfyClient("HTTP://Host:1/a/").link.socket == "ws://Host:1/a"
    assert ComfyClient("HTTPS://[::1]:1").link.socket == "wss://[::1]:1"
    assert ComfyClient("HTTP://Host:1/a/").server == "http://Host:1/a"


@pytest.mark.parametrize("answer", ["{}", "[]", "null", '"a"', '{"name": 3}', "\udcff"])
def test_json_of_another_form_is_one_sentence(dinotile, job, foreign_server, answer):
    body = answer.encode("utf-8", "surrogateescape")
    other = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
    refused(dinotile, job, foreign_server(other), "did not answer as ComfyUI does")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("200 OK", "{}", "/prompt did not answer as ComfyUI does"),
        ("200 OK", "[]", "/prompt did not answer as ComfyUI does"),
        ("400 Bad Request", "[]", "/prompt answered 400 Bad Request"),
        ("400 Bad Request", '{"node_errors": {"2": null}}', "/prompt answered 400 Bad Request"),
    ],
)
def test_foreign_answers_to_the_workflow_are_one_sentence(dinotile, job, foreign_server, status, body, words):
    refused(dinotile, job, foreign_server(UPLOADED, handshake, http(status, body)), words)


def test_what_cannot_be_sent_is_refused_before_the_server_is_asked(dinotile, job, tmp_path):
    nowhere = "http://127.0.0.1:1"
    refused(dinotile, job, nowhere, "ImageScale has no input depth", "--set", "2.depth=1")
    arguments, output = job
    refused(dinotile, ([*arguments, "--image", tmp_path / "no.png"], output), nowhere, "no.png does not exist")
    refused(dinotile, ([*arguments, "-o", tmp_path / "in.png"], output), nowhere, "in.png is the input itself")
    refused(dinotile, ([*arguments, "-o", tmp_path / "out.gif"], output), nowhere, "ends in .gif")
    refused(dinotile, ([*arguments, "-o", tmp_path / "no" / "out.png"], output), nowhere, "does not exist")
    refused(dinotile, ([*arguments, "-o", "/proc/x.png"], output), nowhere, "output /proc/x.png cannot be written")


def test_further_pictures_get_numbers_and_the_format_of_the_ending_and_replace_nothing(tmp_path):
    content = BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(content, format="PNG", dpi=(300, 300))
    with pytest.warns(UserWarning, match=r"^a\S*.jpg: JPEG has no transparency, so the picture was put on white"):
        written = WorkflowResult([content.getvalue()] * 3).save(tmp_path / "a.jpg")
    assert [path.name for path in written] == ["a.jpg", "a-2.jpg", "a-3.jpg"]
    for path in written:
        with Image.open(path) as image:
            assert (
                image.format == "JPEG" and image.getpixel((0, 0)) == (255, 255, 255) and image.info["dpi"] == (300, 300)
            )
    result = WorkflowResult([content.getvalue()])
    assert result.save(tmp_path / "a.png")[0].read_bytes() == content.getvalue()
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(ValueError, match="a.png exists already"):
        result.save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"
    assert result.save(tmp_path / "a.png", overwrite=True)[0].read_bytes() == content.getvalue()


def test_the_precision_of_a_result_stays_where_its_format_holds_it(tmp_path):
    content = BytesIO()
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(content, format="PNG")
    result = WorkflowResult([content.getvalue()])
    with Image.open(result.save(tmp_path / "a.tif")[0]) as image:
        assert list(np.asarray(image).ravel()) == [0, 1000, 65535]
    with pytest.warns(UserWarning, match="JPEG has 8 bits for a colour"):
        (path,) = result.save(tmp_path / "a.jpg")
    with Image.open(path) as image:
        assert np.asarray(image)[0, 1] < 30


def test_results_larger_than_pillow_allows_are_given_as_images(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    content = BytesIO()
    Image.new("L", (8, 8), 7).save(content, format="PNG")
    (image,) = WorkflowResult([content.getvalue()]).images
    assert image.size == (8, 8) and image.getpixel((7, 7)) == 7


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_disk_that_is_full_in_the_middle_leaves_the_whole_pictures_only(tmp_path, name):
    small, large = BytesIO(), BytesIO()
    Image.new("RGB", (8, 8)).save(small, format="PNG")
    Image.effect_noise((100, 100), 50).save(large, format="PNG")
    with largest_file(1000), pytest.raises(ValueError, match=r"a-2\.\w+ cannot be written \(File too large\)"):
        WorkflowResult([small.getvalue(), large.getvalue()]).save(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    Image.open(tmp_path / name).load()


def test_a_place_where_no_result_can_go_is_told_before_several_servers_are_asked(dinotile, job, tmp_path):
    arguments, _ = job
    for place, said in (("out.xyz", "end it in .jpeg"), ("none/out.png", "does not exist: create it first")):
        code, out, err = dinotile(
            *arguments[:-1], tmp_path / place, "--server", "127.0.0.1:1", "--server", "127.0.0.1:2"
        )
        assert (code, out) == (2, "") and said in err and not (tmp_path / place).exists()
