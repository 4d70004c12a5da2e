"""What the tagger reports of a file, as records: plain dictionaries.

Owns their form. A window is ``file``, ``start``, ``end`` and ``tags``; an event is
``file``, ``start``, ``end``, ``name``, ``mid`` and ``probability``. The last record of
a file has its ``seconds``. outputs.py turns records into what users want.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psl.tagging.rules import Event, Rules, TagPicker, find_events
from psl.tagging.windows import Cut, Window
from shards.format.classes import Classes

Record = dict[str, Any]
STDIN = "-"
"""What the user names for it."""
_DIGITS = 6


@dataclass(frozen=True)
class Settings:
    """What is asked of every file."""

    cut: Cut = Cut()
    rules: Rules = Rules()
    events: bool = False
    """Whether windows over the threshold are joined to events."""


def name_of(place: str | Path) -> str:
    """What ``place`` is called in output and messages."""
    return "stdin" if place == STDIN else str(place)


def records_of(
    file: str, windows: Iterable[Window], classes: Classes, settings: Settings
) -> Iterator[Record]:
    """The records of a file with these windows."""
    seen = _Seen(windows)
    if settings.events:
        for event in find_events(seen, classes, settings.rules):
            yield event_record(file, event)
    else:
        picker = TagPicker(classes, settings.rules)
        for window in seen:
            yield window_record(file, window, picker)
    yield {"file": file, "seconds": round(seen.end, _DIGITS)}


class _Seen:
    """Windows, and where the last one ended."""

    def __init__(self, windows: Iterable[Window]) -> None:
        self._windows = windows
        self.end = 0.0

    def __iter__(self) -> Iterator[Window]:
        for window in self._windows:
            self.end = max(self.end, window.end)
            yield window


def window_record(file: str, window: Window, picker: TagPicker) -> Record:
    """A window with its tags, highest first."""
    tags = [asdict(tag) for tag in picker.tags(window.probs)]
    for tag in tags:
        tag["probability"] = round(tag["probability"], _DIGITS)
    start, end = round(window.start, _DIGITS), round(window.end, _DIGITS)
    return {"file": file, "start": start, "end": end, "tags": tags}


def event_record(file: str, event: Event) -> Record:
    """An event that is complete."""
    return {
        "file": file,
        "start": round(event.start, _DIGITS),
        "end": round(event.end, _DIGITS),
        "name": event.name,
        "mid": event.mid,
        "probability": round(event.probability, _DIGITS),
    }


def rows_of(record: Record) -> Iterator[Record]:
    """One row for each tag of a window; an event is a row itself."""
    if "tags" not in record:
        yield record
        return
    place = {name: record[name] for name in ("file", "start", "end")}
    for tag in record["tags"]:
        yield place | tag
