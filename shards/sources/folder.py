"""A segments CSV in AudioSet's form and a folder of audio files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from shards.classes import Classes
from shards.decode import load_segment
from shards.files import file_sha256
from shards.schema import ShardError
from shards.segments import find_audio, read_segments
from shards.sources import Clip, Listing


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
            place=(str(path), segment.end_seconds, uses[path] > 1),
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
