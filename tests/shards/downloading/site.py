"""A site of recordings on loopback, good and bad, one by id.

Each recording is 12 s at 22,050 Hz: second n holds a tone of 400 + 100 n Hz.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

RATE = 22050


def recording(seconds: int = 12) -> bytes:
    """A WAV of ``seconds``, a tone for each."""
    time_ = np.arange(RATE) / RATE
    tones = [np.sin(2 * np.pi * (400 + 100 * n) * time_) for n in range(seconds)]
    buffer = io.BytesIO()
    pcm = np.round(np.concatenate(tones) * 16000).astype(np.int16)
    soundfile.write(buffer, pcm, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


WHOLE = recording()


class Site(ThreadingHTTPServer):
    """Answers /ID.wav; what is wrong with an ID its beginning says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        """GET requests by id."""
        self.busy = 0
        """So many more GETs of busy... get 429."""
        self.is_mended = False
        """Whether fail... and slow... work."""
        self.closing = threading.Event()

    @property
    def template(self) -> str:
        """For --url-template."""
        return f"http://127.0.0.1:{self.server_address[1]}/{{id}}.wav"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        name = self.path.strip("/").removesuffix(".wav")
        if not is_head:
            self.server.asked[name] += 1
        if name.startswith("busy") and self.server.busy > 0:
            self.server.busy -= not is_head
            self._send(429, b"", kind="text/plain")
        elif name.startswith("none"):
            self._send(404, b"", kind="text/plain")
        elif name.startswith("fail") and not self.server.is_mended:
            self._send(503, b"", kind="text/plain")
        elif name.startswith("page"):
            self._send(200, b"<html><body>hello</body></html>", kind="text/html")
        elif name.startswith("junk"):
            self._send(200, b"RIFFnothing of the kind" * 100)
        elif name.startswith("cut"):
            self._send(200, WHOLE[:100_000], stated=len(WHOLE))
        elif name.startswith("slow") and not self.server.is_mended:
            self._send(200, WHOLE, is_slow=True)
        elif name.startswith("short"):
            self._send(200, recording(5))
        else:
            self._send(200, WHOLE)

    def _send(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "audio/x-wav",
        stated: int | None = None,
        is_slow: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(stated or len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.command != "HEAD":
                self._write(body, is_slow=is_slow)

    def _write(self, body: bytes, *, is_slow: bool) -> None:
        if not is_slow:
            self.wfile.write(body)
            return
        for place in range(0, len(body), 100):
            self.wfile.write(body[place : place + 100])
            if self.server.closing.wait(0.05):
                return


@contextlib.contextmanager
def running() -> Iterator[Site]:
    """The site, until the end of the block."""
    site = Site()
    thread = threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        site.shutdown()
        site.server_close()


def wait_until(condition: object, seconds: float = 60) -> None:
    """Wait for ``condition()``; an error after ``seconds``."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
