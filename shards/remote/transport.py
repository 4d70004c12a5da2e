"""One try at the bytes of a URL from a position on.

Owns how each protocol is spoken, and which failures may pass. Tries nothing twice
(places.py does), and never runs a command.

HTTP is spoken with the standard library rather than through fsspec: one response is
read as a stream, so that a silent or dropped connection is noticed at once, a server
that ignores Range costs no memory, and nothing has to be installed.
"""

from __future__ import annotations

import functools
import http.client
import queue
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, Any, TypeVar

from shards import __version__
from shards.errors import ShardError
from shards.system.extras import pip_install
from shards.system.threads import start_thread

Result = TypeVar("Result")

PROTOCOLS = {
    "http": "",
    "https": "",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "memory": "fsspec",
}
"""Protocols a dataset may be read over, and the package that fsspec needs for each."""

_BLOCK_BYTES = 1 << 20
_RANGE_BYTES = 4 << 20  # asked for at once where each range is a request
_TRANSIENT_STATUSES = {408, 425, 429}  # and all from 500 on
_NOT_FOR_RETRY = (FileNotFoundError, PermissionError, IsADirectoryError)
_NO_CREDENTIALS = {"NoCredentialsError", "DefaultCredentialsError"}


@dataclass(frozen=True)
class Stall:
    """When a connection counts as dead."""

    seconds: float = 30.0
    """Without an answer, or with less than ``bytes_per_second``."""
    bytes_per_second: int = 1024


class Unreachable(Exception):
    """A try failed in a way that another may not."""


class WrongContent(Exception):
    """The file is not the one expected; retrying the same range cannot help."""


def read_blocks(
    url: str, start: int, num_bytes: int | None, stall: Stall
) -> Iterator[bytes]:
    """One try at the bytes of ``url`` from ``start`` to its end.

    ``num_bytes`` is the length of the whole file, if known. Raises Unreachable,
    WrongContent or ShardError.
    """
    if url.startswith("http"):
        blocks = _http_blocks(url, start, num_bytes, stall)
    else:
        blocks = _fsspec_blocks(url, start, num_bytes, stall)
    at, mark, mark_time = start, start, time.monotonic()
    while True:
        try:
            block = next(blocks, b"")
        except (Unreachable, WrongContent, ShardError):
            raise
        except Exception as error:
            # libraries have many kinds of errors, and most of them pass
            if isinstance(error, _NOT_FOR_RETRY):
                raise ShardError(f"{url}: not found or not readable: {error}") from None
            if type(error).__name__ in _NO_CREDENTIALS:
                raise ShardError(f"{url}: {error}") from None
            raise Unreachable(repr(error)) from None
        if not block:
            return
        at += len(block)
        yield block
        now = time.monotonic()
        if now - mark_time > stall.seconds:
            if at - mark < stall.bytes_per_second * (now - mark_time):
                raise Unreachable(
                    f"only {at - mark} bytes in {now - mark_time:.0f} seconds"
                )
            mark, mark_time = at, now


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to HTTP(S), and to nothing else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise ShardError(
                f"{req.full_url}: redirected to {newurl!r}, which is not HTTP; refused"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _http_opener() -> urllib.request.OpenerDirector:
    """Speaks HTTP(S), through the environment's proxies, and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _WebOnly(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"psl-audio/{__version__}")]
    return opener


def _http_blocks(
    url: str, start: int, num_bytes: int | None, stall: Stall
) -> Iterator[bytes]:
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = _http_opener().open(request, timeout=stall.seconds)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error.code, start) from None
    with response:
        skip, length = _check_range(response, start, num_bytes)
        at = start - skip
        while block := response.read1(_BLOCK_BYTES):
            fresh = block[max(start - at, 0) :]
            at += len(block)
            if fresh:
                yield fresh
        if length is not None and at < length:
            raise Unreachable(f"connection closed after {at} of {length} bytes")


def _refusal(url: str, status: int, start: int) -> Exception:
    if status >= 500 or status in _TRANSIENT_STATUSES:
        return Unreachable(f"HTTP {status}")
    if status == 416:
        return WrongContent(f"at most {start} bytes")
    if status in (404, 410):
        return ShardError(f"{url}: not found (HTTP {status}); check the address")
    return ShardError(f"{url}: refused (HTTP {status}); check address and permission")


def _check_range(
    response: http.client.HTTPResponse, start: int, num_bytes: int | None
) -> tuple[int, int | None]:
    """Bytes to skip until ``start``, and the length of the file if the server says.

    A server may ignore the wish for a range and send the file from its first byte.
    """
    skip, length = start, response.length
    if response.status == http.client.PARTIAL_CONTENT:
        found = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", found)
        if match is None or int(match[1]) != start:
            raise Unreachable(f"asked for bytes from {start}, got {found!r}")
        skip, length = 0, None if match[2] == "*" else int(match[2])
    if None not in (length, num_bytes) and length != num_bytes:
        raise WrongContent(f"{length} bytes")
    return skip, num_bytes if length is None else length


def _fsspec_blocks(
    url: str, start: int, num_bytes: int | None, stall: Stall
) -> Iterator[bytes]:
    files, path = _filesystem(url)
    length = int(_within(stall.seconds, lambda: files.info(path))["size"])
    if num_bytes is not None and length != num_bytes:
        raise WrongContent(f"{length} bytes")
    while start < length:
        stop = min(start + _RANGE_BYTES, length)
        read = functools.partial(files.cat_file, path, start=start, end=stop)
        block = _within(stall.seconds, read)
        if len(block) != stop - start:
            raise Unreachable(f"{len(block)} bytes of a range of {stop - start}")
        start = stop
        yield block


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a checked URL, and the path in it."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = PROTOCOLS[url.partition("://")[0]]
        raise ShardError(
            f"{url}: {error}; install {package}, or for s3 the extra: "
            f"{pip_install('remote')}"
        ) from None


def _within(seconds: float, function: Callable[[], Result]) -> Result:
    """``function()``; Unreachable if it takes longer.

    Its thread is then left alone, as there is no way to end it.
    """
    results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            results.put((function(), None))
        except Exception as error:
            results.put((None, error))

    start_thread(call, name="fetch")
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise Unreachable(f"no answer in {seconds:g} seconds") from None
    if error is not None:
        raise error
    return result
