"""Audio of any length -> windows with probabilities, in bounded memory.

Owns how a stream is cut into windows and what a window without sound gets. Knows no
files (readers.py) and no thresholds (rules.py).

The probabilities of a window depend on its own samples alone: not on its neighbours,
on the length of the file, or (to 1e-6) on how many windows are scored at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS = 10.0
"""Longer audio is scored in blocks of so much where no window is asked for: the length
of AudioSet's clips, so what the models know."""
MIN_LEVEL_DBFS = -80.0
"""Root mean square below which a window is silence, dB of full scale: at 16 bits,
three units. Models say something even of digital silence."""
MAX_WINDOW_SECONDS = 600.0
_LARGEST = 1 << 22
"""Samples that are scored at a time, at most, unless a window is longer."""

Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Waveforms [B, N] float32 -> clip_probs [B, C] and frame_probs [B, T, C]."""

TAIL_SECONDS = 0.1
"""What is left after the last whole window is left out if it is shorter than this, or
than half a hop: encoders pad by so little."""


@dataclass(frozen=True)
class Scored:
    """A window in samples, and what a model says of it."""

    start: int
    clip_probs: np.ndarray
    """[C] float32 in [0, 1]; all 0 for silence, as ``frame_probs``."""
    frame_probs: np.ndarray
    """[T, C] float32."""
    length: int
    reached: int
    """Where the windows before it ended."""

    @property
    def end(self) -> int:
        """First sample after it."""
        return self.start + self.length


@dataclass(frozen=True)
class Window:
    """A part of a recording, and what a model says of it."""

    start: float
    """Seconds from the first sample of the recording."""
    end: float
    probs: np.ndarray
    """[C] float32 in [0, 1]; all 0 for silence."""


@dataclass(frozen=True)
class Cut:
    """How a recording is cut."""

    window_seconds: float | None = None
    """Length of a window; None for one window per recording."""
    hop_seconds: float | None = None
    """From the start of one window to the start of the next; None for the length of a
    window."""
    frames: bool = False
    """Whether a window is a frame of the model, computed in blocks of
    ``window_seconds`` (10 s if None)."""
    min_level_dbfs: float = MIN_LEVEL_DBFS
    """Quieter windows get no probability above 0."""

    def __post_init__(self) -> None:
        """ValueError for lengths that cannot be."""
        window, hop = self.window_seconds, self.hop_seconds
        if window is not None and not 0.1 <= window <= MAX_WINDOW_SECONDS:
            raise ValueError(
                f"window = {window:g} s; expected 0.1 to {MAX_WINDOW_SECONDS:g} s"
            )
        if hop is None:
            return
        if window is None or self.frames:
            raise ValueError(
                f"hop = {hop:g} s; give the length of the windows, too, and no frames"
            )
        if not 0.01 <= hop <= window:
            raise ValueError(
                f"hop = {hop:g} s; expected 0.01 s to the length of a window, "
                f"{window:g} s, so that no sound is left out"
            )


def cut_windows(
    blocks: Iterable[np.ndarray],
    score: Score,
    *,
    rate: int,
    cut: Cut,
    frame_samples: int | None = None,
    on_seconds: Callable[[float], None] = lambda now: None,
) -> Iterator[Window]:
    """The windows of a recording, in order of their starts.

    ``blocks`` [N] int16 are its samples at ``rate``. Windows begin every hop. If they
    do not reach the end of the recording, another one ends with it, and so begins less
    than a hop after the last; a rest below TAIL_SECONDS and half a hop is left out.
    Only a recording shorter than a window has a shorter one. ``frame_samples`` is the
    distance of the model's frames, if it has one. ``on_seconds`` hears how far scoring
    is.
    """

    def noted(starts: list[int], pcm: np.ndarray) -> None:
        on_seconds((starts[-1] + pcm.shape[1]) / rate)

    def scored(inner: Cut) -> Iterator[Scored]:
        return _scored(blocks, score, rate=rate, cut=inner, note=noted)

    if cut.frames:
        if frame_samples is None:
            raise ValueError(
                "this model does not say how long its frames are; give the length of "
                "windows instead"
            )
        yield from _frames(scored, rate=rate, cut=cut, step=frame_samples)
    elif cut.window_seconds is None:
        yield _whole(scored, rate=rate, cut=cut)
    else:
        for part in scored(cut):
            yield Window(part.start / rate, part.end / rate, part.clip_probs)


def _whole(scored: Callable[[Cut], Iterator[Scored]], *, rate: int, cut: Cut) -> Window:
    """One window: the mean of blocks of 10 s, each weighted by what only it covers."""
    total, weighted = 0, np.zeros(1)
    inner = Cut(BLOCK_SECONDS, min_level_dbfs=cut.min_level_dbfs)
    for part in scored(inner):
        added = part.end - part.reached
        weighted = weighted + added * part.clip_probs.astype(np.float64)
        total = part.end
    probs = (weighted / max(total, 1)).astype(np.float32)
    return Window(0.0, total / rate, probs)


def _frames(
    scored: Callable[[Cut], Iterator[Scored]], *, rate: int, cut: Cut, step: int
) -> Iterator[Window]:
    """The model's own frames, each block of them computed by itself."""
    seconds = cut.window_seconds or BLOCK_SECONDS
    inner = Cut(seconds, min_level_dbfs=cut.min_level_dbfs)
    for part in scored(inner):
        for number, probs in enumerate(part.frame_probs):
            begin = part.start + number * step
            end = min(begin + step, part.end)
            begin = max(begin, part.reached)  # the last block overlaps the one before
            if begin < end:
                yield Window(begin / rate, end / rate, probs)


