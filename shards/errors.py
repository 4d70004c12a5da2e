"""Errors of the data plane."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ShardError(Exception):
    """Data on disk is not what it should be; the message names place and remedy."""


class ClipError(ShardError):
    """One clip does not decode, though its shard is there and as long as it was."""


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Put ``place`` before the message of a ShardError, if it is not there yet."""
    try:
        yield
    except ShardError as error:
        named = str(error).startswith(place)
        raise error if named else ShardError(f"{place}: {error}") from None
