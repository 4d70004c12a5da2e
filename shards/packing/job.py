"""Clips of any source -> audio shards.

Owns the (seeded) order of clips and how the work is split among processes and machines;
rejects.py reports what is missing and rejected. Which clip goes to which shard depends
on the listing and the seed alone, so any number of workers and parts writes the same
bytes.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeGuard

import numpy as np

from shards import __version__
from shards.audio.members import check_codec, encode
from shards.dataset.writer import DatasetBuilder, Part, Row
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.schema import ClipInfo
from shards.packing.rejects import (
    REPORT_NAME,
    Limits,
    check_listing,
    check_rejected,
    retry_rejected,
)
from shards.packing.sources.listing import Clip, Listing, Load
from shards.system.files import file_sha256
from shards.system.workers import Task, check_workers, run_tasks

GROUPS_SHUFFLED = 8
"""Of a source that is read in groups, clips are shuffled within this many of them."""


@dataclass(frozen=True)
class PackSettings:
    """How clips become shards."""

    codec: str = "wav"
    sample_rate: int = 16000
    clips_per_shard: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("sample_rate", 1), ("clips_per_shard", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} = {value}; expected {least} or more")
        check_codec(self.codec, self.sample_rate)


@dataclass(frozen=True)
class Share:
    """The shards that one of several machines packs."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``i/n``, i counted from 0 as SLURM counts array tasks."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ValueError(f"--part {text}; expected i/n, such as 0/8")
        if not int(number) < int(count):
            raise ValueError(f"--part {text}; expected i from 0 to n - 1")
        return cls(int(number), int(count))


def pack(
    listing: Listing,
    *,
    classes: Classes,
    out: str | Path,
    settings: PackSettings | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    part: Share | None = None,
) -> str:
    """Pack a dataset into the folder ``out`` and return a one-line summary.

    With ``part`` only that share of the shards is made, and no index: merge() does
    that when all parts are there. Past ``limits`` ShardError is raised and no index
    appears (whole shards stay for the next run). ``pack_report.csv`` in ``out`` lists
    every clip that is not in the dataset with its reason.
    """
    check_workers(workers)
    settings, limits = settings or PackSettings(), limits or Limits()
    builder = _builder(listing, classes, Path(out), settings)
    hands = _begin(builder, listing, settings, limits)
    if hands is None:
        return _already_packed(builder.folder, listing)
    mine = hands
    if part is not None:
        mine = {name: hands[name] for name in list(hands)[part.number :: part.count]}
    retry_rejected(builder, mine, limits)
    tasks = [
        Task(len(clips), _pack_shard, (builder, listing.load, settings, name, clips))
        for name, clips in mine.items()
    ]
    run_tasks(tasks, workers, unit="clip", title=f"pack {builder.folder.name}")
    if part is not None:
        return (
            f"{out}: part {part.number}/{part.count} is packed, {len(mine)} of "
            f"{len(hands)} shards; when all parts are, run again with --merge"
        )
    return _publish(builder, listing, hands, limits)


def merge(
    listing: Listing,
    *,
    classes: Classes,
    out: str | Path,
    settings: PackSettings | None = None,
    limits: Limits | None = None,
) -> str:
    """Check the shards that all parts have packed, and publish the dataset.

    Every shard is read once and compared with its record. Raises ShardError naming a
    shard that is not there, or is not what its part has written.
    """
    settings, limits = settings or PackSettings(), limits or Limits()
    builder = _builder(listing, classes, Path(out), settings)
    hands = _begin(builder, listing, settings, limits)
    if hands is None:
        return _already_packed(builder.folder, listing)
    parts = {name: builder.part(name) for name in hands}
    absent = [name for name, clips in hands.items() if not _is_done(parts[name], clips)]
    if absent:
        named = ", ".join(absent[:10]) + ", ..." * (len(absent) > 10)
        raise ShardError(
            f"{builder.folder}: {len(absent)} of {len(hands)} shards are not packed "
            f"yet, or from other files: {named}; run the parts that are to make them"
        )
    for name, part in parts.items():
        if part and file_sha256(builder.folder / name) != part.shard.sha256:
            builder.forget(name)
            raise ShardError(
                f"{builder.folder / name}: bytes differ from what its part wrote; "
                "run that part again"
            )
    return _publish(builder, listing, hands, limits)


def _builder(
    listing: Listing, classes: Classes, out: Path, settings: PackSettings
) -> DatasetBuilder:
    return DatasetBuilder(
        folder=out,
        kind="audio",
        classes=classes,
        properties={"codec": settings.codec, "sample_rate": settings.sample_rate},
        provenance={
            "packed_by": f"shards {__version__}",
            **listing.provenance,
            "clips_per_shard": settings.clips_per_shard,
            "seed": settings.seed,
        },
    )


