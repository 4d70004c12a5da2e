"""events.tsv: found events as AudioSet-strong or DESED have them.

Owns both forms, and the name of a clip's file where nobody says it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence

from psl.detection.events import Events, ScoredClip
from psl.evaluation.event_lists import COLUMNS, DESED_COLUMNS
from shards.format.classes import Classes
from shards.packing.names import key_of

_ESCAPED = re.compile("(?:=[0-9A-F]{2})+")
_YOUTUBE_CHARS = 11


def audioset_table(
    clips: Sequence[ScoredClip], found: Sequence[Events], classes: Classes
) -> str:
    """Keys, times and mids, in the order of clips and onsets."""
    rows = ((clip.key, *row) for clip, row in _rows(clips, found, classes.mids))
    return _text(COLUMNS, rows)


def desed_table(
    clips: Sequence[ScoredClip],
    found: Sequence[Events],
    classes: Classes,
    named: Mapping[str, str],
) -> str:
    """Files, times and names of classes; ``named`` has the files of some keys."""
    rows = (
        (named.get(clip.key) or file_name(clip.key, float(clip.edges[-1])), *row)
        for clip, row in _rows(clips, found, classes.names)
    )
    return _text(DESED_COLUMNS, rows)


def _rows(
    clips: Sequence[ScoredClip], found: Sequence[Events], names: Sequence[str]
) -> Iterator[tuple[ScoredClip, tuple[str, str, str]]]:
    for clip, events in zip(clips, found, strict=True):
        times = zip(events.onset.tolist(), events.offset.tolist(), strict=True)
        labels = events.label.tolist()
        for (onset, offset), label in sorted(zip(times, labels, strict=True)):
            yield clip, (f"{onset:.3f}", f"{offset:.3f}", names[label])


def _text(columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def file_name(key: str, seconds: float) -> str:
    """The file that a clip of ``seconds`` was packed from, as far as its key tells.

    ``12.wav`` for ``12_0``, and ``Y<id>_30.000_40.000.wav`` for ten seconds of a video
    from 30 s on; the key itself where it was shortened.
    """
    escaped, _, start = key.rpartition("_")
    begin = int(start) / 1000 if start.isdigit() else 0.0
    try:
        clip_id = _ESCAPED.sub(_unescape, escaped)
    except UnicodeDecodeError:
        clip_id = key
    letter = "Y" if len(clip_id) == _YOUTUBE_CHARS else ""
    cut = f"{letter}{clip_id}_{begin:.3f}_{begin + seconds:.3f}"
    stem = cut if begin else clip_id
    return f"{stem if key_of(stem) == key else key}.wav"


def _unescape(match: re.Match[str]) -> str:
    return bytes.fromhex(match.group().replace("=", "")).decode()
