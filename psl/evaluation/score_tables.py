"""Scores [R, C] that are read a few clips or a few classes at a time.

Owns the two forms in memory: an array, and some clips of another table. score_file.py
has the form on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

BLOCK_SCORES = 1 << 22
"""Scores that are read at a time; 16 MB of float32."""
_COLUMNS_AT_A_TIME = 16


class ScoreTable(Protocol):
    """Scores of R clips and C classes, wherever they are."""

    @property
    def shape(self) -> tuple[int, int]:
        """[R, C]."""

    def row_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Clips in their order: the first one's number, and scores [b, C]."""

    def columns(self) -> Iterator[np.ndarray]:
        """The scores [R] of each class, contiguous, class after class."""


@dataclass(frozen=True)
class ArrayScores:
    """Scores in memory."""

    scores: np.ndarray
    """[R, C]."""

    @property
    def shape(self) -> tuple[int, int]:
        """[R, C]."""
        num_clips, num_classes = self.scores.shape
        return num_clips, num_classes

    def row_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """As ScoreTable has them."""
        step = clips_in_a_block(self.scores.shape[1])
        for start in range(0, len(self.scores), step):
            yield start, self.scores[start : start + step]

    def columns(self) -> Iterator[np.ndarray]:
        """As ScoreTable has them; a few are copied at a time.

        Sorting a column where it lies takes twice as long, and a copy of all twice the
        memory.
        """
        for block in column_blocks(self.shape):
            yield from np.ascontiguousarray(self.scores[:, block].T)


@dataclass(frozen=True)
class SomeClips:
    """Some clips of a table."""

    table: ScoreTable
    rows: np.ndarray
    """[V] int64, ascending: these."""

    @property
    def shape(self) -> tuple[int, int]:
        """[V, C]."""
        return len(self.rows), self.table.shape[1]

    def row_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """As ScoreTable has them."""
        for start, block in self.table.row_blocks():
            first, last = np.searchsorted(self.rows, [start, start + len(block)])
            if first < last:
                yield int(first), block[self.rows[first:last] - start]

    def columns(self) -> Iterator[np.ndarray]:
        """As ScoreTable has them."""
        for column in self.table.columns():
            yield column[self.rows]


def as_table(scores: np.ndarray | ScoreTable) -> ScoreTable:
    """A table of scores [R, C]."""
    return ArrayScores(scores) if isinstance(scores, np.ndarray) else scores


def clips_in_a_block(num_classes: int) -> int:
    """How many clips are read at a time."""
    return max(1, BLOCK_SCORES // max(1, num_classes))


def column_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    """Which columns of [R, C] are read at a time: one, up to 16 where R is small."""
    step = min(_COLUMNS_AT_A_TIME, max(1, BLOCK_SCORES // max(1, shape[0])))
    for start in range(0, shape[1], step):
        yield slice(start, min(start + step, shape[1]))
