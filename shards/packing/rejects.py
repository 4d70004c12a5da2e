"""Clips that do not make it into a dataset: the report, and how many there may be.

Owns pack_report.csv and the limits past which a loss is an error.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.dataset.writer import DatasetBuilder, Part
from shards.errors import ShardError
from shards.packing.sources.listing import Listing
from shards.system.files import write_atomic

REPORT_NAME = "pack_report.csv"


@dataclass(frozen=True)
class Limits:
    """Fractions of the listed clips that may be lost before it is an error."""

    max_missing: float = 0.0
    max_rejected: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_missing", "max_rejected"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)}; expected a fraction, 0 to 1"
                )


def check_listing(listing: Listing, limits: Limits, out: Path) -> None:
    """ShardError if too many clips are missing, or none is left, or a key is twice."""
    missing, total = listing.missing, len(listing.clips) + len(listing.missing)
    if len(missing) > limits.max_missing * total:
        _write_report(out, missing)
        raise _too_many("have no audio", missing, total, out)
    if not listing.clips:
        raise ShardError(f"{listing.where}: has not one clip; nothing to pack")
    place_of: dict[str, tuple[Any, ...]] = {}
    for clip in listing.clips:
        if clip.key in place_of:
            raise ShardError(
                f"{listing.where}: {clip.key!r} is both {place_of[clip.key]} and "
                f"{clip.place}; keep one of them"
            )
        place_of[clip.key] = clip.place


def retry_rejected(
    builder: DatasetBuilder, names: Iterable[str], limits: Limits
) -> None:
    """Have the shards with rejected clips made anew, if ``limits`` forbid so many.

    For the beginning of a run: the files may have been mended since the last one.
    """
    parts = [part for name in names if (part := builder.part(name))]
    num_rejected = sum(len(part.notes) for part in parts)
    total = num_rejected + sum(part.shard.num_clips for part in parts)
    if num_rejected > limits.max_rejected * total:
        for part in parts:
            if part.notes:
                builder.forget(part.shard.name)


def check_rejected(
    builder: DatasetBuilder,
    parts: Sequence[Part],
    limits: Limits,
    missing: Sequence[list[str]] = (),
) -> int:
    """The number of clips that could not be used; ShardError if they are too many.

    They and the ``missing`` are written to the report.
    """
    rejected = [note for part in parts for note in part.notes]
    _write_report(builder.folder, [*missing, *rejected])
    num_clips = sum(part.shard.num_clips for part in parts)
    total = num_clips + len(rejected) + len(missing)
    if num_clips == 0 or len(rejected) > limits.max_rejected * total:
        if not rejected:
            raise ShardError(f"{builder.folder}: not one clip to put there")
        raise _too_many("cannot be used", rejected, total, builder.folder)
    return len(rejected)


def _write_report(out: Path, lines: list[list[str]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "status", "reason"])
    writer.writerows(lines)
    write_atomic(out / REPORT_NAME, buffer.getvalue())


def _too_many(what: str, lines: list[list[str]], total: int, out: Path) -> ShardError:
    """The error that sums up ``lines``, which are in the report."""
    key, status, reason = lines[0]
    return ShardError(
        f"{len(lines)} of {total} clips {what} (first: {key}: {reason}; all in "
        f"{out / REPORT_NAME}); mend them, or accept up to a fraction F of them "
        f"with --max-{status} F"
    )
