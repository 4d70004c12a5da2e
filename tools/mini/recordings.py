"""Folders of single-source recordings, as others publish them: what is in which file.

Owns the layouts (AudioSet's CSVs, ESC-50, FSD50K dev) and the split of recordings into
train, dev and eval. Decodes nothing; real.py makes scenes of them.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.format.weak_labels import LabelReader
from shards.packing.audio_files import find_audio
from shards.packing.segments import read_segments
from shards.system.files import sha256_of
from tools.mini.esc50_classes import ESC50_CLASSES

SPLITS = ("train", "dev", "eval")
SHARE = 0.25
"""Of the sources of each class that go to a split that the folder does not have."""
LAYOUTS = (
    "class_labels_indices.csv and *_segments.csv (AudioSet's form), meta/esc50.csv "
    "(ESC-50) or FSD50K.ground_truth/dev.csv (FSD50K)"
)


@dataclass(frozen=True)
class Recording:
    """One recording of one sound."""

    name: str
    """Unique in its folder."""
    path: Path
    mids: tuple[str, ...]
    """Its classes: one, or a class and its parents."""
    source: str
    """What it was cut from; recordings of one source never part."""
    split: str | None = None
    """The split its folder puts it in, if it says so."""
    span: tuple[float, float] | None = None
    """The part of the file that it is, s; None for all."""


@dataclass(frozen=True)
class Collection:
    """The recordings of a folder and their classes."""

    recordings: tuple[Recording, ...]
    names: dict[str, str]
    """Display name by mid, in the order of the class list."""
    num_other: int = 0
    """Recordings of other classes, left out."""


def read_collection(folder: Path, wanted: Path | None = None) -> Collection:
    """The recordings of ``folder``, those of the classes in the CSV ``wanted``.

    Raises ShardError if no layout fits, a CSV is wrong, or a file is not there.
    """
    if (folder / "meta" / "esc50.csv").exists():
        found = _read_esc50(folder)
    elif (folder / "FSD50K.ground_truth" / "dev.csv").exists():
        found = _read_fsd50k(folder)
    elif (folder / "class_labels_indices.csv").exists():
        found = _read_audioset(folder)
    else:
        what = "no such folder" if not folder.is_dir() else "no class CSV in it"
        raise ShardError(f"{folder}: {what}; expected {LAYOUTS}")
    if wanted is not None:
        found = _only(found, read_classes(wanted))
    _check_unique(folder, found.recordings)
    used = {mid for recording in found.recordings for mid in recording.mids}
    names = {mid: name for mid, name in found.names.items() if mid in used}
    return replace(found, names=names)


def _read_audioset(folder: Path) -> Collection:
    """``*_segments.csv`` with train, dev or eval in their names; audio anywhere below.

    Ids that differ only in a last -A, -B, ... are takes of one source (Freesound's, in
    ESC).
    """
    classes = read_classes(folder / "class_labels_indices.csv")
    tables = sorted(folder.glob("*segments*.csv"))
    if not tables:
        raise ShardError(f"{folder}: no *_segments.csv in it; expected {LAYOUTS}")
    recordings = []
    for table in tables:
        segments = read_segments(table, LabelReader(classes))
        named = [s for s in SPLITS if s in table.stem.lower()]
        for found in find_audio(folder, segments, classes, where=str(table)):
            segment = found.segment
            if found.path is None:
                raise _no_file(table, segment.line, segment.clip_id, folder)
            span = None
            if not found.is_cut:
                span = (segment.start_seconds, segment.end_seconds)
            recordings.append(
                Recording(
                    name=segment.key,
                    path=found.path,
                    mids=tuple(classes.mids[label] for label in segment.labels),
                    source=re.sub("-[A-Z]$", "", segment.clip_id),
                    split=named[0] if len(named) == 1 else None,
                    span=span,
                )
            )
    return Collection(
        tuple(recordings), dict(zip(classes.mids, classes.names, strict=True))
    )


def _read_esc50(folder: Path) -> Collection:
    """Its last fold is eval; the source is the Freesound id."""
    table = folder / "meta" / "esc50.csv"
    rows = list(_rows(table, ("filename", "fold", "category", "src_file")))
    last = max(row["fold"] for _, row in rows)
    recordings, num_other = [], 0
    for line, row in rows:
        path = folder / "audio" / row["filename"]
        if row["category"] not in ESC50_CLASSES:
            num_other += 1
        elif not path.is_file():
            raise _no_file(table, line, row["filename"], folder / "audio")
        else:
            mid, _ = ESC50_CLASSES[row["category"]]
            split = "eval" if row["fold"] == last else None
            source = row["src_file"]
            recordings.append(Recording(path.stem, path, (mid,), source, split))
    return Collection(tuple(recordings), dict(ESC50_CLASSES.values()), num_other)


def _read_fsd50k(folder: Path) -> Collection:
    """Its own split: train and val of dev.csv, and eval.csv if it is there."""
    recordings: list[Recording] = []
    names: dict[str, str] = {}
    for part in ("dev", "eval"):
        table = folder / "FSD50K.ground_truth" / f"{part}.csv"
        if part == "eval" and not table.exists():
            continue
        columns = ("fname", "labels", "mids") + (("split",) * (part == "dev"))
        audio = folder / f"FSD50K.{part}_audio"
        for line, row in _rows(table, columns):
            mids, labels = row["mids"].split(","), row["labels"].split(",")
            if len(mids) != len(labels):
                raise ShardError(
                    f"{table}: line {line}: {len(labels)} labels and {len(mids)} mids; "
                    "expected as many"
                )
            titles = [label.replace("_", " ") for label in labels]
            names |= dict(zip(mids, titles, strict=True))
            path = audio / f"{row['fname']}.wav"
            if not path.is_file():
                raise _no_file(table, line, path.name, audio)
            split = {"train": "train", "val": "dev"}.get(row.get("split", ""), "eval")
            name = row["fname"]
            recordings.append(Recording(name, path, tuple(mids), name, split))
    return Collection(tuple(recordings), names)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV; ShardError unless each row has ``columns``."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                missing = [name for name in columns if not row.get(name)]
                if missing:
                    raise ShardError(
                        f"{path}: line {reader.line_num}: no {missing[0]}; expected "
                        f"the columns {', '.join(columns)}"
                    )
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: cannot read it: {error}") from None


def _no_file(table: Path, line: int, name: str, folder: Path) -> ShardError:
    return ShardError(
        f"{table}: line {line}: no audio file of {name!r} in {folder}; put it there, "
        "or remove the line"
    )


def _only(found: Collection, wanted: Classes) -> Collection:
    """The recordings that have a class of ``wanted``, and of their classes only these.

    The names are those of ``wanted``.
    """
    kept = []
    for recording in found.recordings:
        mids = tuple(mid for mid in recording.mids if mid in wanted.index_of)
        if mids:
            kept.append(replace(recording, mids=mids))
    num_other = found.num_other + len(found.recordings) - len(kept)
    return Collection(
        tuple(kept), dict(zip(wanted.mids, wanted.names, strict=True)), num_other
    )


def _check_unique(folder: Path, recordings: Iterable[Recording]) -> None:
    """ShardError for a recording listed twice, or without a class, or none at all."""
    seen: set[tuple[Path, object]] = set()
    for recording in recordings:
        if not recording.mids:
            raise ShardError(
                f"{folder}: {recording.name}: no class; expected one of its sound"
            )
        place = (recording.path, recording.span)
        if place in seen:
            raise ShardError(
                f"{folder}: {recording.path.name} is listed twice; splits might share "
                "it; keep one"
            )
        seen.add(place)
    if not seen:
        raise ShardError(f"{folder}: no recording of the wanted classes in it")


def split_recordings(
    recordings: Sequence[Recording], names: dict[str, str], seed: int
) -> dict[str, list[Recording]]:
    """Recordings by split; a split that the folder does not have gets SHARE of each.

    First eval, then dev is taken from what is left, class by class (by the first mid),
    source by source in an order that depends on ``seed``.

    Raises ShardError naming the class that has too few sources.
    """
    parts = {split: [r for r in recordings if r.split == split] for split in SPLITS}
    parts["train"] += [r for r in recordings if r.split is None]
    for split in ("eval", "dev"):
        if not parts[split]:
            pool = parts["train"]
            chosen = _draw_sources(pool, seed, split)
            parts[split] = [r for r in pool if r.source in chosen]
            parts["train"] = [r for r in pool if r.source not in chosen]
    _check_every_class(parts, names)
    return parts


def _draw_sources(recordings: Sequence[Recording], seed: int, split: str) -> set[str]:
    """SHARE of the sources of each class, at least one, never all."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for recording in recordings:
        if recording.source not in by_class[recording.mids[0]]:
            by_class[recording.mids[0]].append(recording.source)
    chosen: set[str] = set()
    for sources in by_class.values():
        order = sorted(sources, key=lambda s: sha256_of(f"{seed} {split} {s}".encode()))
        chosen.update(order[: min(max(round(SHARE * len(order)), 1), len(order) - 1)])
    return chosen


def _check_every_class(
    parts: dict[str, list[Recording]], names: dict[str, str]
) -> None:
    """ShardError if a class has no recording in some split."""
    for mid, name in names.items():
        have = {s: {r.source for r in parts[s] if mid in r.mids} for s in SPLITS}
        lacking = [split for split in SPLITS if not have[split]]
        if lacking:
            total = len(set().union(*have.values()))
            raise ShardError(
                f"class {name!r} ({mid}): {total} sources of it, none left for "
                f"{' and '.join(lacking)}; expected one or more in each of train, dev "
                "and eval; add recordings, or leave the class out with --class-labels"
            )
