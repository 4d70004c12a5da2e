"""Servers on loopback for the tests of remote shards, and a proxy that cuts.

The server of web_server.py is always there, nginx where it is installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import needs

_NGINX_CONF = """
{user}
worker_processes 2;
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    limit_req_zone $server_name zone=few:1m rate=5r/s;
    server {{
        listen 127.0.0.1:{port};
        server_name tests;  # the key of the limit, which must not be empty
        location /plain/ {{ alias {files}/; }}
        location /slow/ {{ alias {files}/; limit_rate 400k; }}
        location /busy/ {{ alias {files}/; limit_req zone=few; }}
        location /whole/ {{ alias {files}/; max_ranges 0; }}
        location /gone/ {{
            alias {files}/;
            location ~ tar$ {{ return 503; }}
        }}
        location /down/ {{ return 503; }}
    }}
}}
"""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A running server that serves a folder in several ways, one by path.

    /plain/, /slow/ (400 KiB/s), /busy/ (503 if asked more than 5 times a second),
    /whole/ (ignores Range), /gone/ (503 for every tar) and /down/ (503 for all).
    """

    port: int
    access_log: Path
    kill: Callable[[], bool]
    """kill -9 the processes that hold connections; others take their place. False if
    none was there."""

    def url(self, way: str) -> str:
        """The folder as served at /plain/, /slow/ and so on."""
        return f"http://127.0.0.1:{self.port}/{way}"

    def log(self) -> list[str]:
        """A line per answered request."""
        return self.access_log.read_text().splitlines()


@contextlib.contextmanager
def run_python(work: Path, files: Path) -> Iterator[Server]:
    """web_server.py serving ``files``; its log is in ``work``."""
    work.mkdir(parents=True)
    log = work / "access.log"
    log.touch()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        # the socket is ours, so that connections wait while a killed server is replaced
        process = _start_python(listening, files, log)

        def kill() -> bool:
            nonlocal process
            _end(process, signal.SIGKILL)
            process = _start_python(listening, files, log)
            return True

        try:
            yield Server(int(listening.getsockname()[1]), log, kill)
        finally:
            _end(process, signal.SIGTERM)


def _start_python(
    listening: socket.socket, files: Path, log: Path
) -> subprocess.Popen[bytes]:
    words = [str(listening.fileno()), str(files), str(log)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.web_server", *words],
        pass_fds=[listening.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n", "tests.web_server ended"
    return process


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    with process:  # waits, and closes the pipes
        pass


@contextlib.contextmanager
def run_nginx(work: Path, files: Path) -> Iterator[Server]:
    """Nginx serving ``files``; its own files are in ``work``."""
    port = free_port()
    work.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    conf = work / "nginx.conf"
    conf.write_text(_NGINX_CONF.format(user=user, work=work, port=port, files=files))
    # -e, or it complains that it may not write the log of the system
    command = [needs.program("nginx"), "-e", str(work / "error.log"), "-c", str(conf)]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process)
        kill = functools.partial(_kill_workers, process.pid)
        yield Server(port, work / "access.log", kill)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _kill_workers(master: int) -> bool:
    children = Path(f"/proc/{master}/task/{master}/children")
    workers = [int(word) for word in children.read_text().split()]
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    return bool(workers)


Serve = Callable[[Path, Path], contextlib.AbstractContextManager[Server]]
"""Runs a Server whose own files are in the first folder and that serves the second."""

RUNNERS: dict[str, Serve] = {"python": run_python, "nginx": run_nginx}
SERVERS = ["python", pytest.param("nginx", marks=needs.needs("nginx"))]
"""The names of RUNNERS as parameters of a test or fixture."""


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "nginx ended"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


class CuttingProxy:
    """Passes connections on to a port, and cuts the first few of them.

    After ``num_bytes`` of an answer's body a connection is closed, in good form or,
    with ``reset``, as by a broken line. ``num_cuts`` connections fare so, then none.
    With ``num_bytes`` None a connection is accepted and never answered.
    """

    def __init__(
        self, port: int, *, num_bytes: int | None, num_cuts: int, reset: bool = True
    ) -> None:
        self.target, self.num_bytes, self.reset = port, num_bytes, reset
        self.cuts_left = num_cuts
        self._kept: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        for connection in [self._server, *self._kept]:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.num_bytes is None:
                self._kept.append(client)
            else:
                threading.Thread(
                    target=self._serve, args=(client,), daemon=True
                ).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += client.recv(65536)
            server.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head:
                head += server.recv(1)
            client.sendall(head)
            self._pass_body(client, server)

    def _pass_body(self, client: socket.socket, server: socket.socket) -> None:
        assert self.num_bytes is not None
        left = self.num_bytes
        while block := server.recv(min(65536, left) if self.cuts_left else 65536):
            client.sendall(block)
            left -= len(block)
            if self.cuts_left and left <= 0:
                self.cuts_left -= 1
                if self.reset:
                    time.sleep(0.05)  # a reset overtakes what is not yet read
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
