"""Clips that a teacher could not label: how many there may be, and which they are.

Owns unlabelled.csv next to the labels, and the limits on both sides: when a set is
made, and when a student trains on it. Such a clip has a row of no chunks.
"""

from __future__ import annotations

from collections.abc import Iterable

from shards.dataset.writer import DatasetBuilder, Part
from shards.errors import ShardError
from shards.system import report

REPORT_NAME = "unlabelled.csv"


def check_report(
    builder: DatasetBuilder, parts: Iterable[Part], limit: float, num_clips: int
) -> None:
    """Write the report of a set that is about to be published, if there is any to.

    Raises ShardError if more than ``limit`` of all clips could not be labelled; their
    shards are then tried again by the next run.
    """
    found = {part.shard.name: part.notes for part in parts if part.notes}
    notes = [note for shard_notes in found.values() for note in shard_notes]
    if not notes:
        (builder.folder / REPORT_NAME).unlink(missing_ok=True)  # of an earlier try
        return
    report.write_report(builder.folder / REPORT_NAME, notes)
    if len(notes) > limit * num_clips:
        for name in found:
            builder.forget(name)
        raise too_many(len(notes), num_clips, str(builder.folder), notes[0][2])


def forget_noted(builder: DatasetBuilder, names: Iterable[str]) -> None:
    """Have all finished shards with such clips made anew by the next run."""
    for name in builder.recorded() & set(names):
        part = builder.part(name)
        if part and part.notes:
            builder.forget(name)


def too_many(number: int, num_clips: int, where: str, first: str) -> ShardError:
    """The error of a set with more unlabelled clips than are allowed."""
    error = report.too_many(
        number, num_clips, "cannot be labelled", first=first, allow="max_unlabelled=F"
    )
    return ShardError(f"{where}: {error}")
