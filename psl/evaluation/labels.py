"""Which clips have which classes, in memory that grows with the labels alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from shards.format.index import Index


@dataclass(frozen=True)
class Labels:
    """The labels of R clips, L in all: 16 bytes for each, and 8 more once by class."""

    num_clips: int
    num_classes: int
    clip: np.ndarray
    """[L] int64, ascending: the clip of each label."""
    label: np.ndarray
    """[L] int64: its class, ascending within a clip, none of them twice."""

    @staticmethod
    def of(targets: np.ndarray | Labels) -> Labels:
        """Those of targets [R, C], which are positive where a label is."""
        if isinstance(targets, Labels):
            return targets
        clip, label = np.nonzero(targets > 0)
        num_clips, num_classes = targets.shape
        return Labels(num_clips, num_classes, clip, label)

    @staticmethod
    def of_pairs(
        clip: np.ndarray, label: np.ndarray, *, num_clips: int, num_classes: int
    ) -> Labels:
        """Those of clips [L] and their classes [L], in any order."""
        pairs = np.unique(clip.astype(np.int64) * num_classes + label)
        return Labels(num_clips, num_classes, *np.divmod(pairs, num_classes))

    @property
    def shape(self) -> tuple[int, int]:
        """[R, C], as of the targets."""
        return self.num_clips, self.num_classes

    @functools.cached_property
    def num_positives(self) -> np.ndarray:
        """[C] int64, clips with each class."""
        return np.bincount(self.label, minlength=self.num_classes)

    @functools.cached_property
    def _clip_by_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Clips [L] class after class, and where each class begins [C + 1]."""
        first = np.append(0, np.cumsum(self.num_positives))
        return self.clip[np.argsort(self.label, kind="stable")], first

    def clips_with(self, column: int) -> np.ndarray:
        """[P] int64, ascending: the clips with the class ``column``."""
        clip, first = self._clip_by_class
        return clip[first[column] : first[column + 1]]

    def has(self, column: int) -> np.ndarray:
        """[R] bool: whether each clip has the class ``column``."""
        found = np.zeros(self.num_clips, np.bool_)
        found[self.clips_with(column)] = True
        return found

    def span(self, start: int, stop: int) -> slice:
        """Where the labels of the clips ``start`` to ``stop`` are."""
        first, last = np.searchsorted(self.clip, [start, stop])
        return slice(int(first), int(last))

    def targets(self, start: int, stop: int) -> np.ndarray:
        """[stop - start, C] bool: the labels of some clips that follow each other."""
        found = np.zeros((stop - start, self.num_classes), np.bool_)
        part = self.span(start, stop)
        found[self.clip[part] - start, self.label[part]] = True
        return found

    def of_classes(self, columns: list[int]) -> Labels:
        """The labels of the classes ``columns`` alone, in this order."""
        place = np.full(self.num_classes, -1)
        place[columns] = np.arange(len(columns))
        kept = place[self.label] >= 0
        return Labels.of_pairs(
            self.clip[kept],
            place[self.label[kept]],
            num_clips=self.num_clips,
            num_classes=len(columns),
        )

    def of_clips(self, rows: np.ndarray) -> Labels:
        """The labels of the clips ``rows`` [V], each at most once, in this order."""
        place = np.full(self.num_clips, -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.clip] >= 0
        return Labels.of_pairs(
            place[self.clip[kept]],
            self.label[kept],
            num_clips=len(rows),
            num_classes=self.num_classes,
        )

    def clips_that_differ(self, other: Labels) -> np.ndarray:
        """[V] int64, ascending: the clips that have other labels in ``other``."""
        pairs = (x.clip * x.num_classes + x.label for x in (self, other))
        return np.unique(np.setxor1d(*pairs) // max(1, self.num_classes))


def weak_labels(index: Index) -> Labels:
    """The weak labels of all clips."""
    return Labels.of_pairs(
        index.table.label_rows,
        index.table.label,
        num_clips=len(index),
        num_classes=len(index.classes),
    )
