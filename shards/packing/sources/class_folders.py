"""A folder of class folders: ``sounds/door/1.wav`` is an example of the class "door".

Owns what is a class there. No CSV is needed: the name of a folder is the name and the
id of its class.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.audio.decode import SUFFIXES
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.weak_labels import LabelReader
from shards.packing.audio_files import walk_audio
from shards.packing.names import (
    check_utf8,
    is_passed_over,
    name_for_id,
    readable,
    without_suffix,
)
from shards.packing.sources.folder import load_whole
from shards.packing.sources.listing import Clip, Listing
from shards.system.files import sha256_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolder:
    """The examples of one class."""

    name: str
    """The folder's name, in normal Unicode form and without blanks around it."""
    files: tuple[Path, ...]
    """Its audio files, by name; at least one."""


def read_class_folders(folder: str | Path) -> list[ClassFolder]:
    """The classes of ``folder``, by name.

    Hidden files and folders are passed over. Audio elsewhere than directly in a class
    folder is left out, and counted in a warning.

    Raises ShardError if there is no class folder, one holds no audio or has a name that
    cannot be shown, or two have names that differ in nothing but case or Unicode form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; give the one with class folders")
    found = [_read(path) for path in _list(folder) if path.is_dir()]
    if not found:
        raise ShardError(
            f"{folder}: no class folders in it; expected one for each class, such as "
            f"{folder / 'door' / '1.wav'}"
        )
    found.sort(key=lambda one: one.name)
    _check_names(folder, found)
    _warn_of_others(folder, found)
    return found


def _list(folder: Path) -> list[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise ShardError(f"{folder}: {error.strerror}; make it readable") from None
    return [path for path in inside if not is_passed_over(path.name)]


def _read(folder: Path) -> ClassFolder:
    name = unicodedata.normalize("NFC", folder.name.strip())
    shown = readable(str(folder))
    if shown != str(folder) or not name.isprintable() or not name:
        raise ShardError(
            f"{shown!r}: its name, the name of the class, cannot be shown; rename the "
            "folder"
        )
    files = [p for p in _list(folder) if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not files:
        raise ShardError(
            f"{folder}: no audio in this class folder; put examples into it, or remove "
            "it"
        )
    return ClassFolder(name, tuple(files))


def _check_names(folder: Path, found: Sequence[ClassFolder]) -> None:
    seen: dict[str, str] = {}
    for one in found:
        same = unicodedata.normalize("NFKC", one.name).casefold()
        other = seen.setdefault(same, one.files[0].parent.name)
        if other != one.files[0].parent.name:
            raise ShardError(
                f"{folder}: class folders {other!r} and {one.files[0].parent.name!r} "
                "differ only in case, blanks or Unicode form; put their files into one"
            )


def _warn_of_others(folder: Path, found: Sequence[ClassFolder]) -> None:
    """Say how much audio is not directly in a class folder."""
    taken = {path for one in found for path in one.files}
    others = sorted(path for path in walk_audio(folder) if path not in taken)
    if others:
        _log.warning(
            "%s: left out %d audio files that are not directly in a class folder "
            "(first: %s)",
            folder,
            len(others),
            readable(str(others[0])),
        )


def classes_of(found: Sequence[ClassFolder]) -> Classes:
    """The class list: the names, which are the ids, too."""
    names = tuple(one.name for one in found)
    return Classes(names, names)


def list_clips(folder: str | Path, reader: LabelReader) -> Listing:
    """Every audio file of a class folder, as a clip of that class.

    ``reader`` finds the class of a folder's name. Ids are as in list_unlabelled of
    folder.py. A file whose name is not UTF-8 is rejected. Raises ShardError as
    read_class_folders does, and for a class that ``reader`` does not know.
    """
    paths: list[tuple[Path, tuple[int, ...]]] = []
    rejected = []
    for one in read_class_folders(folder):
        labels = reader.parse([one.name], where=str(one.files[0].parent))
        for path in one.files:
            try:
                check_utf8(path.name)
                paths.append((path, labels))
            except ShardError as error:
                shown = readable(str(path))
                rejected.append([shown, "rejected", f"{shown}: {error}"])
    relative = "\n".join(os.path.relpath(path, folder) for path, _ in paths)
    return Listing(
        where=str(folder),
        clips=_name_clips(folder, paths),
        missing=[],
        provenance={"files_sha256": sha256_of(relative.encode())},
        load=load_whole,
        rejected=rejected,
        describe=lambda clip: str(clip.place[0]),
    )


def _name_clips(
    folder: str | Path, paths: Sequence[tuple[Path, tuple[int, ...]]]
) -> list[Clip]:
    """A clip of each file, with its folder in the id if names are not unique."""
    clips: list[Clip] = []
    for with_folder in (False, True):
        clips = []
        for path, labels in paths:
            stem = without_suffix(os.path.relpath(path, folder))
            name = name_for_id(stem, with_folder=with_folder)
            clips.append(Clip.of(name, labels, (str(path),), where=str(path)))
        if len({clip.key for clip in clips}) == len(clips):
            break
    return clips
