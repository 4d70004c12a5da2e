"""Segments of a second or so: what sounds when, in truth, and how well it is known.

Owns the segments, how frames count for them, and the measures of their scores; not the
scores of a model (segment_scores.py). The truth is read by true_events.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.evaluation.labels import Labels
from psl.evaluation.metrics import average_precision
from psl.evaluation.score_tables import ScoreTable, as_table
from psl.evaluation.true_events import Events, events_in_chunks
from shards.format.chunking import Chunking
from shards.format.index import Index

SEGMENT_SECONDS = 1.0
"""Length of a segment where nobody says another."""
NOT_FINITE = "a segment's score is not finite; the model is broken"


@dataclass(frozen=True)
class Segments:
    """The segments of the clips that a strong CSV names."""

    seconds: float
    """Length of a segment, s."""
    chunking: Chunking
    rows: np.ndarray
    """[V] int64, ascending: these clips."""
    num_samples: np.ndarray
    """[V] int64, of each."""
    first: np.ndarray
    """[V + 1] int64: segments first[v] to first[v + 1] are those of clip rows[v]."""
    truth: Labels
    """Of S segments: the C classes of which an event counts for each."""

    @staticmethod
    def of(
        events: Events,
        audio: Index,
        columns: Sequence[int],
        *,
        segment_seconds: float,
        min_overlap: float,
    ) -> Segments:
        """Segments of ``segment_seconds``; an event counts as events_in_chunks says.

        Class ``columns[c]`` of ``audio`` becomes class c; events of others are left
        out. ``min_overlap`` is in s.
        """
        rate = audio.properties["sample_rate"]
        chunking = Chunking.from_seconds(segment_seconds, rate)
        rows = np.flatnonzero(events.covered)
        num_samples = audio.table.count[rows].astype(np.int64)
        first = np.append(0, np.cumsum(chunking.num_chunks(num_samples)))
        clip = np.searchsorted(rows, events.row)
        event, segment = events_in_chunks(
            events.start,
            events.stop,
            num_samples[clip],
            chunking=chunking,
            min_samples=round(min_overlap * rate),
        )
        truth = Labels.of_pairs(
            first[clip[event]] + segment,
            events.label[event],
            num_clips=int(first[-1]),
            num_classes=len(audio.classes),
        ).of_classes(list(columns))
        return Segments(segment_seconds, chunking, rows, num_samples, first, truth)

    def shares(
        self, num_samples: int, starts: np.ndarray, stops: np.ndarray
    ) -> np.ndarray:
        """Share of frame t in segment s [T, S] of a clip; each segment's sum is 1.

        ``starts`` and ``stops`` [T] are the samples of its frames, which cover it.
        """
        (number,) = self.chunking.num_chunks(np.array([num_samples]))
        first, past = self.chunking.bounds(np.arange(number), num_samples)
        shared = np.minimum(stops[:, None], past) - np.maximum(starts[:, None], first)
        shared = np.maximum(shared, 0.0)
        return shared / shared.sum(axis=0)


def default_overlap(segment_seconds: float) -> float:
    """How much of an event, s, makes it count for a segment, if nobody says."""
    return min(0.25, segment_seconds / 4)


FULL = "every class sounds in all segments of its clips"


@dataclass(frozen=True)
class SegmentMetrics:
    """How well a model knows what sounds when."""

    segment_seconds: float
    ap: np.ndarray
    """[C] average precision over all segments, NaN without a true one."""
    ap_in_clip: np.ndarray
    """[C] the same over the segments of the clips in which the class sounds; NaN where
    it sounds in all of these, or in none."""
    share_in_clip: np.ndarray
    """[C] share of true segments among those: the expected ap_in_clip of chance."""
    num_segments: int
    num_clips: int

    def summary(self) -> dict[str, Any]:
        """The scalars as strict JSON has them.

        One that no class has is None, and ``undefined`` gives the reason.
        """
        counted = ~np.isnan(self.ap_in_clip)
        names = ("mAP_in_positive_clips", "chance_in_positive_clips")
        undefined = {} if counted.any() else {"undefined": dict.fromkeys(names, FULL)}
        return {
            "segment_seconds": self.segment_seconds,
            "mAP": _mean(self.ap),
            "num_classes": int((~np.isnan(self.ap)).sum()),
            "mAP_in_positive_clips": _mean(self.ap_in_clip),
            "chance_in_positive_clips": _mean(self.share_in_clip[counted]),
            "num_classes_in_positive_clips": int(counted.sum()),
            "num_segments": self.num_segments,
            "num_clips": self.num_clips,
            **undefined,
        }


def _mean(values: np.ndarray) -> float | None:
    """The mean of those that are not NaN; None if there are none."""
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else None


def measure_segments(
    segments: Segments, scores: np.ndarray | ScoreTable
) -> SegmentMetrics:
    """Metrics of scores [S, C].

    Of a table on disk, one class (a few where segments are few) is in memory at a time.
    Raises ValueError if a score is not finite, or no segment has an event.
    """
    table, truth = as_table(scores), segments.truth
    ap, ap_in_clip, share = np.full((3, truth.num_classes), np.nan)
    for c, column in enumerate(table.columns()):
        if not np.isfinite(column).all():
            raise ValueError(NOT_FINITE)
        if not truth.num_positives[c]:
            continue
        true, inside = truth.has(c), _in_positive_clips(segments, c)
        ap[c] = average_precision(true, column)
        share[c] = true[inside].mean()
        if share[c] < 1:
            ap_in_clip[c] = average_precision(true[inside], column[inside])
    if np.isnan(ap).all():
        raise ValueError(
            "no segment has an event of the measured classes; nothing to measure"
        )
    return SegmentMetrics(
        segment_seconds=segments.seconds,
        ap=ap,
        ap_in_clip=ap_in_clip,
        share_in_clip=share,
        num_segments=table.shape[0],
        num_clips=len(segments.rows),
    )


def _in_positive_clips(segments: Segments, column: int) -> np.ndarray:
    """[S] bool: the segments of the clips in which the class ``column`` sounds."""
    of_class = segments.truth.clips_with(column)
    holds = np.zeros(len(segments.rows), np.bool_)
    holds[np.searchsorted(segments.first, of_class, side="right") - 1] = True
    return np.repeat(holds, np.diff(segments.first))
