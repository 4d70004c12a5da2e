"""A folder of audio files, with a segments CSV in AudioSet's form or without labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from shards.audio.decode import load_clip, load_segment
from shards.errors import ShardError
from shards.format.weak_labels import LabelReader
from shards.packing.audio_files import Found, find_audio, walk_audio
from shards.packing.names import check_utf8, name_for_id, readable, without_suffix
from shards.packing.segments import Segment, join_rows, read_rows
from shards.packing.sources.listing import Clip, Listing
from shards.system.files import file_sha256, sha256_of

FilesAre = Literal["segments", "recordings"]
"""What files hold whose names do not tell: the segment alone, or all of a recording."""

FILES_ARE: tuple[str, ...] = get_args(FilesAre)


def list_clips(
    audio: str | Path,
    segments_csv: str | Path,
    reader: LabelReader,
    *,
    files_are: FilesAre | None = None,
) -> Listing:
    """The clips of ``segments_csv`` that have a file in the folder ``audio``.

    Raises ShardError as read_rows, find_audio and join_rows do.
    """
    rows = read_rows(segments_csv, reader)
    where = str(segments_csv)
    found = find_audio(audio, rows, reader.classes, where=where)
    segments = join_rows((one.segment for one in found), where=where)
    files = {one.segment.key: one for one in found if one.path}
    _check_different(segments, files, where)
    uses = Counter(files[s.key].path for s in segments if s.key in files)
    clips = [
        Clip(
            key=segment.key,
            clip_id=segment.clip_id,
            start_seconds=segment.start_seconds,
            labels=segment.labels,
            place=(
                str(files[segment.key].path),
                segment.end_seconds,
                _is_recording(files[segment.key], uses, files_are),
            ),
        )
        for segment in segments
        if segment.key in files
    ]
    missing = [
        [segment.key, "missing", f"no audio file in {audio} of {segment.clip_id!r}"]
        for segment in segments
        if segment.key not in files
    ]
    provenance = {"segments_sha256": file_sha256(segments_csv)}
    if files_are is not None:
        provenance["files_are"] = files_are
    return Listing(
        where=str(audio),
        clips=clips,
        missing=missing,
        provenance=provenance,
        load=load,
        describe=lambda clip: str(clip.place[0]),
    )


def _check_different(
    segments: Sequence[Segment], files: Mapping[str, Found], where: str
) -> None:
    """ShardError if two ids mean the same part of the same file."""
    seen: dict[tuple[Path | None, float, float], Segment] = {}
    for segment in segments:
        if one := files.get(segment.key):
            part = (one.path, segment.start_seconds, segment.end_seconds)
            other = seen.setdefault(part, segment)
            if other is not segment:
                raise ShardError(
                    f"{where}: line {segment.line}: {segment.clip_id!r} and "
                    f"{other.clip_id!r} (line {other.line}) are both {one.path}; write "
                    "one id for it"
                )


def _is_recording(
    found: Found, uses: Counter[Path | None], files_are: FilesAre | None
) -> bool | None:
    """Whether a file holds more than its segment; None where its length must tell."""
    if uses[found.path] > 1:
        return True
    if found.is_cut:
        return False
    return None if files_are is None else files_are == "recordings"


def list_unlabelled(audio: str | Path, reader: LabelReader) -> Listing:
    """Every audio file in the folder ``audio`` and below, a clip without labels each.

    Id and start of a clip are those that its file's name tells, with the folder where
    names are not unique. A name that is not UTF-8 is rejected. Raises ShardError if
    there is no file.
    """
    paths, rejected = [], []
    for path in sorted(walk_audio(audio)):
        name = os.path.relpath(path, audio)
        try:
            check_utf8(name)
            paths.append((path, name))
        except ShardError as error:
            shown = readable(str(path))
            rejected.append([readable(name), "rejected", f"{shown}: {error}"])
    if not paths and not rejected:
        raise ShardError(f"{audio}: no audio file in it; expected one of each clip")
    clips = _name_clips(paths, reader)
    names = "\n".join(name for _, name in paths)
    provenance = {"files_sha256": sha256_of(names.encode())}
    return Listing(
        where=str(audio),
        clips=clips,
        missing=[],
        provenance=provenance,
        load=load_whole,
        rejected=rejected,
        describe=lambda clip: str(clip.place[0]),
    )


def _name_clips(paths: list[tuple[Path, str]], reader: LabelReader) -> list[Clip]:
    """A clip of each file, with its folder in the id if names are not unique.

    ``paths`` are those of files, and relative to the folder of all.
    """
    clips = []
    for with_folder in (False, True):
        clips = [
            Clip.named(
                name_for_id(without_suffix(name), with_folder=with_folder),
                None,
                (str(path),),
                reader=reader,
                where=str(path),
            )
            for path, name in paths
        ]
        if len({clip.key for clip in clips}) == len(clips):
            break
    return clips


def load_whole(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a file that is a clip."""
    (path,) = clip.place
    try:
        return load_clip(path, sample_rate=sample_rate)
    except FileNotFoundError:
        raise ShardError(f"{path}: gone since it was listed; fetch it again") from None


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, end_seconds, is_recording = clip.place
    try:
        return load_segment(
            path,
            start_seconds=clip.start_seconds,
            end_seconds=end_seconds,
            sample_rate=sample_rate,
            is_recording=is_recording,
        )
    except FileNotFoundError:
        raise ShardError(f"{path}: gone since it was listed; fetch it again") from None
