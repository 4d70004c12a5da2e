"""Places that are URLs: which are allowed, and their bytes, fetched with retries.

Owns the rules for URLs, and trying again. Keeps nothing (cache.py does); transport.py
speaks to servers.
"""

from __future__ import annotations

import random
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from shards.errors import ShardError
from shards.remote.transport import (
    PROTOCOLS,
    Stall,
    Unreachable,
    WrongContent,
    read_blocks,
)
from shards.system.exits import JobError

Result = TypeVar("Result")


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a download is."""

    attempts: int = 8
    """Tries in a row that bring less than ``progress_bytes`` each before giving up."""
    progress_bytes: int = 1 << 20
    first_delay_seconds: float = 0.5
    """Pause after the first such try, doubled after each further one; a random half
    of it is left out, so that many readers do not come back together."""
    longest_delay_seconds: float = 30.0
    stall: Stall = Stall()

    def delay_seconds(self, failures: int) -> float:
        """Pause after ``failures`` (from 1) tries in a row."""
        doubled = self.first_delay_seconds * 2.0 ** min(failures - 1, 60)
        return min(doubled, self.longest_delay_seconds) * random.uniform(0.5, 1.0)

    @property
    def patience_seconds(self) -> float:
        """After so long without progress a download has certainly given up."""
        return self.attempts * 2 * (self.stall.seconds + self.longest_delay_seconds)


class Stopped(Exception):
    """The download was asked to stop."""


def is_url(place: str | Path) -> bool:
    """Whether ``place`` is a URL rather than a local folder or file."""
    return isinstance(place, str) and ("://" in place or "::" in place)


def check_place(place: str | Path) -> str:
    """``place`` as a local path or a URL that may be read; file:// becomes a path.

    Raises ShardError for a protocol that is not in PROTOCOLS, a chain of URLs, and
    what cannot be followed by the name of a file.
    """
    if not is_url(place):
        return str(place)
    url = str(place)
    protocol, _, rest = url.partition("://")
    if "::" in url or not re.fullmatch(r"[a-z][a-z0-9]*", protocol):
        raise ShardError(f"{url!r}: chained or malformed URL; name one plain URL")
    if protocol in ("file", "local"):
        return urllib.parse.unquote(rest)
    if protocol not in PROTOCOLS:
        raise ShardError(
            f"{url}: unknown protocol {protocol!r}; expected a folder or one of "
            + ", ".join(PROTOCOLS)
        )
    if protocol in ("http", "https") and not _is_plain_http(url, rest):
        raise ShardError(
            f"{url}: expected http(s)://HOST[:PORT]/FOLDER without user, query, "
            "fragment or blank"
        )
    return url.rstrip("/")


def _is_plain_http(url: str, rest: str) -> bool:
    try:
        hostname = urllib.parse.urlsplit(url).hostname
    except ValueError:  # such as http://[::1
        return False
    return bool(hostname) and not re.search(r"[\s?#@]", rest)


def resolve_location(home: str, location: str) -> str:
    """The folder or URL that ``location`` names in an index that lies at ``home``.

    An index from a URL may name a URL or a folder below its own, never a local file:
    the folders of those who wrote it are none of ours. Raises ShardError.
    """
    if is_url(location):
        place = check_place(location)
        if is_url(home) and not is_url(place):
            raise _leaves(location)
        return place
    if not is_url(home):
        return str(Path(home) / location)
    if location.startswith("/") or {"", ".."} & set(location.rstrip("/").split("/")):
        raise _leaves(location)
    return join_place(home, location.rstrip("/"))


def _leaves(location: str) -> ShardError:
    return ShardError(
        f"location {location!r} leaves the dataset; expected a folder below it, or a "
        "URL"
    )


def join_place(folder: str, name: str) -> str:
    """The file ``name`` in ``folder``, which is a path or a URL."""
    if not is_url(folder):
        return str(Path(folder) / name)
    if folder.startswith("http"):
        name = urllib.parse.quote(name)
    return f"{folder}/{name}"


def read_url(url: str, *, max_bytes: int, retry: RetryPolicy) -> bytes:
    """A whole file of at most ``max_bytes``.

    Raises ShardError if there is none or it is longer, JobError if it cannot be had
    within ``retry``.
    """

    def read() -> bytes:
        data = bytearray()
        for block in read_blocks(url, 0, None, retry.stall):
            data += block
            if len(data) > max_bytes:
                raise ShardError(
                    f"{url}: more than {max_bytes} bytes, which is refused"
                )
        return bytes(data)

    return _with_retries(url, read, lambda: 0, retry=retry, stop=None)


def download(
    url: str,
    stream: BinaryIO,
    num_bytes: int | None,
    *,
    retry: RetryPolicy,
    stop: threading.Event | None = None,
    max_bytes: int | None = None,
) -> None:
    """Append to ``stream``, at its end, what it lacks of the ``num_bytes`` of ``url``.

    None for a length that only the server knows, which may be ``max_bytes`` at most.

    Raises WrongContent if the file has another length, ShardError if there is none,
    JobError if it cannot be had within ``retry``, and Stopped. What has come by then
    is in ``stream``.
    """
    most = max_bytes if num_bytes is None else num_bytes

    def receive() -> None:
        for block in read_blocks(url, stream.tell(), num_bytes, retry.stall):
            if most is not None and stream.tell() + len(block) > most:
                raise WrongContent(f"more than {most} bytes")
            stream.write(block)
            if stop is not None and stop.is_set():
                raise Stopped

    if num_bytes is None or stream.tell() < num_bytes:
        _with_retries(url, receive, stream.tell, retry=retry, stop=stop)


def _with_retries(
    url: str,
    attempt: Callable[[], Result],
    position: Callable[[], int],
    *,
    retry: RetryPolicy,
    stop: threading.Event | None,
) -> Result:
    """The result of ``attempt``, called until it is not Unreachable."""
    failures = 0
    while True:
        start = position()
        try:
            return attempt()
        except Unreachable as error:
            progressed = position() - start >= retry.progress_bytes
            failures = 1 if progressed else failures + 1
            if failures >= retry.attempts:
                raise JobError(
                    f"{url}: {error}; gave up at byte {position()} after {failures} "
                    "tries; run the same command again when the server responds"
                ) from None
        if (stop or threading.Event()).wait(retry.delay_seconds(failures)):
            raise Stopped