def _scored(
    blocks: Iterable[np.ndarray],
    score: Score,
    *,
    rate: int,
    cut: Cut,
    note: Callable[[list[int], np.ndarray], None],
) -> Iterator[Scored]:
    reached = 0
    for starts, pcm in batches(blocks, rate=rate, cut=cut):
        waveform = pcm.astype(np.float32) / 32768
        clip_probs, frame_probs = score(waveform)
        note(starts, pcm)
        if not (np.isfinite(clip_probs).all() and np.isfinite(frame_probs).all()):
            raise ValueError(
                f"the model gives no probabilities for the window at "
                f"{starts[0] / rate:g} s; its weights are damaged: use another "
                "checkpoint"
            )
        power = waveform.var(axis=1, dtype=np.float64)  # an offset is not sound
        heard = power >= 10 ** (cut.min_level_dbfs / 10)
        heard &= power > 0
        for row, start in enumerate(starts):
            keep = np.float32(heard[row])
            clip, frames = keep * clip_probs[row], keep * frame_probs[row]
            part = Scored(start, clip, frames, pcm.shape[1], reached)
            yield part
            reached = part.end


def batches(
    blocks: Iterable[np.ndarray], *, rate: int, cut: Cut
) -> Iterator[tuple[list[int], np.ndarray]]:
    """First samples and samples [B, N] int16 of windows of equal length.

    A batch is what one block completes, at most: a live stream does not wait.
    """
    assert cut.window_seconds is not None
    size = round(cut.window_seconds * rate)
    hop = cut.hop_seconds or cut.window_seconds
    most = max(1, min(32, _LARGEST // size))
    kept, first, number = np.zeros(0, np.int16), 0, 0
    reached = 0
    for block in blocks:
        kept = np.concatenate([kept, block])
        while True:
            starts = [round((number + i) * hop * rate) for i in range(most)]
            starts = [s for s in starts if s + size <= first + len(kept)]
            if not starts:
                break
            yield starts, np.stack([kept[s - first : s - first + size] for s in starts])
            reached = starts[-1] + size
            number += len(starts)
            drop = starts[-1] - first  # the last window of all may begin from here on
            kept, first = kept[drop:], first + drop
    rest = first + len(kept) - reached
    if rest > 0 and (not number or rest >= rate * min(TAIL_SECONDS, hop / 2)):
        start = max(first, first + len(kept) - size)
        yield [start], kept[start - first :][None]
