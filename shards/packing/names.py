"""Names of files: which tell a clip, which are no data, and how to show them.

Owns how a name becomes a clip's id and start. Opens nothing.
"""

from __future__ import annotations

import contextlib
import os
import re

from shards.errors import ShardError
from shards.format.schema import make_key

MAX_START_SECONDS = 1e7
"""A name or CSV with a later start does not mean seconds."""

_CUT_NAME = re.compile(r"(?:Y(?=.{11}_))?(.+)_(\d+\.\d+)_(\d+\.\d+)")


def parse_stem(stem: str) -> tuple[str, float]:
    """Clip id and start in seconds from a file's name without suffix.

    ``<id>_<start>_<end>`` with decimal seconds, and the same after a ``Y`` if the id
    has YouTube's 11 characters, is a segment; any other name is an id that starts
    at 0. So a clip of such a name has the same key from whatever it was packed.
    """
    match = _CUT_NAME.fullmatch(stem)
    if match and float(match[2]) < MAX_START_SECONDS:
        return match[1], float(match[2])
    return stem, 0.0


def is_passed_over(path: str) -> bool:
    """Whether a relative path is no data: hidden, or what macOS adds to archives.

    So ``._x.wav`` next to ``x.wav``, ``__MACOSX/x.wav``, ``.DS_Store`` and all below
    hidden folders.
    """
    parts = path.split("/")
    return any(p == "__MACOSX" or (p.startswith(".") and p != ".") for p in parts)


def without_suffix(path: str) -> str:
    """``path`` without its suffix and without a ``./`` before it."""
    return os.path.splitext(path)[0].removeprefix("./")


def name_for_id(path: str, *, with_folder: bool) -> str:
    """The part of ``path`` (without suffix) that tells a clip's id.

    That is the name without its folder; but where two files would then be one clip, as
    ``dog/1`` and ``cat/1``, all ids of a source keep their folders.
    """
    return path if with_folder else path.rpartition("/")[2]


def keys_of_file(name: str) -> tuple[str, ...]:
    """Keys that the clip of an audio file may have, the likeliest first.

    With its folder, where a dataset needed that to tell clips apart, or without. A name
    may also be the key, as a dataset's own files have it.
    """
    stem = without_suffix(name)
    base = stem.rpartition("/")[2]
    keys = []
    for part in (stem, base):
        with contextlib.suppress(ShardError):  # a name that no clip can have
            keys.append(key_of(part))
    return tuple(dict.fromkeys([*keys, base]))


def key_of(name: str) -> str:
    """The key of the clip that a file's name without suffix tells."""
    return make_key(*parse_stem(name))


def readable(path: str) -> str:
    r"""``path`` in valid Unicode; bytes that are not UTF-8 are shown as ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_utf8(path: str) -> None:
    """ShardError if the name of a file is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ShardError("its name is not UTF-8; rename it") from None
