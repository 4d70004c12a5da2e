"""Clips that a report shows: labels over time, and sounds to play.

Owns which clips are chosen and their sound as FLAC inside the page. No torch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from psl.data.pseudo_labels import PseudoLabels
from psl.evaluation.stored import OpenScores, open_scores
from psl.serving.sounds import spectrogram
from shards.dataset.clips import AudioDataset

MAX_SECONDS = 10.0
"""Of a sound in the page; FLAC of 10 s at 16 kHz is 0.1 to 0.3 MB."""
NUM_TIMELINES = 3
NUM_SOUNDS = 6
NUM_CLASSES = 5
"""Classes shown of a clip."""
_LOOKED_AT = 400
"""Clips among which those for timelines are chosen."""


def sound(dataset: AudioDataset, key: str) -> dict[str, Any]:
    """The first seconds of a clip: a data URI, a spectrogram, and their length, s."""
    rate, clip = dataset.sample_rate, dataset[key]
    count = min(clip.num_samples, int(MAX_SECONDS * rate))
    samples, stream = dataset.pcm(key, 0, count), io.BytesIO()
    soundfile.write(stream, samples, rate, "PCM_16", format="FLAC")
    text = base64.b64encode(stream.getvalue()).decode()
    return {
        "uri": f"data:audio/flac;base64,{text}",
        "spectrogram": spectrogram(samples, rate),
        "seconds": count / rate,
        "whole": count == clip.num_samples,
    }


def telling_clips(
    labels: PseudoLabels, keys: set[str] | None, *, most: int
) -> list[str]:
    """Keys of clips whose labels change most over time, of different classes.

    ``keys`` limits the choice. The change is the range of a class over the chunks.
    """
    rows = [r for r, key in enumerate(labels.keys) if keys is None or key in keys]
    rows = [row for row in rows if labels.num_chunks[row] > 0]
    step = max(1, -(-len(rows) // _LOOKED_AT))
    ranges = {row: np.ptp(labels[row], axis=0) for row in rows[::step]}
    chosen: list[str] = []
    seen: set[int] = set()
    for row in sorted(ranges, key=lambda row: -float(ranges[row].max())):
        if (best := int(ranges[row].argmax())) not in seen:
            seen.add(best)
            chosen.append(labels.keys[row])
    return chosen[:most]


def timeline(
    name: str, labels: PseudoLabels, key: str, classes: Sequence[int]
) -> dict[str, Any] | None:
    """The labels of ``classes`` over time in one clip; None if it has none."""
    if key not in labels or not len(probs := labels[key]):
        return None
    starts, stops = labels.times(key)
    # of chunks that overlap, half way between the middles of two neighbours
    limits = (stops[:-1] + starts[1:]) / 2
    return {
        "name": name,
        "starts": np.concatenate([starts[:1], limits]).round(3).tolist(),
        "stops": np.concatenate([limits, stops[-1:]]).round(3).tolist(),
        "probs": probs[:, list(classes)].T.round(3).tolist(),
    }


def strongest(labels: PseudoLabels, key: str) -> list[int]:
    """The classes with the highest labels in a clip, highest first."""
    return np.argsort(-labels[key].max(axis=0), kind="stable")[:NUM_CLASSES].tolist()


def sample_rows(stored: OpenScores, keys: set[str], *, most: int) -> list[int]:
    """Rows of clips to play: half of them clear successes, half clear mistakes.

    By the lowest score of a class that is labelled less the highest of one that is
    not; each half of different classes.
    """
    margin = np.full(len(stored.key), np.nan)
    for start, scores in stored.blocks():
        part = slice(start, start + len(scores))
        targets = stored.labels.targets(part.start, part.stop)
        within = np.where(targets, scores, np.inf).min(axis=1)
        margin[part] = within - np.where(targets, -np.inf, scores).max(axis=1)
    usable = np.flatnonzero(np.isfinite(margin))
    usable = np.array([r for r in usable if stored.key[r].decode() in keys], np.int64)
    order = usable[np.argsort(margin[usable], kind="stable")]
    worst = _of_different_classes(stored, order[margin[order] < 0], most // 2)
    best = _of_different_classes(stored, order[margin[order] >= 0][::-1], most // 2)
    return [*worst, *best]


def _of_different_classes(
    stored: OpenScores, order: np.ndarray, most: int
) -> list[int]:
    """The first rows of ``order``, which have labels, of different first labels."""
    chosen: list[int] = []
    seen: set[int] = set()
    for row in order.tolist():
        label = int(stored.labels.label[stored.labels.span(row, row + 1).start])
        if label not in seen:
            seen.add(label)
            chosen.append(row)
        if len(chosen) == most:
            break
    return chosen


def said_of(
    path: Path, keys: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores [C] and targets [C] bool of those clips of ``keys`` that ``path`` has."""
    found = {}
    with open_scores(path) as stored:
        wanted = np.flatnonzero(np.isin(stored.key, [key.encode() for key in keys]))
        for start, scores in stored.blocks():
            stop = start + len(scores)
            for row in wanted[(wanted >= start) & (wanted < stop)].tolist():
                targets = stored.labels.targets(row, row + 1)[0]
                found[stored.key[row].decode()] = scores[row - start].copy(), targets
    return found
