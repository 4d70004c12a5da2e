"""What people said of parts of clips -> targets of chunks, and weak labels of clips.

Owns what a yes or a no about one part says of others: a yes for a class holds for each
chunk that contains the whole part, a no for each chunk that lies within it, or within
parts that touch. Other labels stay as they are.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from psl.data.corrections_file import Corrections, Line, read_corrections
from shards.errors import ShardError
from shards.format.index import Index, with_labels

_log = logging.getLogger(__name__)

_TOLERANCE_SECONDS = 0.01
"""By which parts and chunks may miss each other and still count as equal."""
_MOST_BEYOND_SECONDS = 0.1
"""Of a part after the end of its clip: decoders differ in how they end a file."""


class CorrectedLabels:
    """The corrections of one audio dataset, ready to be applied.

    Raises ShardError if a class is not the dataset's, if no clip is, or if a clip is
    too short for what was said of it.
    """

    def __init__(self, corrections: Corrections, index: Index) -> None:
        self._rate = int(index.properties["sample_rate"])
        self._sha256 = corrections.sha256
        self._said: dict[tuple[int, int], _Said] = defaultdict(_Said)
        self._classes_of: dict[int, list[int]] = defaultdict(list)
        self.num_elsewhere = 0
        """Decisions about clips that the dataset does not have."""
        if not corrections.decisions:
            _log.warning("%s: has no decision, and changes nothing", corrections.where)
        row_of = _rows(index, {d.key for d in corrections.decisions})
        for decision in corrections.decisions:
            row = row_of.get(decision.key)
            if row is None:
                self.num_elsewhere += 1
            else:
                self._add(decision, row, index, corrections.where)
        if self.num_elsewhere and not self._said:
            raise ShardError(
                f"{corrections.where}: clips such as {corrections.decisions[0].key!r}; "
                f"expected clips of {index.where}, such as {index.key(0)!r}"
            )
        if self.num_elsewhere:
            _log.warning(
                "%s: %d of %d decisions are about clips that are not in %s",
                corrections.where,
                self.num_elsewhere,
                len(corrections.decisions),
                index.where,
            )

    def _add(self, decision: Line, row: int, index: Index, where: str) -> None:
        seconds = int(index.table.count[row]) / self._rate
        if decision.end > seconds + _MOST_BEYOND_SECONDS:
            raise ShardError(
                f"{where}: id {decision.id}: clip {decision.key!r} to "
                f"{decision.end:g} s, but in {index.where} it has {seconds:g} s; "
                "expected corrections of this audio"
            )
        for mid, is_there in decision.classes.items():
            c = index.classes.index_of.get(mid)
            if c is None:
                raise ShardError(
                    f"{where}: id {decision.id}: class {mid!r} is not one of the "
                    f"{len(index.classes)} of {index.where}; review labels of these"
                )
            if (row, c) not in self._said:
                self._classes_of[row].append(c)
            self._said[row, c].add(decision.start, decision.end, is_there)

    def apply(
        self,
        targets: np.ndarray,
        rows: np.ndarray,
        bounds: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Set what is known in ``targets`` [B, C] of chunks of clips ``rows`` [B].

        ``bounds``: first sample and the one after the last of each [B].
        """
        for b, row in enumerate(rows.tolist()):
            if row in self._classes_of:
                start, end = (int(bound[b]) / self._rate for bound in bounds)
                for c, is_there in self.known(row, start, end).items():
                    targets[b, c] = is_there

    @property
    def rows(self) -> list[int]:
        """The clips that something is known of, ascending."""
        return sorted(self._classes_of)

    def known(self, row: int, start: float, end: float) -> dict[int, bool]:
        """By class, what is known of a part of a clip, in seconds."""
        said = {c: self._said[row, c].of(start, end) for c in self._classes_of[row]}
        return {c: there for c, there in said.items() if there is not None}

    def weak(self, index: Index) -> Index:
        """``index`` with what is known of whole clips in its weak labels.

        The fingerprint changes, as what a reader gets does.
        """
        num_classes = len(index.classes)
        labels = index.table.label + num_classes * index.table.label_rows
        known: dict[bool, list[int]] = {True: [], False: []}
        for row in self.rows:
            seconds = int(index.table.count[row]) / self._rate
            for c, is_there in self.known(row, 0.0, seconds).items():
                known[is_there].append(c + num_classes * row)
        labels = np.union1d(np.setdiff1d(labels, known[False]), known[True])
        return with_labels(index, labels, f"+corrections {self._sha256}")


class _Said:
    """What is known of one class in one clip: parts in seconds."""

    def __init__(self) -> None:
        self._yes: list[tuple[float, float]] = []
        self._no: list[tuple[float, float]] = []
        """Disjoint, and further apart than the tolerance."""

    def add(self, start: float, end: float, is_there: bool) -> None:
        """The newest decision; it wins over those that it contradicts."""
        if is_there:
            self._no = list(_without(self._no, start, end))
            self._yes = [(a, b) for a, b in self._yes if (a, b) != (start, end)]
            self._yes.append((start, end))
            return
        for a, b in self._no:
            if a <= end + _TOLERANCE_SECONDS and b >= start - _TOLERANCE_SECONDS:
                start, end = min(a, start), max(b, end)
        self._no = [(a, b) for a, b in self._no if not (a >= start and b <= end)] + [
            (start, end)
        ]
        self._yes = [part for part in self._yes if not _within(part, (start, end))]

    def of(self, start: float, end: float) -> bool | None:
        """Whether a chunk has the class; None if that does not follow."""
        if any(_within(part, (start, end)) for part in self._yes):
            return True
        if any(_within((start, end), part) for part in self._no):
            return False
        return None


def _within(inner: tuple[float, float], outer: tuple[float, float]) -> bool:
    return (
        inner[0] >= outer[0] - _TOLERANCE_SECONDS
        and inner[1] <= outer[1] + _TOLERANCE_SECONDS
    )


def _without(
    parts: list[tuple[float, float]], start: float, end: float
) -> Iterator[tuple[float, float]]:
    """What is left of ``parts`` outside of one part."""
    for a, b in parts:
        for left, right in ((a, min(b, start)), (max(a, end), b)):
            if right - left > _TOLERANCE_SECONDS:
                yield left, right


def _rows(index: Index, wanted: set[str]) -> dict[str, int]:
    keys = {key.encode("ascii", "replace") for key in wanted}
    found = np.flatnonzero(np.isin(index.table.key, np.array(sorted(keys), "S")))
    return {index.key(row): row for row in found.tolist()}


def with_corrections(index: Index, path: str | Path) -> tuple[Index, CorrectedLabels]:
    """An audio dataset with corrected weak labels, and the corrections themselves."""
    corrected = CorrectedLabels(read_corrections(path), index)
    return corrected.weak(index), corrected
