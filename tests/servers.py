"""Servers on loopback for the tests of remote shards: nginx, and a proxy that cuts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
class Nginx:
    """A running nginx that serves a folder in several ways, one by path."""

    port: int
    work: Path
    master: int

    def url(self, way: str) -> str:
        """The folder as served at /plain/, /slow/ and so on."""
        return f"http://127.0.0.1:{self.port}/{way}"

    def kill_workers(self) -> int:
        """Kill -9 the workers, and so every connection; the master starts others."""
        children = Path(f"/proc/{self.master}/task/{self.master}/children")
        workers = [int(word) for word in children.read_text().split()]
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        return len(workers)

    def log(self) -> list[str]:
        """A line per answered request."""
        return (self.work / "access.log").read_text().splitlines()


@contextlib.contextmanager
def run_nginx(work: Path, files: Path) -> Iterator[Nginx]:
    """Nginx serving ``files``; its own files are in ``work``."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    work.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    conf = work / "nginx.conf"
    conf.write_text(_NGINX_CONF.format(user=user, work=work, port=port, files=files))
    # -e, or it complains that it may not write the log of the system
    command = [program, "-e", str(work / "error.log"), "-c", str(conf)]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process)
        yield Nginx(port, work, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


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
