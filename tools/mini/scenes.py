"""Recordings -> 10-s scenes and the times of their true events.

Owns the arithmetic of sound: where a recording sounds, excerpts, levels, the mix. Reads
and writes no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float64]
"""Mono at SAMPLE_RATE, full scale 1."""
Span = tuple[int, int]
"""First sample, and the one past the last."""
Event = tuple[float, float, str]
"""Start and end in the scene, s, and mid."""

SAMPLE_RATE = 16000
SCENE_SAMPLES = 10 * SAMPLE_RATE
FRAME = SAMPLE_RATE // 50
"""Of the energy that tells sound from silence: 20 ms."""
SHORTEST_SPAN = 2 * FRAME
"""A single frame is a click that nobody would mark."""
SILENT_DB = -70.0
"""A recording whose loudest frame is below this, dB of full scale, is silent."""
RANGE_DB = 30.0
"""A frame sounds if it is at most this far below the loudest."""
BURST_DB, ABOVE_FLOOR_DB = 20.0, 6.0
"""In a recording whose quiet tenth is BURST_DB below its loudest frame, a frame must
also be ABOVE_FLOOR_DB above that tenth: calls over a constant noise."""
PAUSE_SECONDS = 0.5
"""Calls with shorter pauses are one event, as AudioSet's annotators have it."""
SHORTEST_SECONDS = 0.1
"""Recordings that sound for less are not used, nor excerpts if there are others."""
MAX_DRAWS = 20
LONGEST_SECONDS = (1.0, 5.0)
"""An excerpt is at most as long as a draw from here."""
LEVEL_DB = (-31.0, -21.0)
"""RMS of an excerpt where it sounds, dB of full scale."""
BED_LEVEL_DB = (-36.0, -28.0)
"""The same of a bed, which sounds for the whole scene."""
BED_PROB = 0.25
NOISE_DB = -60.0
"""RMS of the pink noise under every scene."""
FADE = SAMPLE_RATE // 100
"""Ends of what is cut are faded over 10 ms, of a bed's repetitions over ten times
that."""


@dataclass(frozen=True)
class Sound:
    """A recording that can be used."""

    name: str
    mids: tuple[str, ...]
    samples: Audio
    spans: tuple[Span, ...]
    """Where it sounds, ascending, at least PAUSE_SECONDS apart."""


@dataclass(frozen=True)
class Scene:
    """Ten seconds and what sounds in them."""

    samples: NDArray[np.int16]
    events: list[Event]
    sources: tuple[str, ...]
    """Names of the recordings in it."""


def find_spans(samples: Audio) -> tuple[Span, ...]:
    """Where a recording sounds; nothing for silence or less than SHORTEST_SECONDS."""
    whole = len(samples) // FRAME
    frames = samples[: whole * FRAME].reshape(whole, FRAME)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    if not whole or level.max() < SILENT_DB:
        return ()
    quietest = level.max() - RANGE_DB
    floor = float(np.percentile(level, 10))
    if level.max() - floor > BURST_DB:
        quietest = max(quietest, floor + ABOVE_FLOOR_DB)
    spans = _runs(np.flatnonzero(level >= quietest))
    total = sum(stop - start for start, stop in spans)
    return spans if total >= SHORTEST_SECONDS * SAMPLE_RATE else ()


def _runs(frames: NDArray[np.int64]) -> tuple[Span, ...]:
    """Spans of samples of ascending frame numbers, joined over short pauses."""
    gaps = np.flatnonzero(np.diff(frames) > PAUSE_SECONDS * SAMPLE_RATE / FRAME)
    firsts = frames[np.concatenate([[0], gaps + 1])]
    lasts = frames[np.concatenate([gaps, [len(frames) - 1]])]
    starts, stops = firsts * FRAME, (lasts + 1) * FRAME
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    return tuple((a, b) for a, b in spans if b - a >= SHORTEST_SPAN)


def draw_excerpt(rng: np.random.Generator, sound: Sound) -> tuple[Audio, list[Span]]:
    """A part of a recording that begins and ends with sound, and where it sounds."""
    limit = round(rng.uniform(*LONGEST_SECONDS) * SAMPLE_RATE)
    first, last = sound.spans[0][0], sound.spans[-1][1]
    for _ in range(MAX_DRAWS):
        start = first + round(rng.uniform(0.0, max(last - first - limit, 0)))
        spans = _inside(sound.spans, start, start + limit)
        if sum(b - a for a, b in spans) >= SHORTEST_SECONDS * SAMPLE_RATE:
            break
    else:  # a few clicks, far apart
        start = sound.spans[int(rng.integers(len(sound.spans)))][0]
        spans = _inside(sound.spans, start, start + limit)
    start, stop = spans[0][0], spans[-1][1]
    return _faded(sound.samples[start:stop], FADE), [
        (a - start, b - start) for a, b in spans
    ]


