"""A picture of one file: its spectrogram over the probabilities of its classes.

Owns the drawing and what is kept for it: a few thousand columns, whatever the length.
Needs matplotlib.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from psl.tagging.records import Settings
from psl.tagging.rules import DEFAULT_THRESHOLD
from psl.tagging.windows import Window, cut_windows
from shards.format.classes import Classes
from shards.system.extras import pip_install
from shards.system.files import write_atomic

MAX_CLASSES = 8
"""Classes that are drawn: those that rise highest."""
MAX_COLUMNS = 2048
_FFT = 512
_FLOOR_DB, _LABEL = -90.0, 28
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#000000", "#808080"),
)


class Scorer(Protocol):
    """What a timeline needs of psl.tagger.Tagger."""

    classes: Classes
    sample_rate: int

    @property
    def frame_samples(self) -> int | None:
        """Samples from one frame to the next."""

    def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B, N] -> clip_probs [B, C] and frame_probs [B, T, C]."""


def check_matplotlib() -> None:
    """ValueError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"--timeline needs matplotlib; run {pip_install('report')}")


class Columns:
    """Columns [.] of equal shape, of which neighbours are joined when there are many.

    So the memory of hours is that of minutes.
    """

    def __init__(self, join: Any) -> None:
        """``join`` makes one column of two: np.maximum, or a mean."""
        self._join = join
        self._columns: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []
        self.stride = 1
        """Columns that were added for each that is kept."""

    def add(self, column: np.ndarray) -> None:
        """One more column."""
        self._waiting.append(column)
        if len(self._waiting) == self.stride:
            self._columns.append(self._joined())
        if len(self._columns) == 2 * MAX_COLUMNS:
            even, odd = self._columns[::2], self._columns[1::2]
            self._columns = [self._join(a, b) for a, b in zip(even, odd, strict=True)]
            self.stride *= 2

    def _joined(self) -> np.ndarray:
        column = self._waiting[0]
        for other in self._waiting[1:]:
            column = self._join(column, other)
        self._waiting = []
        return column

    def array(self) -> np.ndarray:
        """[columns, ...], the last one perhaps of fewer."""
        if self._waiting:
            self._columns.append(self._joined())
        return np.array(self._columns)


class Curves:
    """Windows as points of curves, of which neighbours are joined as in Columns."""

    def __init__(self) -> None:
        self._columns = Columns(np.maximum)

    def add(self, window: Window) -> None:
        """One more window."""
        bounds = [-window.start, window.end]  # so that the larger is the outer one
        self._columns.add(np.concatenate([bounds, window.probs]))

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres [K] in seconds of the windows, and probabilities [K, C]."""
        found = self._columns.array()
        return (found[:, 1] - found[:, 0]) / 2, found[:, 2:]


class Spectrogram:
    """Passes blocks on, and keeps their power spectra."""

    def __init__(self, blocks: Iterator[np.ndarray], rate: int) -> None:
        self._blocks = blocks
        self._hop = max(_FFT, rate // 50)
        self.columns = Columns(np.maximum)
        self.num_samples = 0
        """Samples that have passed."""

    def __iter__(self) -> Iterator[np.ndarray]:
        rest, window = np.zeros(0, np.int16), np.hanning(_FFT).astype(np.float32)
        for block in self._blocks:
            rest = np.concatenate([rest, block])
            number = len(rest) // self._hop
            frames = rest[: number * self._hop].reshape(number, self._hop)[:, :_FFT]
            power = np.abs(np.fft.rfft(frames / 32768 * window)) ** 2
            for column in power.astype(np.float32):
                self.columns.add(column)
            rest = rest[number * self._hop :]
            self.num_samples += len(block)
            yield block
        if not self.columns.array().size:  # shorter than a column
            self.columns.add(np.zeros(_FFT // 2 + 1, np.float32))


def write_timeline(path: Path, place: str, tagger: Scorer, settings: Settings) -> None:
    """Draw the file at ``place`` into the PNG ``path``."""
    from psl.tagging.readers import open_audio

    curves = Curves()
    with open_audio(place, sample_rate=tagger.sample_rate) as audio:
        heard = Spectrogram(audio.blocks, tagger.sample_rate)
        for window in cut_windows(
            heard,
            tagger.score,
            rate=tagger.sample_rate,
            cut=settings.cut,
            frame_samples=tagger.frame_samples,
        ):
            curves.add(window)
    least = settings.rules.thresholds(tagger.classes, default=DEFAULT_THRESHOLD)
    times, probs = curves.points()
    data = _draw(
        title=Path(place).name,
        seconds=heard.num_samples / tagger.sample_rate,
        spectra=heard.columns.array(),
        rate=tagger.sample_rate,
        times=times,
        probs=probs,
        names=tagger.classes.names,
        least=least,
    )
    write_atomic(path, data)


def _draw(
    *,
    title: str,
    seconds: float,
    spectra: np.ndarray,
    rate: int,
    times: np.ndarray,
    probs: np.ndarray,
    names: tuple[str, ...],
    least: np.ndarray,
) -> bytes:
    """A PNG of ``probs`` [K, C] at ``times`` [K] seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
    decibels = 10 * np.log10(np.maximum(spectra, 1e-12))
    above.imshow(
        np.maximum(decibels, decibels.max() + _FLOOR_DB).T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, rate / 2000),
        cmap="magma",
    )
    above.set(ylabel="kHz", title=_plain(title, 90))
    order = np.argsort(-probs.max(axis=0), kind="stable")[:MAX_CLASSES]
    for color, c in zip(COLORS, order, strict=False):
        below.plot(times, probs[:, c], color=color, lw=1.4, label=_plain(names[c]))
        if np.isfinite(least[c]):
            below.axhline(least[c], color=color, lw=0.6, ls=":")
    below.set(xlabel="seconds", ylabel="probability", ylim=(0, 1.02), xlim=(0, seconds))
    below.grid(color="#DDDDDD")
    figure.legend(*below.get_legend_handles_labels(), loc="outside right lower")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _plain(text: str, longest: int = _LABEL) -> str:
    """Text that matplotlib shows as it is: no mathematics, and not too long."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    text = text if len(text) <= longest else text[: longest - 1] + "\u2026"
    return text.replace("$", r"\$")