def _begin(
    builder: DatasetBuilder, listing: Listing, settings: PackSettings, limits: Limits
) -> dict[str, list[Clip]] | None:
    """Take the folder; the clips of each shard, or None if all is packed already."""
    if builder.finished():
        return None
    check_listing(listing, limits, builder.folder)
    builder.begin()
    return _deal(listing, settings)


def _deal(listing: Listing, settings: PackSettings) -> dict[str, list[Clip]]:
    """The shuffled clips of each shard, by shard name, in nearly equal numbers."""
    clips, rng = listing.clips, np.random.default_rng(settings.seed)
    if listing.groups is None:
        order = rng.permutation(len(clips))
    else:
        order = _shuffle_groups(listing.groups, rng)
    hands = np.array_split(order, max(1, -(-len(clips) // settings.clips_per_shard)))
    return {f"{n:06d}.tar": [clips[i] for i in hand] for n, hand in enumerate(hands)}


def _shuffle_groups(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows [R] such that neighbours come from few groups, in random order."""
    runs = np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1)
    runs = [runs[i] for i in rng.permutation(len(runs))]
    windows = [
        np.concatenate(runs[start : start + GROUPS_SHUFFLED])
        for start in range(0, len(runs), GROUPS_SHUFFLED)
    ]
    return np.concatenate([rng.permutation(window) for window in windows])


def _pack_shard(
    builder: DatasetBuilder,
    load: Load,
    settings: PackSettings,
    name: str,
    clips: Sequence[Clip],
) -> None:
    """Write one shard unless it is done."""
    builder.begin()  # refuses again, as two parts may have begun at one moment
    if not _is_done(builder.part(name), clips):
        rejected: list[list[str]] = []
        rows = _rows(clips, load, settings, builder.classes, rejected)
        builder.add(name, rows, rejected)


def _is_done(part: Part | None, clips: Sequence[Clip]) -> TypeGuard[Part]:
    """A shard made when other files were there holds other clips, and is not done."""
    keys = {row[0] for row in part.rows + part.notes} if part else None
    return keys == {clip.key for clip in clips}


def _rows(
    clips: Sequence[Clip],
    load: Load,
    settings: PackSettings,
    classes: Classes,
    rejected: list[list[str]],
) -> Iterator[Row]:
    """Rows of one shard; what cannot be used goes to ``rejected`` with its reason."""
    codec, rate = settings.codec, settings.sample_rate
    for clip in clips:
        try:
            samples = load(clip, rate)
        except ShardError as error:
            rejected.append([clip.key, "rejected", str(error)])
            continue
        info = ClipInfo(
            clip_id=clip.clip_id,
            start_seconds=clip.start_seconds,
            num_samples=len(samples),
            sample_rate=rate,
            labels=tuple(classes.mids[i] for i in clip.labels),
        )
        yield Row(
            key=clip.key,
            suffix=codec,
            data=encode(samples, codec=codec, sample_rate=rate),
            count=len(samples),
            labels=clip.labels,
            extra={"json": info.to_bytes()},
        )


def _publish(
    builder: DatasetBuilder,
    listing: Listing,
    hands: dict[str, list[Clip]],
    limits: Limits,
) -> str:
    """Write the report and, within ``limits``, the index over finished shards."""
    parts = [part for name in hands if (part := builder.part(name))]
    if builder.finished():  # by a rival, who has cleared the records away
        builder.publish(list(hands))
        return f"{builder.folder}: already packed from these clips with these settings"
    lines = [*listing.missing, *listing.rejected]
    rejected = check_rejected(builder, parts, limits, lines)
    if not builder.publish(list(hands)):
        raise ShardError(f"{builder.folder}: a shard has gone missing; run again")
    return (
        f"{builder.folder}: packed {sum(p.shard.num_clips for p in parts)} clips in "
        f"{len(parts)} shards, {len(listing.missing)} missing, {rejected} rejected "
        f"(listed in {builder.folder / REPORT_NAME})"
    )


def _already_packed(out: Path, listing: Listing) -> str:
    """What to say of a finished dataset; ShardError if clips have come since."""
    packed = {bytes(key).decode() for key in open_index(out, kind="audio").table.key}
    with contextlib.suppress(FileNotFoundError), open(out / REPORT_NAME) as stream:
        packed |= {
            r["key"] for r in csv.DictReader(stream) if r["status"] == "rejected"
        }
    new = [clip.key for clip in listing.clips if clip.key not in packed]
    if new:
        raise ShardError(
            f"{out}: packed before {len(new)} of these clips had audio (first: "
            f"{new[0]}); pack into another folder, or remove this one"
        )
    return f"{out}: already packed from these clips with these settings"
