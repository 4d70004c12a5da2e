"""The audio files of a folder, and which of them belongs to which segment.

Owns under which names a segment's file may lie.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.audio.decode import SUFFIXES
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.packing.names import is_passed_over
from shards.packing.segments import Segment


@dataclass(frozen=True)
class Found:
    """A segment with its file."""

    segment: Segment
    path: Path | None
    """None if there is none."""
    is_cut: bool = False
    """Whether the file's name says that it holds the segment and nothing else."""


def find_audio(
    folder: str | Path, rows: Sequence[Segment], classes: Classes, *, where: str
) -> list[Found]:
    """The file of each row of a segments CSV (named ``where``), in their order.

    Looks in ``folder`` and below for ``<id>``, ``<id>_<start>_<end>`` (seconds or
    milliseconds) and the same after a ``Y``, with any audio suffix; the most specific
    name wins. An id may hold the folder, relative to ``folder``, and the file's suffix.
    Of several files of one name, that in the folder named as the row's label is taken,
    and the id then holds this folder. Raises ShardError if ``folder`` does not exist,
    or more than one file fits a row.
    """
    files = _Files(Path(folder))
    ids = {row.clip_id for row in rows}
    found = []
    for row in rows:
        matches, is_cut = files.find(row, ids)
        if len(matches) > 1:
            path = _choose(matches, row, classes, where)
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.append(Found(replace(row, clip_id=name), path, is_cut))
        else:
            found.append(Found(row, matches[0] if matches else None, is_cut))
    return found


def _choose(
    matches: Sequence[Path], row: Segment, classes: Classes, where: str
) -> Path:
    """The only file in a folder that has the name of the row's only label."""
    labels = {t for i in row.labels for t in (classes.mids[i], classes.names[i])}
    inside = [path for path in matches if path.parent.name in labels]
    if len(row.labels) == 1 and len(inside) == 1:
        return inside[0]
    one, two = sorted(matches)[:2]
    raise ShardError(
        f"{where}: line {row.line}: {one} and {two} both match {row.clip_id!r}; keep "
        f"one of them, or write the folder into the id: {one.parent.name}/{row.clip_id}"
    )


class _Files:
    """The audio files below a folder, by their names without suffix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exact: dict[str, list[Path]] = {}
        self._normal: dict[str, list[Path]] = {}
        """Names beyond ASCII in their normal Unicode form, which macOS changes."""
        for path in walk_audio(folder):
            self._exact.setdefault(path.stem, []).append(path)
            if not path.stem.isascii():
                self._normal.setdefault(_normal(path.stem), []).append(path)

    def find(self, segment: Segment, ids: set[str]) -> tuple[list[Path], bool]:
        """The files of the most specific name, and whether it is one of a cut file."""
        names = _names(segment, ids)
        for is_exact in (True, False) if self._normal else (True,):
            for name, is_cut in names:
                if found := self._named(name, is_exact=is_exact):
                    return found, is_cut
            if found := self._with_suffix(segment.clip_id, is_exact=is_exact):
                return found, False
        return [], False

    def _named(self, name: str, *, is_exact: bool) -> list[Path]:
        folder, _, stem = name.rpartition("/")
        if is_exact:
            found = self._exact.get(stem, [])
        else:
            found = self._normal.get(_normal(stem), [])
        if not folder:
            return found
        place = _normal(str(self._folder / folder))
        return [path for path in found if _normal(str(path.parent)) == place]

    def _with_suffix(self, name: str, *, is_exact: bool) -> list[Path]:
        """The files of an id that has an audio suffix itself, as ``1-137.wav``."""
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES:
            return []
        found = self._named(stem, is_exact=is_exact)
        return [path for path in found if path.suffix == suffix]


def _names(segment: Segment, ids: set[str]) -> list[tuple[str, bool]]:
    """Names its file may have, and whether they say that it is cut, best first.

    ``Y<id>`` only if that is not another id.
    """
    start, end = segment.start_seconds, segment.end_seconds
    names = [segment.clip_id]
    folder, slash, stem = segment.clip_id.rpartition("/")
    if f"{folder}{slash}Y{stem}" not in ids:
        names.append(f"{folder}{slash}Y{stem}")
    cuts = (
        f"{start:.3f}_{end:.3f}",
        f"{start:.1f}_{end:.1f}",
        f"{start:g}_{end:g}",
        f"{round(start * 1000)}_{round(end * 1000)}",
    )
    cut_names = [(f"{name}_{cut}", True) for name in names for cut in cuts]
    return cut_names + [(name, False) for name in names]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def walk_audio(folder: str | Path) -> Iterator[Path]:
    """The audio files in ``folder`` and below, by their suffix, in no order.

    Hidden files and folders are passed over. Raises ShardError if ``folder`` does not
    exist, or one below cannot be listed.
    """
    if not Path(folder).is_dir():
        raise ShardError(f"{folder}: no such folder; give the one with the audio files")
    for place, names in _walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES and not is_passed_over(name):
                yield Path(place, name)


def _walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files, through links, each folder once.

    Raises ShardError on a folder that cannot be listed: its files are not missing.
    """

    def fail(error: OSError) -> None:
        raise ShardError(f"{error.filename}: {error.strerror}; make it readable")

    seen = set()
    for place, below, names in os.walk(folder, followlinks=True, onerror=fail):
        below[:] = [name for name in below if not is_passed_over(name)]
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield place, names
