"""The local server: who may ask it, and what."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import webbrowser
from collections.abc import Iterator, Mapping

import pytest

from psl.serving.local import LocalServer, Reply, Request, as_json, body_object
from shards.system.exits import JobError


@pytest.fixture
def server() -> Iterator[LocalServer]:
    def echo(request: Request) -> Reply:
        return as_json({"got": body_object(request), "query": dict(request.query)})

    routes = {("GET", ""): lambda request: Reply(b"page"), ("POST", "echo"): echo}
    with LocalServer(routes, max_body=100) as server:
        yield server


def ask(
    server: LocalServer,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Status and body; path below the token, or from the root with a slash."""
    port = int(server.url.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    whole = path if path.startswith("/") else f"/{server.token}/{path}"
    named = dict(headers or {})
    connection.request(method, whole, body=body, headers=named)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_is_served_and_asked(server: LocalServer) -> None:
    """Nothing would work."""
    assert ask(server, "GET", "") == (200, b"page")
    status, body = ask(server, "POST", "echo?x=1", body=b'{"a": 2}')
    assert (status, body) == (200, b'{"got": {"a": 2}, "query": {"x": "1"}}')


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/wrong/", {}, 403),
        ("/../etc/passwd", {}, 403),
        ("../../etc/passwd", {}, 404),
        ("%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("nothing", {}, 404),
        ("", {"Host": "evil.example"}, 403),  # DNS that names this machine
        ("", {"Host": "evil.example:80"}, 403),
        ("", {"Origin": "https://evil.example"}, 403),
        ("", {"Origin": "null"}, 403),
        ("", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("?" + "a=1&" * 30, {}, 400),
        ("/[", {}, 403),
    ],
)
def test_others_are_refused(
    server: LocalServer, path: str, headers: dict[str, str], status: int
) -> None:
    """Another page in the same browser could read sounds, or write decisions."""
    assert ask(server, "GET", path, headers=headers)[0] == status


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET * HTTP/1.1\r\nHost: {host}", 403),
        ("GET nothing HTTP/1.1\r\nHost: {host}", 403),
        ("GET http://[ HTTP/1.1\r\nHost: {host}", 400),
        ("GET /{token}/ HTTP/1.1\r\nHost: {host}\r\nHost: evil.example", 403),
        ("GET /{token}/ HTTP/1.0", 403),
        ("DELETE /{token}/ HTTP/1.1\r\nHost: {host}", 501),
    ],
)
def test_what_no_browser_sends_is_refused(
    server: LocalServer, head: str, status: int
) -> None:
    """It would be answered, or tell of the inside."""
    host = server.url.split("/")[2]
    port = int(host.split(":")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        text = head.format(host=host, token=server.token)
        connection.sendall(f"{text}\r\n\r\n".encode())
        assert int(connection.recv(100).split()[1]) == status


def test_a_browser_that_leaves_is_no_error(
    server: LocalServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever goes on while a clip loads would see a traceback in the terminal."""
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        reset = struct.pack("ii", 1, 0)  # on close, without a word
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    assert ask(server, "GET", "")[0] == 200  # by now, the other was accepted, too
    for thread in threading.enumerate():
        if "process_request" in thread.name:
            thread.join(10)
            assert not thread.is_alive()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * 101, {}, 413),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"[" * 100, {}, 400),
        (b"{}", {"Content-Length": "-1"}, 411),
        (b"{}", {"Content-Length": "99999999999999999999"}, 413),
    ],
)
def test_a_bad_body_is_refused(
    server: LocalServer, body: bytes, headers: dict[str, str], status: int
) -> None:
    """It could fill the memory, or end the server."""
    assert ask(server, "POST", "echo", body=body, headers=headers)[0] == status
    assert ask(server, "GET", "")[0] == 200


def test_it_listens_on_this_machine_alone_and_says_if_a_port_is_taken(
    server: LocalServer,
) -> None:
    """Everyone in the network could listen to the clips."""
    assert server.url.startswith("http://127.0.0.1:")
    port = int(server.url.split(":")[2].split("/")[0])
    with pytest.raises(JobError, match=f"port {port}: .*; choose another with --port"):
        LocalServer({}, port=port)
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(2)
        address = socket.gethostbyname(socket.gethostname())
        if address.startswith("127."):
            raise OSError("no other address to try")
        other.connect((address, port))


def test_ctrl_c_ends_it_well_also_while_a_browser_starts(
    server: LocalServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who ends it at once was told that it failed, with status 130."""
    opened = []

    def start(url: str) -> None:
        opened.append(url)
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", start)
    server.show("the page", in_browser=True)
    assert (opened, capsys.readouterr().out) == ([server.url], "the page\n")
