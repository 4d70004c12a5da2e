"""Own sounds -> examples: class folders, a background folder, a table of windows.

Owns what an example is and which recording it is from. Knows no model.
"""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.audio.decode import load_clip, load_segment
from shards.errors import ShardError
from shards.packing.audio_files import walk_audio
from shards.packing.names import parse_stem
from shards.packing.sources.class_folders import read_class_folders
from shards.system.files import read_bounded

_log = logging.getLogger(__name__)

BACKGROUND = "-"
"""In a table of labelled windows: none of the classes."""
_MAX_TABLE_BYTES = 1 << 28
_COLUMNS = ("file", "start", "end", "label")


@dataclass(frozen=True)
class Example:
    """A sound of one class, or of none."""

    path: str
    label: int | None
    """Class; None for background."""
    group: str
    """The recording that it is from: cross validation keeps these together."""
    start: float | None = None
    """Seconds; None where the whole file is the example."""
    end: float | None = None

    @property
    def where(self) -> str:
        """Its place, for messages."""
        part = "" if self.start is None else f" from {self.start:g} to {self.end:g} s"
        return f"{self.path}{part}"

    def load(self, sample_rate: int) -> np.ndarray:
        """Samples [N] int16; ShardError naming the file if it cannot be used."""
        try:
            if self.start is None or self.end is None:
                return load_clip(self.path, sample_rate=sample_rate)
            return load_segment(
                self.path,
                start_seconds=self.start,
                end_seconds=self.end,
                sample_rate=sample_rate,
                is_recording=True,
            )
        except OSError as error:
            raise ShardError(f"{self.path}: {error.strerror}") from None


@dataclass(frozen=True)
class Sounds:
    """All examples, and their classes."""

    names: tuple[str, ...]
    examples: tuple[Example, ...]

    def count(self, label: int | None) -> int:
        """How many examples a class has, or the background."""
        return sum(example.label == label for example in self.examples)


def collect(
    *,
    folders: str | Path | None = None,
    background: str | Path | None = None,
    table: str | Path | None = None,
) -> Sounds:
    """The examples of class folders and a table, with those of a background folder.

    Raises ShardError if one of them cannot be read, ValueError if there is no class.
    """
    found: list[tuple[str | None, Example]] = []
    for one in read_class_folders(folders) if folders is not None else ():
        found += [(one.name, _whole(path, one.name)) for path in one.files]
    if table is not None:
        found += read_table(table)
    if background is not None:
        paths = sorted(walk_audio(background))
        if not paths:
            raise ShardError(f"{background}: no audio in it; expected background")
        found += [(None, _whole(path, None)) for path in paths]
    names = tuple(sorted({name for name, _ in found if name is not None}))
    if not names:
        raise ValueError("no class: give folders of sounds, or a table with labels")
    _check_alike(names)
    index = {name: number for number, name in enumerate(names)}
    examples = tuple(
        Example(e.path, None if n is None else index[n], e.group, e.start, e.end)
        for n, e in found
    )
    sounds = Sounds(names, examples)
    _say_counts(sounds)
    return sounds


def _whole(path: Path, name: str | None) -> Example:
    """A file as an example; one cut from a recording (its name tells) is of that."""
    clip_id, _ = parse_stem(path.stem)
    is_cut = clip_id != path.stem
    group = clip_id if is_cut else f"{name or BACKGROUND}/{path.stem}"
    return Example(str(path), None, group)


def _check_alike(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            raise ShardError(
                f"classes {other!r} and {name!r} differ only in case or Unicode form; "
                "write one name"
            )


def _say_counts(sounds: Sounds) -> None:
    counts = Counter(example.label for example in sounds.examples)
    text = ", ".join(f"{n!r} {counts[i]}" for i, n in enumerate(sounds.names))
    _log.info("examples: %s, background %d", text, counts[None])


def read_table(path: str | Path) -> list[tuple[str | None, Example]]:
    """The labelled windows of a CSV as psl.suggest writes it.

    Columns file, start, end (s) and label: the name of a class, or ``-`` for a sound
    that is none of them. Rows without a label are counted and left out; other columns
    do not matter. Files are relative to this one's folder, if they are not found from
    where the command runs. Raises ShardError naming the line of what is wrong, and
    ValueError if no row is labelled.
    """
    rows = _rows(path)
    found: list[tuple[str | None, Example]] = []
    seen: dict[tuple[str, float, float], tuple[str, int]] = {}
    for line, row in enumerate(rows, start=2):
        label = unicodedata.normalize("NFC", (row["label"] or "").strip())
        if not label:
            continue
        where = f"{path}: line {line}"
        start, end = _times(row, where)
        file = _find(row["file"] or "", path, where)
        other, first = seen.setdefault((file, start, end), (label, line))
        if other != label:
            raise ShardError(
                f"{where}: labelled {label!r}, but {other!r} in line {first}; keep one"
            )
        if first != line:
            continue
        if not label.isprintable():
            raise ShardError(f"{where}: label {label!r} cannot be shown; rename it")
        example = Example(file, None, parse_stem(Path(file).stem)[0], start, end)
        found.append((None if label == BACKGROUND else label, example))
    if not found:
        raise ValueError(
            f"{path}: none of its {len(rows)} rows has a label; write class names into "
            f"the column label ({BACKGROUND} for none of them)"
        )
    _log.info("%s: %d of %d rows have a label", path, len(found), len(rows))
    return found


def _rows(path: str | Path) -> list[dict[str, str | None]]:
    try:
        text = read_bounded(path, _MAX_TABLE_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(text.splitlines())
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ShardError(f"{path}: not a CSV in UTF-8: {error}") from None
    columns = reader.fieldnames or ()
    if absent := [name for name in _COLUMNS if name not in columns]:
        raise ShardError(
            f"{path}: no column {absent[0]!r}, found {', '.join(columns)}; expected "
            f"{', '.join(_COLUMNS)}"
        )
    return rows


def _times(row: dict[str, str | None], where: str) -> tuple[float, float]:
    try:
        start, end = float(row["start"] or ""), float(row["end"] or "")
    except ValueError:
        start, end = 0.0, 0.0
    if not 0 <= start < end < 1e9:
        raise ShardError(
            f"{where}: from {row['start']!r} to {row['end']!r}; expected seconds, "
            "0 <= start < end"
        )
    return start, end


def _find(file: str, table: str | Path, where: str) -> str:
    for place in (file, os.path.join(os.path.dirname(table), file)):
        if file and os.path.isfile(place):
            return place
    raise ShardError(f"{where}: {file!r}: no such file; correct the path")
