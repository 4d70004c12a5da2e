"""Events in time: what sounds from when to when.

Owns their form, and what holds for every list of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Events:
    """Events of one clip, in any order."""

    label: np.ndarray
    """[E] int64, class index."""
    onset: np.ndarray
    """[E] float64, s from the start of the clip."""
    offset: np.ndarray
    """[E] float64, s; above onset."""

    @staticmethod
    def of(rows: Iterable[tuple[int, float, float]]) -> Events:
        """From (class index, onset, offset) of each event.

        Raises ValueError for a time that is not finite, or an event without length.
        """
        table = np.array([tuple(row) for row in rows], np.float64).reshape(-1, 3)
        label, onset, offset = table.T
        if not np.isfinite(table).all() or not (onset < offset).all():
            bad = int(
                np.flatnonzero(~(np.isfinite(table).all(1) & (onset < offset)))[0]
            )
            raise ValueError(
                f"an event of class {label[bad]:g} is from {onset[bad]:g} to "
                f"{offset[bad]:g} s; expected finite times, and the end after the start"
            )
        return Events(label.astype(np.int64), onset, offset)

    def __len__(self) -> int:
        return len(self.label)

    def joined(self) -> Events:
        """Sorted by class and onset; events of a class that touch are one."""
        order = np.lexsort((self.onset, self.label))
        rows: list[tuple[int, float, float]] = []
        for place in order:
            label, onset = int(self.label[place]), float(self.onset[place])
            offset = float(self.offset[place])
            if rows and rows[-1][0] == label and onset <= rows[-1][2]:
                rows[-1] = (label, rows[-1][1], max(rows[-1][2], offset))
            else:
                rows.append((label, onset, offset))
        return Events.of(rows)

    def of_class(self, label: int) -> Events:
        """Those of one class."""
        own = self.label == label
        return Events(self.label[own], self.onset[own], self.offset[own])


NO_EVENTS = Events.of([])


@dataclass(frozen=True)
class ScoredClip:
    """One clip: what a model says, and what is true."""

    key: str
    scores: np.ndarray
    """[T, C] frame probabilities."""
    edges: np.ndarray
    """[T + 1] float64, s, ascending: frame t lies between edges t and t + 1."""
    truth: Events
    """Joined."""
    segment_scores: np.ndarray
    """[S, C] float32, mean of the frames in each 1-s segment, by the time they share
    with it; no segment if nothing is known of the clip."""
