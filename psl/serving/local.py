"""A server for one page on this machine, which nobody else can reach or use.

Owns what keeps others out: it listens on the loopback interface alone, every address
begins with a random token, names of other hosts and requests of other pages are
refused, and a request that is too long, or not finished in time, ends.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from shards.errors import ShardError
from shards.system.exits import JobError

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_SECONDS = 30
"""Within which a request must come."""


@dataclass(frozen=True)
class Request:
    """What a page asks."""

    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What it gets."""

    body: bytes
    type: str = "application/json"
    status: int = 200
    policy: str = "default-src 'none'"
    """Content-Security-Policy."""


Routes = Mapping[tuple[str, str], Callable[[Request], Reply]]
"""By method and name, such as ("GET", "items"); ("GET", "") is the page."""


class Refused(Exception):
    """A request that cannot be answered: an HTTP status, and a line."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def as_json(value: Any) -> Reply:
    """A reply of plain values."""
    return Reply(json.dumps(value, allow_nan=False).encode())


def body_object(request: Request) -> dict[str, Any]:
    """The JSON object of a request; Refused if it is none."""
    try:
        found = json.loads(request.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "expected a JSON object")
    return found


class LocalServer:
    """Serves ``routes`` until it is closed.

    >>> with LocalServer(routes) as server:
    ...     server.show(f"the page: {server.url}", in_browser=True)
    """

    def __init__(self, routes: Routes, *, port: int = 0, max_body: int = 1 << 16):
        """``port`` 0 is a free one, ``max_body`` the longest request, bytes.

        Raises JobError if the port is taken.
        """
        self.token = secrets.token_urlsafe(24)
        try:
            self._server = _Server(port, routes, self.token, max_body)
        except OSError as error:
            raise JobError(
                f"port {port}: {error.strerror}; choose another with --port"
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self._server.server_address[1]}/{self.token}/"

    def show(self, message: str, *, in_browser: bool) -> None:
        """Print ``message``, open the page if that is wanted, and wait for Ctrl-C.

        Ctrl-C is the end from the message on, also while a browser starts.
        """
        try:
            print(message, flush=True)
            if in_browser:
                webbrowser.open(self.url)
            while self._thread.is_alive():
                self._thread.join(1.0)
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """Answer nothing more."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, routes: Routes, token: str, max_body: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.routes, self.token, self.max_body = routes, token, max_body

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves, as it does in the middle of a sound, is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            _log.error("a request failed: %s: %s", type(error).__name__, error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SECONDS
    server_version, sys_version = "psl", ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        try:
            reply = self._find()(Request(self._query(), self._body()))
        except Refused as refused:
            self.close_connection = True
            reply = _line(str(refused), refused.status)
        except (ShardError, ValueError, OSError, JobError) as error:
            _log.error("%s", error)
            reply = _line(" ".join(str(error).split()), 500)
        self._send(reply)

    def _find(self) -> Callable[[Request], Reply]:
        port = self.server.server_address[1]
        names = {f"{HOST}:{port}", f"localhost:{port}"}
        if not set(self.headers.get_all("Host", [""])) <= names:
            raise Refused(403, "this page is for this machine alone")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{n}" for n in names}:
            raise Refused(403, "another page must not ask this one")
        if self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise Refused(403, "another page must not ask this one")
        given, *rest = self._target().path.removeprefix("/").split("/")
        if not secrets.compare_digest(given.encode(), self.server.token.encode()):
            raise Refused(403, "wrong address; use the one that psl printed")
        route = self.server.routes.get((self.command, "/".join(rest)))
        if not rest or route is None:
            raise Refused(404, "there is no such part of the page")
        return route

    def _query(self) -> dict[str, str]:
        try:
            return dict(parse_qsl(self._target().query, max_num_fields=20))
        except ValueError:
            raise Refused(400, "more than 20 fields") from None

    def _target(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError:
            raise Refused(400, "no address of a page") from None

    def _body(self) -> bytes:
        if self.command != "POST":
            return b""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise Refused(411, "expected a Content-Length")
        if int(length) > self.server.max_body:
            raise Refused(413, f"longer than {self.server.max_body} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, "ended early")
        return body

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {
            "Content-Type": reply.type,
            "Content-Length": str(len(reply.body)),
            "Content-Security-Policy": reply.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


def _line(text: str, status: int) -> Reply:
    return Reply(json.dumps({"error": text}).encode(), status=status)
