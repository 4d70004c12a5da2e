"""Segments of a second or so: what sounds when, in truth, and how well it is known.

Owns the segments, how frames count for them, and the measures of their scores; not the
scores of a model (segment_scores.py). The truth is read by true_events.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from psl.evaluation.metrics import average_precision
from psl.evaluation.true_events import Events, events_in_chunks
from shards.format.chunking import Chunking
from shards.format.index import Index

SEGMENT_SECONDS = 1.0
"""Length of a segment where nobody says another."""


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
    truth: np.ndarray
    """[S, C] bool: whether an event of the class counts for the segment."""

    @staticmethod
    def of(
        events: Events, audio: Index, *, segment_seconds: float, min_overlap: float
    ) -> Segments:
        """Segments of ``segment_seconds``; an event counts as events_in_chunks says.

        ``min_overlap`` is in s.
        """
        rate = audio.properties["sample_rate"]
        chunking = Chunking.from_seconds(segment_seconds, rate)
        rows = np.flatnonzero(events.covered)
        num_samples = audio.table.count[rows].astype(np.int64)
        first = np.append(0, np.cumsum(chunking.num_chunks(num_samples)))
        truth = np.zeros((int(first[-1]), len(audio.classes)), np.bool_)
        clip = np.searchsorted(rows, events.row)
        event, segment = events_in_chunks(
            events.start,
            events.stop,
            num_samples[clip],
            chunking=chunking,
            min_samples=round(min_overlap * rate),
        )
        truth[first[clip[event]] + segment, events.label[event]] = True
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
    segments: Segments, scores: np.ndarray, columns: list[int]
) -> SegmentMetrics:
    """Metrics of scores [S, C] of the classes ``columns``.

    Raises ValueError if a score is not finite, or no segment has an event.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a segment's score is not finite; the model is broken")
    clip = np.repeat(np.arange(len(segments.rows)), np.diff(segments.first))
    ap, ap_in_clip, share = [], [], []
    for column in columns:
        true, score = segments.truth[:, column], scores[:, column]
        ap.append(average_precision(true, score))
        holds = np.zeros(len(segments.rows), np.bool_)
        holds[clip[true]] = True
        inside = holds[clip]
        tells = true.any() and not true[inside].all()
        ap_in_clip.append(
            average_precision(true[inside], score[inside]) if tells else np.nan
        )
        share.append(true[inside].mean() if inside.any() else np.nan)
    if np.isnan(ap).all():
        raise ValueError(
            "no segment has an event of the measured classes; nothing to measure"
        )
    return SegmentMetrics(
        segment_seconds=segments.seconds,
        ap=np.array(ap),
        ap_in_clip=np.array(ap_in_clip),
        share_in_clip=np.array(share),
        num_segments=len(scores),
        num_clips=len(segments.rows),
    )
