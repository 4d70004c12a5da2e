"""What a user names -> open audio: files, folders, URLs, and pipes.

Owns the list of files that a command line means, and how each is opened: URLs are
fetched into a temporary file first, with retries.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from psl.tagging.records import STDIN, name_of
from shards.audio.decode import SUFFIXES
from shards.audio.live import stream_file, stream_pcm, stream_pipe
from shards.audio.streams import Pipe, Stream
from shards.errors import ShardError, naming
from shards.remote.places import RetryPolicy, check_place, download, is_url
from shards.remote.transport import WrongContent
from shards.system.files import open_regular

MAX_URL_BYTES = 16 << 30
"""A server may send no more; it fills the folder for temporary files meanwhile."""
_RETRY = RetryPolicy(attempts=5)
"""Gives up on a dead server after about ten seconds."""
_AT_A_TIME = 1 << 18
"""Samples of a file that are cut into windows at a time; 16 s at 16 kHz."""


@dataclass(frozen=True)
class Audio:
    """An open source of audio."""

    seconds: float | None
    """Its length, if that is known before the end."""
    blocks: Iterator[np.ndarray]
    """[N] int16, mono at the rate that was asked for."""


def list_files(places: Iterable[str]) -> dict[str, str]:
    """The audio files that ``places`` mean, and a short name for each.

    Each is there once; folders are searched deeply. The short name is the path below
    the folder, or the last part of the place.

    Files of a folder are those with a suffix of audio, sorted by path; other places
    stand as they are. Raises ShardError for a folder without audio.
    """
    found: dict[str, str] = {}
    for place in places:
        if place == STDIN or is_url(place) or not os.path.isdir(place):
            last = place.split("?")[0].rstrip("/").rpartition("/")[2]
            found[place] = name_of(place) if place == STDIN else last or "audio"
            continue
        inside = sorted(
            str(path)
            for path in Path(place).rglob("*")
            if path.name.lower().endswith(SUFFIXES)
            and not path.name.startswith(".")
            and path.is_file()
        )
        if not inside:
            raise ShardError(
                f"{place}: no audio files in this folder; expected names such as "
                f"{', '.join(SUFFIXES[:4])}"
            )
        found |= {path: os.path.relpath(path, place) for path in inside}
    return found


@contextlib.contextmanager
def open_audio(
    place: str | Path, *, sample_rate: int, retry: RetryPolicy | None = None
) -> Iterator[Audio]:
    """The audio in a file, at a URL or, for "-", in a file on stdin.

    What a ShardError says begins with ``place``.
    """
    with naming(name_of(place)), contextlib.ExitStack() as stack:
        if place == STDIN:
            yield Audio(None, stream_pipe(stdin_pipe(), sample_rate=sample_rate))
            return
        if is_url(place):
            fetched = stack.enter_context(tempfile.TemporaryFile())
            _fetch(str(place), fetched, retry or _RETRY)
            stream: Stream = fetched
        else:
            stream = stack.enter_context(open_regular(place))
        stream.seek(0)
        seconds, blocks = stream_file(stream, sample_rate=sample_rate)
        yield Audio(seconds, in_large_blocks(blocks))


def _fetch(url: str, stream: BinaryIO, retry: RetryPolicy) -> None:
    try:
        download(check_place(url), stream, None, retry=retry, max_bytes=MAX_URL_BYTES)
    except WrongContent as error:
        raise ShardError(f"{error}; download it by other means") from None


def open_live(*, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Blocks [N] int16 at ``sample_rate`` of the raw s16le on stdin, as they come."""
    with naming(name_of(STDIN)):
        yield from stream_pcm(stdin_pipe(), rate=rate, sample_rate=sample_rate)


def stdin_pipe() -> Pipe:
    """The bytes of stdin; ValueError if that is a terminal."""
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("stdin is closed; pipe audio into this command")
    handle = sys.stdin.fileno()
    if os.isatty(handle):
        raise ValueError(
            "stdin is a terminal; pipe audio into this command, as from ffmpeg or "
            "arecord"
        )
    return Pipe(lambda size: os.read(handle, size))


def in_large_blocks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in fewer blocks, so that many windows are scored at a time."""
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= _AT_A_TIME:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)
