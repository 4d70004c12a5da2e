"""Clips that do not make it into a dataset: the report, and how many there may be.

Owns pack_report.csv and the limits past which a loss is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.dataset.writer import DatasetBuilder, Part
from shards.errors import ShardError
from shards.packing.sources.listing import Clip, Listing
from shards.system.report import too_many, write_report

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
    """ShardError if too many clips are missing or rejected, or two have one key."""
    missing, rejected = listing.missing, listing.rejected
    total = len(listing.clips) + len(missing) + len(rejected)
    if len(missing) > limits.max_missing * total:
        write_report(out / REPORT_NAME, [*missing, *rejected])
        raise _too_many("have no audio", missing, total, out)
    if len(rejected) > limits.max_rejected * total or (rejected and not listing.clips):
        write_report(out / REPORT_NAME, [*missing, *rejected])
        raise _too_many("cannot be used", rejected, total, out)
    if not listing.clips:
        raise ShardError(f"{listing.where}: no clip in it; nothing to pack")
    clip_of: dict[str, Clip] = {}
    for clip in listing.clips:
        other = clip_of.setdefault(clip.key, clip)
        if other is not clip:
            raise ShardError(
                f"{listing.where}: {clip.key!r} is both {listing.describe(other)} and "
                f"{listing.describe(clip)}; keep one of them"
            )


def retry_rejected(
    builder: DatasetBuilder, names: Iterable[str], limits: Limits
) -> None:
    """Have the shards with rejected clips made again, if ``limits`` forbid so many.

    For the beginning of a run: the files may have been fixed since the last one.
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
    listed: Sequence[list[str]] = (),
) -> int:
    """The number of clips that could not be used; ShardError if they are too many.

    They and what is ``listed`` as missing or rejected before go to the report.
    """
    notes = [note for part in parts for note in part.notes]
    lines = [*listed, *notes]
    write_report(builder.folder / REPORT_NAME, lines)
    rejected = [line for line in lines if line[1] == "rejected"]
    num_clips = sum(part.shard.num_clips for part in parts)
    total = num_clips + len(lines)
    if num_clips == 0 or len(rejected) > limits.max_rejected * total:
        if not rejected:
            raise ShardError(f"{builder.folder}: no clip to put there")
        raise _too_many("cannot be used", rejected, total, builder.folder)
    return len(rejected)


def _too_many(what: str, lines: list[list[str]], total: int, out: Path) -> ShardError:
    """The error that sums up ``lines``, which are in the report."""
    key, status, reason = lines[0]
    return too_many(
        len(lines),
        total,
        what,
        first=f"{key}: {reason}; all in {out / REPORT_NAME}",
        allow=f"--max-{status} F",
    )
