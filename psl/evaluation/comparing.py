"""Whether one system is better than another, or only luckier.

Owns the paired bootstrap over the clips that both were evaluated on, and how the noise
of seeds adds to that of clips. A system is one run, or several that differ in seed.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psl.evaluation.bootstrap import interval, resample
from psl.evaluation.labels import Labels
from psl.evaluation.measured import BOUNDS
from psl.evaluation.metrics import evaluate_scores
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.score_tables import ScoreTable
from psl.evaluation.stored import OpenScores, open_scores
from psl.evaluation.student import CONFIDENCE, student_quantile
from shards.format.classes import class_difference

_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class System:
    """The runs of a system, S of them, on the same clips."""

    folders: tuple[str, ...]
    values: np.ndarray
    """[S] the metric of each run."""
    resampled: np.ndarray
    """[S, B] the same of each resample of the clips."""

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(self.values.mean())

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % over clips, of the mean over the runs."""
        bounds = BOUNDS.get(metric, (0.0, 1.0))
        return interval(self.mean, self.resampled.mean(axis=0), bounds=bounds)

    @property
    def seed_variance(self) -> float:
        """Of the mean over the runs, by their spread; at least two."""
        return float(self.values.var(ddof=1) / len(self.values))


@dataclass(frozen=True)
class Difference:
    """One system's metric less another's."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    clip_error: float
    """Standard error of ``value`` by the choice of clips."""
    seed_error: float | None
    """The same by the seeds of the runs; None unless both systems have two or more."""
    over_clips: tuple[float, float]
    """Ends of the 95 % interval by the choice of clips alone."""

    @property
    def is_more_than_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Systems on the same clips, each against the first."""

    metric: str
    num_clips: int
    num_classes: int
    num_resamples: int
    seed: int
    systems: tuple[System, ...]

    def differences(self) -> list[Difference]:
        """Of each system but the first, less the first."""
        return [difference(self.systems[0], other) for other in self.systems[1:]]


def difference(first: System, second: System) -> Difference:
    """``second`` less ``first``.

    The same resamples for both, so what is hard for both cancels. With several seeds of
    each, the variance of the two means is added, and the interval is Student's with
    the degrees of freedom of Welch and Satterthwaite, clips counting as infinitely
    many. Raises ValueError if more than half of the resamples have no value.
    """
    value = second.mean - first.mean
    resampled = second.resampled.mean(axis=0) - first.resampled.mean(axis=0)
    found = interval(value, resampled, bounds=_UNBOUNDED)
    if found is None:
        raise ValueError(
            f"{second.folders[0]}: more than half of the resamples of these clips have "
            "no value; choose another metric, or evaluate on more clips"
        )
    clip_error = float(np.nanstd(resampled, ddof=1))
    if min(len(first.values), len(second.values)) < 2:
        return Difference(value, *found, clip_error, None, found)
    both = (first, second)
    seeds = sum(s.seed_variance for s in both)
    total = clip_error**2 + seeds
    spread = sum(s.seed_variance**2 / (len(s.values) - 1) for s in both)
    freedom = total**2 / spread if spread else math.inf
    half = student_quantile((1 + CONFIDENCE) / 2, freedom) * math.sqrt(total)
    ends = value - half, value + half
    return Difference(value, *ends, clip_error, math.sqrt(seeds), found)


def compare(
    systems: Sequence[Sequence[str]], *, metric: str, num_resamples: int, seed: int
) -> Comparison:
    """Measure the runs of each system, by the folders of their evaluations.

    The scores of one run at a time are on disk, in the folder for temporary files, and
    its resamples in memory. Raises ShardError for a file that is not one of scores,
    ValueError if two were not evaluated on the same clips, classes and labels, or the
    metric is undefined.
    """
    first: OpenScores | None = None
    where = systems[0][0]
    found = []
    for folders in systems:
        values, resampled = [], []
        for folder in folders:
            with open_scores(folder) as stored:
                first = first or stored
                places = _places_in(first, stored, where, folder)
                with _in_order(stored, places) as scores:
                    value, drawn = _measure(
                        first.labels,
                        scores,
                        folder,
                        metric=metric,
                        num_resamples=num_resamples,
                        seed=seed,
                    )
            values.append(value)
            resampled.append(drawn)
        found.append(System(tuple(folders), np.array(values), np.array(resampled)))
    assert first is not None
    return Comparison(
        metric=metric,
        num_clips=len(first.key),
        num_classes=int((first.labels.num_positives > 0).sum()),
        num_resamples=num_resamples,
        seed=seed,
        systems=tuple(found),
    )


def _measure(
    labels: Labels,
    scores: ScoreTable,
    folder: str,
    *,
    metric: str,
    num_resamples: int,
    seed: int,
) -> tuple[float, np.ndarray]:
    """A metric of a run, and of each of its resamples [B]."""
    summary = evaluate_scores(labels, scores).summary()
    if summary[metric] is None:
        raise ValueError(
            f"{folder}: {metric} is undefined: {summary['undefined'][metric]}"
        )
    drawn = resample(labels, scores, num_resamples=num_resamples, seed=seed)
    return summary[metric], drawn.scalars()[metric]


def _in_order(stored: OpenScores, places: np.ndarray) -> ScoreFile:
    """The scores of ``stored`` on disk; its clip r is clip ``places[r]`` there."""
    num_clips, num_classes = stored.labels.shape
    file = ScoreFile(
        tempfile.gettempdir(),
        num_clips=num_clips,
        num_classes=num_classes,
        dtype=stored.dtype,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        for start, block in stored.blocks():
            file.write(places[start : start + len(block)], block)
        file.seal()
        stack.pop_all()
    return file


def _places_in(
    first: OpenScores, other: OpenScores, where: str, folder: str
) -> np.ndarray:
    """[R] the place in ``first`` of each clip of ``other``; ValueError if unfit."""
    if first.mids != other.mids:
        raise ValueError(
            f"{folder}: not the classes of {where}: "
            f"{class_difference(other.mids, first.mids)}; "
            "evaluate both on the same audio"
        )
    if len(first.key) < 2:
        raise ValueError(f"{where}: one clip; a comparison over clips needs more")
    for own, its, one, two in (
        (first, other, where, folder),
        (other, first, folder, where),
    ):
        missing = np.flatnonzero(~np.isin(own.key, its.key))
        if len(missing):
            raise ValueError(
                f"{two}: {len(missing)} of the {len(own.key)} clips of {one} are not "
                f"among its {len(its.key)}, such as {own.key[missing[0]].decode()!r}; "
                "evaluate both on the same clips"
            )
    of_first = np.argsort(first.key)[np.searchsorted(np.sort(first.key), other.key)]
    rows = np.argsort(of_first)  # of the other, in the order of the first
    differs = first.labels.clips_that_differ(other.labels.of_clips(rows))
    if len(differs):
        raise ValueError(
            f"{folder}: {len(differs)} clips have other labels than in {where}, such "
            f"as {first.key[differs[0]].decode()!r}; evaluate both on the same audio"
        )
    return of_first
