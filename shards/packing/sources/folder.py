"""A folder of audio files, with a segments CSV in AudioSet's form or without labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from shards.audio.decode import load_clip, load_segment
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.packing.segments import find_audio, read_segments, walk_audio
from shards.packing.sources.listing import Clip, Listing
from shards.system.files import file_sha256, sha256_of


def list_clips(
    audio: str | Path, segments_csv: str | Path, classes: Classes
) -> Listing:
    """The clips of ``segments_csv`` that have a file in the folder ``audio``.

    Raises ShardError as read_segments and find_audio do.
    """
    segments = read_segments(segments_csv, classes)
    files = find_audio(audio, segments)
    uses = Counter(files.values())
    clips = [
        Clip(
            key=segment.key,
            clip_id=segment.clip_id,
            start_seconds=segment.start_seconds,
            labels=segment.labels,
            place=(str(path), segment.end_seconds, uses[path] > 1 or None),
        )
        for segment in segments
        if (path := files.get(segment.key))
    ]
    missing = [
        [segment.key, "missing", f"no audio file in {audio}"]
        for segment in segments
        if segment.key not in files
    ]
    provenance = {"segments_sha256": file_sha256(segments_csv)}
    return Listing(str(audio), clips, missing, provenance, load)


def list_unlabelled(audio: str | Path, classes: Classes) -> Listing:
    """Every audio file in the folder ``audio`` and below, a clip without labels each.

    Id and start of a clip are those that its file's name tells. Raises ShardError if
    there is no file, or two have names for the same key.
    """
    clips: dict[str, Clip] = {}
    for path in sorted(walk_audio(audio)):
        where = str(path)
        clip = Clip.named(path.stem, None, (where,), classes=classes, where=where)
        if clip.key in clips:
            raise ShardError(
                f"{clips[clip.key].place[0]} and {path} are both clip {clip.key!r}; "
                "rename one of them"
            )
        clips[clip.key] = clip
    if not clips:
        raise ShardError(f"{audio}: no audio file in it; expected one of each clip")
    names = "\n".join(os.path.relpath(clip.place[0], audio) for clip in clips.values())
    provenance = {"files_sha256": sha256_of(names.encode())}
    return Listing(str(audio), list(clips.values()), [], provenance, load_whole)


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
