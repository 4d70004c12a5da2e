"""Several datasets as one, and labels with their audio.

Owns what must agree between datasets: keys, order, classes, content. Reads nothing
but indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.format.classes import class_difference
from shards.format.index import Index, open_index
from shards.format.table import Table, first_repeat

_MAX_NAMED_SHARDS = 5


def open_indexes(folders: Sequence[str | Path], *, kind: str) -> Index:
    """Several dataset folders as one, in the order given.

    Raises ShardError as ``concatenate`` does.
    """
    return concatenate(open_each(folders, kind=kind))


def open_each(folders: Sequence[str | Path], *, kind: str) -> list[Index]:
    """The index of each folder; ShardError if there is none."""
    if not folders:
        raise ShardError(f"no {kind} folder given; name at least one")
    return [open_index(folder, kind=kind) for folder in folders]


def concatenate(indexes: list[Index]) -> Index:
    """Several indexes as one, in the order given.

    Raises ShardError if they differ in class list, codec, rate or chunking, or if a
    key is in two of them.
    """
    first = indexes[0]
    if len(indexes) == 1:
        return first
    for other in indexes[1:]:
        if other.classes.mids != first.classes.mids:
            raise ShardError(
                f"{other.where}: not the classes of {first.where}: "
                f"{class_difference(other.classes.mids, first.classes.mids)}; "
                "pack them with one class list"
            )
        if other.properties != first.properties:
            raise ShardError(
                f"{other.where}: {other.properties} differ from {first.where} "
                f"({first.properties}); pack them alike"
            )
    table = concatenate_tables(
        [index.table for index in indexes], [len(index.shards) for index in indexes]
    )
    index = Index(
        kind=first.kind,
        classes=first.classes,
        shards=sum((index.shards for index in indexes), ()),
        places=sum((index.places for index in indexes), ()),
        table=table,
        properties=first.properties,
        provenances=sum((index.provenances for index in indexes), ()),
        fingerprints=sum((index.fingerprints for index in indexes), ()),
    )
    check_unique_keys(index)
    return index


def concatenate_tables(tables: list[Table], num_shards: list[int]) -> Table:
    """Tables one after another; shard numbers move up by the shards before."""
    shard_base = np.cumsum([0, *num_shards[:-1]])
    label_base = np.cumsum([0, *[len(table.label) for table in tables[:-1]]])
    starts = [t.label_start[:-1] + b for t, b in zip(tables, label_base, strict=True)]
    total = sum(len(table.label) for table in tables)
    return Table(
        key=np.concatenate([table.key for table in tables]),
        shard=np.concatenate(
            [t.shard + base for t, base in zip(tables, shard_base, strict=True)]
        ).astype(np.int32),
        offset=np.concatenate([table.offset for table in tables]),
        size=np.concatenate([table.size for table in tables]),
        count=np.concatenate([table.count for table in tables]),
        crc32=np.concatenate([table.crc32 for table in tables]),
        label_start=np.concatenate([*starts, [total]]).astype(np.int64),
        label=np.concatenate([table.label for table in tables]),
    )


def check_unique_keys(index: Index) -> None:
    """ShardError naming both places of a duplicate key."""
    if same := first_repeat(index.table.key):
        one, two = same
        raise ShardError(
            f"{index.place(two)} is a duplicate of {index.place(one)}; keep one of them"
        )


def check_join(audio: Index, labels: Index) -> None:
    """ShardError unless ``labels`` has exactly the rows of ``audio``, in its order.

    Says how many keys are missing, extra or misplaced, and where the first are.
    """
    if not np.array_equal(audio.table.key, labels.table.key):
        raise ShardError(_describe_mismatch(audio, labels))
    if labels.classes.mids != audio.classes.mids:
        raise ShardError(_describe_classes(audio, labels))
    made_for = tuple(str(p.get("audio_fingerprint")) for p in labels.provenances)
    if made_for != audio.fingerprints:
        raise ShardError(
            f"{labels.where}: made for audio {made_for}, but {audio.where} is "
            f"{audio.fingerprints} (same keys, other content); relabel it"
        )


def _describe_mismatch(audio: Index, labels: Index) -> str:
    """In which rows two indexes differ, of which at least one does."""
    missing = np.flatnonzero(~np.isin(audio.table.key, labels.table.key))
    extra = np.flatnonzero(~np.isin(labels.table.key, audio.table.key))
    if len(missing):
        return (
            f"{labels.where}: no labels for {len(missing)} of {len(audio)} clips of "
            f"{audio.where}: {_describe_rows(audio, missing)}"
            + (
                f"; {len(extra)} of its labels are for other clips"
                if len(extra)
                else ""
            )
            + "; relabel it"
        )
    if len(extra):
        return (
            f"{labels.where}: labels for {len(extra)} clips that are not in "
            f"{audio.where}: {_describe_rows(labels, extra)}; relabel it"
        )
    differ = np.flatnonzero(audio.table.key != labels.table.key)
    row = int(differ[0])
    return (
        f"{labels.place(row)}, expected {audio.key(row)!r} from {audio.where}; so with "
        f"{len(differ)} of {len(audio)} clips: the same clips in another order. Name "
        "label folders in the order of their audio, or relabel"
    )


def _describe_rows(index: Index, rows: np.ndarray) -> str:
    """How many of ``rows`` [n >= 1] are in which shards, and the first key in each."""
    shards, first, counts = np.unique(
        index.table.shard[rows], return_index=True, return_counts=True
    )
    named = [
        f"{count} in {index.places[shard]} (first: {index.key(int(rows[at]))!r})"
        for shard, at, count in zip(shards, first, counts, strict=True)
    ]
    more = len(named) - _MAX_NAMED_SHARDS
    rest = [f"and more in {more} other shards"] if more > 0 else []
    return ", ".join(named[:_MAX_NAMED_SHARDS] + rest)


def _describe_classes(audio: Index, labels: Index) -> str:
    """In what two class lists differ."""
    return (
        f"{labels.where}: not the classes of {audio.where}: "
        f"{class_difference(labels.classes.mids, audio.classes.mids)}; "
        "relabel it with a teacher of these classes, in this order"
    )