def _inside(spans: Sequence[Span], start: int, stop: int) -> list[Span]:
    """What of ``spans`` lies between ``start`` and ``stop``; no slivers."""
    cut = [(max(a, start), min(b, stop)) for a, b in spans]
    return [(a, b) for a, b in cut if b - a >= SHORTEST_SPAN]


def _faded(samples: Audio, num: int) -> Audio:
    """A copy whose first and last ``num`` samples rise and fall linearly."""
    num = min(num, len(samples) // 2)
    ramp = np.arange(1, num + 1) / (num + 1)
    faded = samples.copy()
    faded[:num] *= ramp
    faded[len(faded) - num :] *= ramp[::-1]
    return faded


def draw_bed(rng: np.random.Generator, sound: Sound) -> Audio:
    """A recording repeated over SCENE_SAMPLES, each repetition faded into the next."""
    piece = sound.samples[sound.spans[0][0] : sound.spans[-1][1]]
    num = min(10 * FADE, len(piece) // 2)
    faded, step = _faded(piece, num), len(piece) - num
    repeats = 2 + SCENE_SAMPLES // step
    bed = np.zeros(repeats * step + num)
    for place in range(repeats):
        bed[place * step : place * step + len(piece)] += faded
    start = num + int(rng.integers(step))
    return bed[start : start + SCENE_SAMPLES]


def pink_noise(rng: np.random.Generator, rms: float) -> Audio:
    """SCENE_SAMPLES of noise with a 1/f power spectrum."""
    num_bins = SCENE_SAMPLES // 2 + 1
    spectrum = rng.standard_normal(num_bins) + 1j * rng.standard_normal(num_bins)
    spectrum[1:] /= np.sqrt(np.arange(1, num_bins))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, SCENE_SAMPLES)
    return noise * rms / np.sqrt((noise**2).mean())


def _scaled(samples: Audio, spans: Sequence[Span], level_db: float) -> Audio:
    """``samples`` with an RMS of ``level_db`` inside ``spans``."""
    sounding = np.concatenate([samples[a:b] for a, b in spans])
    return samples * (10 ** (level_db / 20) / np.sqrt((sounding**2).mean()))


def _draw_sounds(
    rng: np.random.Generator, by_class: dict[str, list[Sound]], beds: Sequence[str]
) -> tuple[list[Sound], Sound | None]:
    """One to three recordings of different classes, and perhaps a bed of another."""
    num = min(int(rng.integers(1, 4)), len(by_class))
    mids = [str(mid) for mid in rng.choice(list(by_class), num, replace=False)]
    sounds = [by_class[mid][int(rng.integers(len(by_class[mid])))] for mid in mids]
    has_bed, others = rng.random() < BED_PROB, [mid for mid in beds if mid not in mids]
    if not has_bed or not others:
        return sounds, None
    candidates = by_class[str(rng.choice(others))]
    return sounds, candidates[int(rng.integers(len(candidates)))]


def mix_scene(
    rng: np.random.Generator, by_class: dict[str, list[Sound]], beds: Sequence[str]
) -> Scene:
    """A scene of recordings in ``by_class`` (by first mid); ``beds`` may lie under it.

    Its peak is at most 0.99.
    """
    sounds, bed = _draw_sounds(rng, by_class, beds)
    mix = pink_noise(rng, 10 ** (NOISE_DB / 20))
    events: list[Event] = []
    for sound in sounds:
        samples, spans = draw_excerpt(rng, sound)
        onset = int(rng.integers(SCENE_SAMPLES - len(samples) + 1))
        samples = _scaled(samples, spans, rng.uniform(*LEVEL_DB))
        mix[onset : onset + len(samples)] += samples
        for a, b in spans:
            start, end = (onset + a) / SAMPLE_RATE, (onset + b) / SAMPLE_RATE
            events += [(start, end, mid) for mid in sound.mids]
    if bed is not None:
        whole = [(0, SCENE_SAMPLES)]
        mix += _scaled(draw_bed(rng, bed), whole, rng.uniform(*BED_LEVEL_DB))
        events += [(0.0, SCENE_SAMPLES / SAMPLE_RATE, mid) for mid in bed.mids]
        sounds = [*sounds, bed]
    mix *= min(1.0, 0.99 / np.abs(mix).max())
    samples16 = np.round(mix * 32767).astype(np.int16)
    return Scene(samples16, sorted(events), tuple(s.name for s in sounds))
