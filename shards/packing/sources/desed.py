"""A folder of audio files with lists in DESED's form, weak or strong.

A weak list is a TSV with columns ``filename`` and ``event_labels`` (names, separated by
``,``), a strong one has ``filename``, ``onset``, ``offset`` and ``event_label``, a row
for each event (https://github.com/turpaultn/DESED). A clip is a whole file; the events
of a strong list become its weak labels, and a row without an event is a clip without
labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from shards.errors import ShardError
from shards.format.lists import event_times, open_list
from shards.format.schema import make_key
from shards.format.weak_labels import LabelReader
from shards.packing.audio_files import walk_audio
from shards.packing.names import name_for_id, parse_stem, without_suffix
from shards.packing.sources.folder import load_whole
from shards.packing.sources.listing import Clip, Listing
from shards.system.files import file_sha256, sha256_of

WEAK, STRONG = "event_labels", "event_label"


def list_clips(audio: str | Path, lists: Sequence[str], reader: LabelReader) -> Listing:
    """The clips of ``lists`` whose files are in the folder ``audio`` or below.

    Raises ShardError naming file and line of what is wrong; a file that is not there is
    missing.
    """
    labels: dict[str, set[int]] = {}
    places: dict[str, str] = {}
    for path in lists:
        for where, name, text in _read(path):
            places.setdefault(name, where)
            parsed = reader.parse(text or None, where=where)
            labels.setdefault(name, set()).update(parsed)
    files = _Files(Path(audio))
    found = {name: files.find(name, place) for name, place in places.items()}
    missing = [
        [make_key(*parse_stem(Path(name).stem)), "missing", f"no {name} in {audio}"]
        for name, path in found.items()
        if path is None
    ]
    clips: list[Clip] = []
    for with_folder in (False, True):
        clips = [
            replace(
                Clip.named(
                    name_for_id(without_suffix(name), with_folder=with_folder),
                    None,
                    (str(path),),
                    reader=reader,
                    where=places[name],
                ),
                labels=tuple(sorted(labels[name])),
            )
            for name, path in found.items()
            if path is not None
        ]
        if len({clip.key for clip in clips}) == len(clips):
            break
    hashes = "".join(file_sha256(path) for path in lists)
    return Listing(
        where=str(audio),
        clips=clips,
        missing=missing,
        provenance={"lists_sha256": sha256_of(hashes.encode())},
        load=load_whole,
        describe=lambda clip: str(clip.place[0]),
    )


class _Files:
    """The audio files of a folder, by their path in it or their name alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in walk_audio(folder):
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, where: str) -> Path | None:
        """The file of a row; ShardError if its name alone fits more than one."""
        found = self._by_name.get(Path(name).name, [])
        exact = [path for path in found if path == self._folder / name]
        if len(exact or found) > 1:
            one, two = sorted(found)[:2]
            raise ShardError(
                f"{where}: {one} and {two} are both {name!r}; name a folder with one "
                "of them in --audio"
            )
        return next(iter(exact or found), None)


def _read(path: str) -> Iterator[tuple[str, str, str]]:
    """Place, file name and labels of each row."""
    with open_list(path, "the list of clips") as stream:
        lines = csv.DictReader(stream, delimiter="\t")
        rows = [(lines.line_num, row) for row in lines]
    if not rows:
        raise ShardError(f"{path}: no clips; expected rows below a header line")
    names = [name for name in rows[0][1] if name is not None]
    column = next((name for name in (WEAK, STRONG) if name in names), None)
    if "filename" not in names or column is None:
        raise ShardError(
            f"{path}: line 1: found columns {', '.join(names)}; expected filename and "
            f"{WEAK}, or filename, onset, offset and {STRONG}, separated by tabs"
        )
    for number, row in rows:
        where, name = f"{path}: line {number}", (row["filename"] or "").strip()
        if not name or row.get(None) or None in row.values():
            raise ShardError(f"{where}: expected {len(names)} columns with a filename")
        text = row[column].strip()
        if column == STRONG and {"onset", "offset"} <= row.keys():
            _check_times(row["onset"].strip(), row["offset"].strip(), text, where)
        yield where, name, text


def _check_times(onset: str, offset: str, text: str, where: str) -> None:
    """ShardError unless a row has an event with its times, or none."""
    try:
        event_times(onset, offset, text)
    except ValueError:
        raise ShardError(
            f"{where}: {text!r:.80} from {onset!r:.40} to {offset!r:.40}; expected a "
            "class with 0 <= onset <= offset in seconds, or nothing in all three"
        ) from None
