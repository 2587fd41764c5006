"""How a server is reached and let in: addresses, headers, redirects, certificates, proxies."""

import base64
import ssl
import subprocess

import pytest

from .stand_in import StandIn, http
from .test_following import brought, hurried, refused, silent  # noqa: F401

BASIC = "Basic " + base64.b64encode(b"ann:s3/cret").decode()
WAYS = ("upload", "ws", "prompt", "history", "view")


def sent_with(server, name):
    """A header of each way's first request; every request of the run must be of those."""
    assert {request.headers.get(name) for request in server.requests} == {server.requests[0].headers.get(name)}
    return [server.asked(way)[0].headers.get(name) for way in WAYS]


def test_headers_go_with_every_request(dinotile, sent, stand_in):
    brought(dinotile, sent, stand_in, "--header", "X-Key= a=b ", "--header", "Authorization=Bearer T")
    assert sent_with(stand_in, "x-key") == ["a=b"] * 5 and sent_with(stand_in, "authorization") == ["Bearer T"] * 5
    assert sent_with(stand_in, "origin") == [None] * 5


@pytest.mark.parametrize(("given", "header"), [("T0K.EN", "Bearer T0K.EN"), ("Token abc", "Token abc")])
def test_the_environment_lets_in(dinotile, sent, stand_in, monkeypatch, given, header):
    monkeypatch.setenv("DINOTILE_AUTH", given)
    brought(dinotile, sent, stand_in)
    assert sent_with(stand_in, "authorization") == [header] * 5


def test_a_user_in_the_address_lets_in_and_is_never_shown(dinotile, sent, stand_in):
    arguments, output = sent
    place = stand_in.url.replace("//", "//ann:s3%2Fcret@")
    code, out, err = dinotile(*arguments, "--server", place)
    assert code == 0 and sent_with(stand_in, "authorization") == [BASIC] * 5
    stand_in.faults["upload"] = [lambda *_: http("401 Unauthorized")]
    code, _, told = dinotile(*arguments, "--server", place, "--overwrite")
    assert code == 2 and "answered 401 Unauthorized: give what it asks for with --header or DINOTILE_AUTH" in told
    for address in ("http://ann:s3%2Fcret@127.0.0.1:99999", "ann:s3%2Fcret@127.0.0.1:1/?a", "ftp://ann:s3%2Fcret@host"):
        told += dinotile(*arguments, "--server", address, "--overwrite")[2]
    assert "cret" not in out + err + told and told.count("must be an http or https address") == 3
    for address in ("http://ann:pa/s3cret@127.0.0.1:1", "ann:pa/s3cret@127.0.0.1:1"):
        code, _, err = dinotile(*arguments, "--server", address, "--overwrite")
        assert code == 2 and "cret" not in err and "127.0.0.1:1" in err and "/ in a password written as %2F" in err


@pytest.mark.parametrize(
    "header", ["secret", "=secret", "a b=secret", "X-Key=secret\r\nX: y", "X=\xe9secret", "Host=secret"]
)
def test_headers_that_cannot_be_sent_are_refused_and_not_shown(dinotile, sent, stand_in, header):
    assert "secret" not in refused(dinotile, sent, stand_in, "header", "--header", header)
    assert not stand_in.requests


def test_addresses_may_lack_a_scheme_and_have_a_path(dinotile, sent, stand_in):
    stand_in.url = f"127.0.0.1:{stand_in.port}/my comfy/"
    brought(dinotile, sent, stand_in)
    assert all(request.path.startswith("/my%20comfy/") for request in stand_in.requests)


def to(place, status="302 Found"):
    return lambda server, request: http(status, Location=place.replace("PATH", request.path))


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_on_the_same_host_is_followed_with_what_was_sent(dinotile, sent, stand_in, status):
    with StandIn(
        faults=dict.fromkeys(WAYS, [to(f"http://127.0.0.1:{stand_in.port}/new PATH".replace(" ", ""), status)])
    ) as old:
        old.files = stand_in.files
        brought(dinotile, sent, old, "--header", "X-Key=k")
    assert [request.method for request in old.requests] == ["POST"]  # it has moved as a whole
    assert sent_with(stand_in, "x-key") == ["k"] * 5 and stand_in.asked("upload")[0].path == "/new/upload/image"


def test_a_redirect_to_another_host_is_not_followed(dinotile, sent, stand_in):
    for place in (
        f"http://localhost:{stand_in.port}/PATH",
        "file:///etc/passwd",
        "//evil.example",
        "",
        "ftp://127.0.0.1/",
    ):
        with StandIn(faults={"upload": [to(place)]}) as other:
            refused(dinotile, sent, other, "sends on", "--header", "Authorization=Bearer T")
    assert not stand_in.requests


def test_a_circle_of_redirects_ends(dinotile, sent, stand_in):
    stand_in.faults["upload"] = [to("PATH")]
    refused(dinotile, sent, stand_in, "sends on in a circle")
    assert len(stand_in.requests) == 5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=localhost", "-days", "2"]
    try:
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return folder


def test_a_certificate_is_trusted_by_its_file_or_not_looked_at(dinotile, sent, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with StandIn(tls=context) as server:
        said = refused(
            dinotile, sent, server, "is not trusted (self-signed certificate): give its authority with --cacert"
        )
        assert said.count("certificate of https://127.0.0.1:") == 1
        refused(dinotile, sent, server, "cannot be read (No such file", "--cacert", certificate / "no.pem")
        refused(dinotile, sent, server, "no certificates in PEM form", "--cacert", certificate / "key.pem")
        brought(dinotile, sent, server, "--cacert", certificate / "cert.pem")
        brought(dinotile, sent, server, "--insecure", "--overwrite")
        assert len(server.asked("ws")) == 2
        server.state, server.faults = "running", {"ws": [silent], "history": [silent]}
        sent[1].unlink()
        refused(dinotile, sent, server, "took longer than 0.5 s", "--insecure", "--timeout", 0.5)


def test_the_proxy_of_the_environment_is_asked_for_other_hosts(dinotile, sent, monkeypatch):
    """A plain request names the whole address; a websocket asks for a tunnel, and is done without where there is none."""
    arguments, output = sent
    with StandIn() as proxy:
        monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        code, _, err = dinotile(*arguments, "--server", "http://comfy.example:8188")
    assert code == 0 and output.exists(), err
    assert proxy.requests[0].path == "http://comfy.example:8188/upload/image"
    assert ("CONNECT", "comfy.example:8188") in [(request.method, request.path) for request in proxy.requests]
    assert {request.headers.get("proxy-authorization") for request in proxy.requests} == {"Basic dTpw"}
    assert "authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("proxy", ["http://u:secret@proxy:abc", "http://u:secret@proxy:99999", "http://[::1"])
def test_a_proxy_that_is_no_address_is_one_sentence(dinotile, sent, stand_in, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    stand_in.url = "http://comfy.example:8188"
    assert "secret" not in refused(dinotile, sent, stand_in, "write it as http://HOST:PORT")
