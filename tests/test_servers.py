"""The web servers of the tests of remote shards: both answer as these tests assume."""

from __future__ import annotations

import http.client
import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.servers import RUNNERS, SERVERS, Server

TAR = bytes(range(10))
BIG = os.urandom(1_000_000)


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server over a tar of 10 bytes, one of 1 MB, and an index."""
    folder = tmp_path_factory.mktemp("servers")
    files = folder / "files"
    files.mkdir()
    (files / "0.tar").write_bytes(TAR)
    (files / "big.tar").write_bytes(BIG)
    (files / "index.json").write_bytes(b"{}")
    with RUNNERS[request.param](folder / "work", files) as server:
        yield server


def get(
    server: Server, path: str, wanted: str = ""
) -> tuple[int, str | None, str | None, bytes]:
    """Status, length, range and body of the answer to a GET with that Range."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Range": wanted} if wanted else {}
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        length, range_ = (
            answer.headers["Content-Length"],
            answer.headers["Content-Range"],
        )
        return answer.status, length, range_, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "wanted", "expected"),
    [
        ("/plain/0.tar", "", (200, "10", None, TAR)),
        ("/plain/0.tar", "bytes=0-", (206, "10", "bytes 0-9/10", TAR)),
        ("/plain/0.tar", "bytes=3-", (206, "7", "bytes 3-9/10", TAR[3:])),
        ("/plain/0.tar", "bytes=3-5", (206, "3", "bytes 3-5/10", TAR[3:6])),
        ("/plain/0.tar", "bytes=8-99", (206, "2", "bytes 8-9/10", TAR[8:])),
        ("/whole/0.tar", "bytes=3-", (200, "10", None, TAR)),
        ("/slow/0.tar", "bytes=9-", (206, "1", "bytes 9-9/10", TAR[9:])),
        ("/gone/index.json", "", (200, "2", None, b"{}")),
    ],
)
def test_a_server_sends_the_bytes_that_were_asked_for(
    server: Server, path: str, wanted: str, expected: tuple[object, ...]
) -> None:
    """A fetch would be tested against a server that no other server is like."""
    assert get(server, path, wanted) == expected


@pytest.mark.parametrize(
    ("path", "wanted", "status"),
    [
        ("/plain/0.tar", "bytes=10-", 416),
        ("/plain/1.tar", "", 404),
        ("/elsewhere/0.tar", "", 404),
        ("/gone/0.tar", "", 503),
        ("/gone/1.tar", "", 503),
        ("/down/0.tar", "", 503),
        ("/down/index.json", "", 503),
    ],
)
def test_a_server_refuses_with_the_right_status(
    server: Server, path: str, wanted: str, status: int
) -> None:
    """A server that is down would be tested as one without the file."""
    found, _, range_, body = get(server, path, wanted)
    assert found == status
    assert range_ == ("bytes */10" if status == 416 else None)
    assert TAR not in body


def test_the_busy_way_refuses_a_second_request_at_once_and_takes_a_later_one(
    server: Server,
) -> None:
    """The test of a server that is too busy would never see a refusal."""
    time.sleep(0.3)
    assert [get(server, "/busy/0.tar")[0] for _ in range(2)] == [200, 503]
    time.sleep(0.3)
    assert get(server, "/busy/0.tar")[0] == 200


def test_the_slow_way_takes_seconds_for_a_megabyte(server: Server) -> None:
    """A download would be over before a test can kill its server."""
    begun = time.monotonic()
    assert get(server, "/slow/big.tar")[3] == BIG
    assert time.monotonic() - begun > 1


def test_kill_breaks_a_download_and_the_next_request_is_answered(
    server: Server,
) -> None:
    """The restart of a server would be tested without a restart."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/slow/big.tar")
    answer = connection.getresponse()
    assert answer.read(1000) == BIG[:1000]
    assert server.kill()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        answer.read()
    connection.close()
    assert get(server, "/plain/0.tar")[3] == TAR


def test_the_log_has_a_line_for_each_answer_with_its_status_and_bytes(
    server: Server,
) -> None:
    """Tests that count requests would count others, or none."""
    get(server, "/plain/0.tar", "bytes=4-")
    get(server, "/down/log")
    pattern = r'127\.0\.0\.1 - - \[[^]]+\] "GET (\S+) HTTP/1\.1" (\d+) (\d+) "-" "-"'
    for _ in range(100):
        matches = [re.fullmatch(pattern, line) for line in server.log()]
        assert None not in matches
        found = [match.groups() for match in matches if match is not None]
        if any(path == "/down/log" for path, *_ in found):
            break
        time.sleep(0.05)
    assert ("/plain/0.tar", "206", "6") in found
    assert [status for path, status, _ in found if path == "/down/log"] == ["503"]
