"""A web server that serves a folder in several ways, good and bad, one by path.

For the tests of remote shards on machines without nginx; the ways and the log are those
of the nginx in servers.py, which starts this as a process, so that it can be killed.

python -m tests.web_server SOCKET FILES LOG: serves FILES on the listening socket with
the file descriptor SOCKET, until its standard input ends.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WAYS = ("plain", "slow", "busy", "whole", "gone", "down")
SLOW_BYTES_PER_SECOND = 400 * 1024
"""Of each connection at /slow/."""
BUSY_SECONDS = 0.2
"""Between two requests that /busy/ answers; it refuses the others."""
_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Answer:
    """A status, and which bytes of a file of ``size`` bytes go with it."""

    status: int
    start: int = 0
    stop: int = 0
    size: int = 0

    def headers(self) -> dict[str, str]:
        """Those that say what the body is."""
        headers = {"Content-Length": str(self.stop - self.start)}
        if self.status == 206:
            range_ = f"bytes {self.start}-{self.stop - 1}/{self.size}"
            headers["Content-Range"] = range_
        elif self.status == 416:
            headers["Content-Range"] = f"bytes */{self.size}"
        return headers


def answer_for(
    way: str, file: Path, wanted: str | None, *, has_time: Callable[[], bool]
) -> Answer:
    """The answer to a request for ``file`` with the header ``Range: wanted``.

    ``has_time`` says whether /busy/ takes another request now.
    """
    broken = way == "down" or (way == "gone" and file.suffix == ".tar")
    if broken or (way == "busy" and not has_time()):
        return Answer(503)
    if way not in WAYS or not file.is_file():
        return Answer(404)
    size = file.stat().st_size
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if match is None or way == "whole":
        return Answer(200, 0, size, size)
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    return Answer(416, size=size) if start >= stop else Answer(206, start, stop, size)


class Turnstile:
    """Lets one through every ``seconds``, whichever thread asks."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, float("-inf")
        self._lock = threading.Lock()

    def has_time(self) -> bool:
        """True if the last who heard so has been gone long enough."""
        with self._lock:
            now = time.monotonic()
            if now - self._last < self._seconds:
                return False
            self._last = now
            return True


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` on a socket that listens already, a thread a connection."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, files: Path, log: Path) -> None:
        super().__init__(listening.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.files, self.log = files, log
        self.turnstile = Turnstile(BUSY_SECONDS)


class Handler(BaseHTTPRequestHandler):
    """One connection to a FileServer."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        """The name that http.server gives it."""
        _, way, name = (self.path + "/").split("/", 2)
        file = self.server.files / name.rstrip("/")
        has_time = self.server.turnstile.has_time
        answer = answer_for(way, file, self.headers["Range"], has_time=has_time)
        num_sent = 0
        try:
            self.send_response(answer.status)
            for header, value in answer.headers().items():
                self.send_header(header, value)
            self.end_headers()
            for piece in pieces(file, answer, slow=way == "slow"):
                self.wfile.write(piece)
                num_sent += len(piece)
        except OSError:  # the other side has gone
            self.close_connection = True
        self._log_answer(answer.status, num_sent)

    def _log_answer(self, status: int, num_sent: int) -> None:
        """A line once an answer has ended, in nginx's form."""
        facts = f"{self.client_address[0]} - - [{self.log_date_time_string()}] "
        agent = self.headers.get("User-Agent", "-")
        line = f'{facts}"{self.requestline}" {status} {num_sent} "-" "{agent}"\n'
        with open(self.server.log, "a") as stream:
            stream.write(line)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def pieces(file: Path, answer: Answer, *, slow: bool) -> Iterator[bytes]:
    """The body of an answer; if slow, at SLOW_BYTES_PER_SECOND."""
    if answer.start == answer.stop:
        return
    begun = time.monotonic()
    with open(file, "rb") as stream:
        for at in range(answer.start, answer.stop, _PIECE_BYTES):
            if slow:
                due = begun + (at - answer.start) / SLOW_BYTES_PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
            stream.seek(at)
            yield stream.read(min(_PIECE_BYTES, answer.stop - at))


def main() -> None:
    """Serve until standard input ends, as it does when the parent process dies."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    server = FileServer(listening, Path(sys.argv[2]), Path(sys.argv[3]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
