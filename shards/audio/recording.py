"""What the decoders have in common: an open recording, its limits, and a cut of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shards.errors import ShardError

MAX_CHANNELS = 32
RATES = range(1000, 768001)
"""Sample rates in Hz that are taken; others are forged or not audio."""

MAX_DECODED = 1 << 26
"""Samples of one channel decoded at most: 256 MiB; a forged rate makes seconds cheap.
"""

PREROLL_SECONDS = 1.0
"""Decoded ahead of a cut and dropped. Right after a seek libsndfile gave wrong samples
of Vorbis in 3 of 100 cuts (1.2.2, 2026-11-22), and predictive codecs settle first."""

Blocks = Iterator[tuple[int, np.ndarray]]
"""Position and mono samples [N] float32 of each block, one after the other."""


@dataclass(frozen=True)
class Recording:
    """An open audio file."""

    seconds: float | None
    """Length; None if only decoding can tell."""
    read: Callable[[float, float], tuple[np.ndarray, int]]
    """(start, stop) in seconds from the first sample -> mono samples [N] float32 and
    their rate in Hz; fewer where the recording ends. May be called again."""
    blocks: Callable[[], Iterator[tuple[int, np.ndarray]]]
    """All of it from the first sample: the rate in Hz and mono samples [N] float32 of
    each block, in bounded memory. Raises ShardError where it turns out to be damaged,
    at the latest at its end."""


def not_decodable(reason: str) -> ShardError:
    """The error for what a decoder refuses."""
    return ShardError(f"not decodable audio: {reason.rstrip('.') or 'damaged'}")


def check_sound(rate: int, channels: int) -> None:
    """ShardError if rate (Hz) or channels are beyond what is taken for audio."""
    if channels > MAX_CHANNELS:
        raise ShardError(f"{channels} channels, expected at most {MAX_CHANNELS}")
    if rate not in RATES:
        raise ShardError(f"{rate} Hz, expected {RATES[0]} to {RATES[-1]} Hz")


def bounds(start_seconds: float, stop_seconds: float, rate: int) -> tuple[int, int]:
    """First sample and end of a cut, which is never much longer than MAX_DECODED."""
    start = round(start_seconds * rate)
    return start, round(min(stop_seconds * rate, start + MAX_DECODED + 1))


@dataclass(frozen=True)
class End:
    """Where the header of a file says that the recording ends, in samples."""

    stated: int = 0
    """0 if it says nothing."""
    slack: int = 0
    """A whole file may be so much shorter."""
    padding: int = 0
    """So many samples may follow that an encoder has added to fill its last frame."""


NOT_STATED = End()


def cut(blocks: Blocks, start: int, stop: int, end: End = NOT_STATED) -> np.ndarray:
    """Samples ``start`` to ``stop`` [N] float32, fewer if the blocks end before.

    The blocks decide where that is, and may go beyond the stated end; only padding is
    left out. Raises ShardError if they end before it, or if the cut is longer than
    MAX_DECODED.
    """
    beyond = end.stated + end.padding + 1 if stop > end.stated else 0
    kept, reached = [np.zeros(0, np.float32)], 0
    for position, block in blocks:
        kept.append(block[max(0, start - position) : max(0, stop - position)])
        reached = position + len(block)
        if reached >= max(stop, beyond):
            break
    if reached < min(stop, end.stated - end.slack):
        raise _too_short(reached, end)
    mono = np.concatenate(kept)
    if 0 < reached - end.stated <= end.padding:
        mono = mono[: max(0, end.stated - start)]
    if len(mono) > MAX_DECODED:
        raise ShardError(
            f"decodes to more than {MAX_DECODED} samples a channel; cut it first"
        )
    return mono


def whole(blocks: Blocks, end: End = NOT_STATED) -> Iterator[np.ndarray]:
    """All samples of ``blocks``, block by block, as ``cut`` would join them.

    Raises ShardError at the end of blocks that end before the stated end.
    """
    held: list[np.ndarray] = []
    reached = 0
    for position, block in blocks:
        reached = position + len(block)
        inside = len(block)
        if end.padding and reached - end.stated <= end.padding:
            inside = min(inside, max(0, end.stated - position))
        if inside == len(block):
            yield from held
            held.clear()
            yield block
        else:
            yield block[:inside]
            held.append(block[inside:])
    if reached < end.stated - end.slack:
        raise _too_short(reached, end)


def _too_short(reached: int, end: End) -> ShardError:
    return ShardError(
        f"truncated or damaged: {reached} of {end.stated} samples can be decoded; "
        "fetch it again"
    )
