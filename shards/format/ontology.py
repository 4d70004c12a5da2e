"""An ontology of classes, and weak labels to which ancestors are added.

Owns what ``ontology`` means to every command: ``audioset`` for the table that is
shipped, or a file in the form of AudioSet's ontology.json. A Bark is also a Dog,
but annotators often label only the first (hierarchical label propagation, arXiv
2503.21826).
"""

from __future__ import annotations

import csv
import functools
import graphlib
import io
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import Index, with_labels
from shards.system.files import read_bounded, sha256_of

AUDIOSET = "audioset"
"""Stands for the shipped table of AudioSet's ontology."""
MAX_ONTOLOGY_BYTES = 64 << 20
"""A longer ontology is refused; AudioSet's has 0.3 MB."""

_TABLE = "audioset_ontology.csv"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ontology:
    """Which class is a kind of which."""

    where: str
    """The file, for messages."""
    parents: Mapping[str, tuple[str, ...]]
    """The parents of each class, by mid; a class at the top has none."""

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of all edges."""
        edges = sorted((mid, sorted(above)) for mid, above in self.parents.items())
        return sha256_of(json.dumps(edges).encode())

    def implied(self, classes: Classes) -> np.ndarray:
        """[C, C] bool: whether class c of row r is r itself or one of its ancestors.

        Ancestors that are not among ``classes`` count for what is above them. Raises
        ShardError if the ontology has none of the classes; those that it lacks alone
        are named in a message, and imply nothing.
        """
        unknown = [mid for mid in classes.mids if mid not in self.parents]
        if len(unknown) == len(classes):
            raise ShardError(
                f"{self.where}: has none of the {len(classes)} classes, such as mid "
                f"{unknown[0]!r}; name the ontology that they are from"
            )
        if unknown:
            _log.warning(
                "%s: lacks %d of the %d classes, which get no ancestors: %s",
                self.where,
                len(unknown),
                len(classes),
                ", ".join(map(repr, unknown[:5])) + (", ..." if unknown[5:] else ""),
            )
        matrix = np.eye(len(classes), dtype=np.bool_)
        for row, mid in enumerate(classes.mids):
            above = self._ancestors(mid) & classes.index_of.keys()
            matrix[row, [classes.index_of[other] for other in above]] = True
        return matrix

    def _ancestors(self, mid: str) -> set[str]:
        found: set[str] = set()
        left = list(self.parents.get(mid, ()))
        while left:
            parent = left.pop()
            if parent not in found:
                found.add(parent)
                left.extend(self.parents[parent])
        return found


def read_ontology(name: str | Path) -> Ontology:
    """``audioset``, or the ontology of a file in the form of AudioSet's ontology.json.

    That is a list of objects with ``id`` and ``child_ids``. Raises ShardError naming
    the file if it cannot be read, repeats a class, names a child that it does not
    define, or has a loop.
    """
    if str(name) == AUDIOSET:
        return _audioset()
    where = str(name)
    try:
        data = read_bounded(name, MAX_ONTOLOGY_BYTES)
    except ShardError as error:
        raise ShardError(
            f"cannot read ontology: {error}; name AudioSet's ontology.json or one in "
            f"its form, or {AUDIOSET} for the one that is shipped"
        ) from None
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: not JSON: {error}") from None
    children = dict(_entries(entries, where))
    parents: dict[str, list[str]] = {mid: [] for mid in children}
    for mid, below in children.items():
        for child in below:
            if child not in parents:
                raise ShardError(
                    f"{where}: {mid!r} has the child {child!r}, which the file does "
                    "not define"
                )
            parents[child].append(mid)
    _check_no_loop(parents, where)
    return Ontology(where, {mid: tuple(above) for mid, above in parents.items()})


@functools.cache
def _audioset() -> Ontology:
    text = (resources.files(__package__) / _TABLE).read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    parents: dict[str, tuple[str, ...]] = {}
    for edge in csv.DictReader(io.StringIO("\n".join(lines))):
        parents.setdefault(edge["parent"], ())
        parents[edge["child"]] = (*parents.get(edge["child"], ()), edge["parent"])
    return Ontology(AUDIOSET, parents)


def _entries(entries: Any, where: str) -> Iterable[tuple[str, list[str]]]:
    """Id and children of each class."""
    if not isinstance(entries, list) or not entries:
        raise ShardError(f"{where}: expected a list of classes with id and child_ids")
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        found = entry if isinstance(entry, dict) else {}
        mid, below = found.get("id"), found.get("child_ids")
        if (
            not isinstance(mid, str)
            or not isinstance(below, list)
            or not all(isinstance(child, str) for child in below)
        ):
            raise ShardError(
                f"{where}: entry {number + 1} needs id, a text, and child_ids, a list "
                "of ids"
            )
        if mid in seen:
            raise ShardError(f"{where}: {mid!r} is defined more than once")
        seen.add(mid)
        yield mid, below


def _check_no_loop(parents: Mapping[str, Iterable[str]], where: str) -> None:
    """ShardError if a class is above itself."""
    try:
        graphlib.TopologicalSorter(parents).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1]
        names = " > ".join(map(repr, cycle[:6])) + (" > ..." if cycle[6:] else "")
        raise ShardError(f"{where}: a loop: {names}; remove a child_id") from None


def add_ancestors(labels: Iterable[int], implied: np.ndarray) -> tuple[int, ...]:
    """Class indices with those that ``implied`` [C, C] adds, ascending."""
    rows = implied[list(labels)]
    return tuple(int(index) for index in np.flatnonzero(rows.any(axis=0)))


def with_ancestors(index: Index, name: str | Path | None) -> Index:
    """An audio dataset whose weak labels have the ancestors of ontology ``name``.

    ``name`` is as for ``read_ontology``; None changes nothing. The fingerprint changes,
    as what a reader gets does.
    """
    if name is None:
        return index
    ontology = read_ontology(name)
    return add_to_labels(index, ontology, ontology.implied(index.classes))


def add_to_labels(index: Index, ontology: Ontology, implied: np.ndarray) -> Index:
    """``with_ancestors`` for an ontology that was read, and what it ``implied``."""
    label, row_of = index.table.label, index.table.label_rows
    added = [label + len(implied) * row_of]
    for low, high in np.argwhere(implied & ~np.eye(len(implied), dtype=np.bool_)):
        added.append(high + len(implied) * row_of[label == low])
    labels = np.unique(np.concatenate(added))
    return with_labels(index, labels, f"+ontology {ontology.sha256}")
