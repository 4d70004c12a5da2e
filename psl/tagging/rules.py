"""From probabilities to what is reported: thresholds, tags and events.

Owns thresholds (one for all, or one per class from a file that psl.thresholds has
written), top-k, and how windows over the threshold become events.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from psl.tagging.windows import Window
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.schema import parse_json
from shards.system.files import read_bounded

DEFAULT_THRESHOLD = 0.5
DEFAULT_TOP_K = 5
_MAX_FILE_BYTES = 16 << 20
_CLOSE = 1e-6
"""Seconds by which starts and ends may differ that were meant to be the same."""


@dataclass(frozen=True)
class Tag:
    """A class and its probability."""

    name: str
    mid: str
    probability: float


@dataclass(frozen=True)
class Event:
    """A sound: windows of one class over its threshold, joined."""

    start: float
    """Seconds from the first sample of the recording."""
    end: float
    name: str
    mid: str
    probability: float
    """The highest of its windows, so far if it only begins."""
    state: Literal["begin", "end"] = "end"
    """Whether it begins (then ``end`` is that of its last window) or is complete."""


@dataclass(frozen=True)
class Rules:
    """When a class is reported, and how."""

    threshold: float | None = None
    """A class is present from this probability on; None: 0.5 for events, and no
    threshold but the top 5 for windows."""
    class_thresholds: Mapping[str, float | None] | None = None
    """Thresholds of single classes, by mid; None for a class that is never reported."""
    top_k: int | None = None
    """Tags of a window at most."""
    every_class: bool = False
    """All classes of a window, whatever the thresholds."""
    min_seconds: float = 0.0
    """Shorter events are left out."""
    max_gap_seconds: float = 0.0
    """Events of a class that are no further apart are one."""

    def __post_init__(self) -> None:
        """ValueError for values that cannot be."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold:g}; expected 0 to 1")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top-k = {self.top_k}; expected 1 or more")
        for name in ("min_seconds", "max_gap_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}; expected 0 or more")

    def thresholds(self, classes: Classes, *, default: float) -> np.ndarray:
        """[C] float32: what each class must reach; infinite for one never reported."""
        default = default if self.threshold is None else self.threshold
        given = self.class_thresholds or {}
        values = [given.get(mid, default) for mid in classes.mids]
        return np.array([math.inf if v is None else v for v in values], np.float32)


class TagPicker:
    """Chooses the tags of windows."""

    def __init__(self, classes: Classes, rules: Rules) -> None:
        self._classes = classes
        self._every_class = rules.every_class
        self._least = rules.thresholds(classes, default=0.0)
        self._top_k = rules.top_k
        has_threshold = rules.threshold is not None or rules.class_thresholds
        if rules.top_k is None and not has_threshold and not rules.every_class:
            self._top_k = DEFAULT_TOP_K

    def tags(self, probs: np.ndarray) -> list[Tag]:
        """The tags of a window with probabilities [C], highest first.

        A probability of 0, as silence has, is no tag unless every class is asked for.
        """
        chosen = np.arange(len(probs))
        if not self._every_class:
            chosen = np.flatnonzero((probs >= self._least) & (probs > 0))
        order = chosen[np.argsort(-probs[chosen], kind="stable")][: self._top_k]
        names, mids = self._classes.names, self._classes.mids
        return [Tag(names[c], mids[c], float(probs[c])) for c in order]


class EventMaker:
    """Windows in, in order of their starts; beginnings and ends of events out."""

    def __init__(self, classes: Classes, rules: Rules) -> None:
        self._classes = classes
        self._rules = rules
        self._least = rules.thresholds(classes, default=DEFAULT_THRESHOLD)
        self._open: dict[int, list[float]] = {}
        """Start, end and highest probability by class; a fourth entry: announced."""

    def add(self, window: Window) -> Iterator[Event]:
        """What is known with one more window.

        An event begins with the window by which it is long enough, and ends with the
        first window that begins later than ``max_gap_seconds`` after it.
        """
        latest = window.start - self._rules.max_gap_seconds - _CLOSE
        yield from self._close(latest)
        present = (window.probs >= self._least) & (window.probs > 0)
        for c in np.flatnonzero(present).tolist():
            prob = float(window.probs[c])
            start, end, best, told = self._open.get(c, (window.start, 0.0, 0.0, 0.0))
            end, best = max(end, window.end), max(best, prob)
            is_long = end - start >= self._rules.min_seconds - _CLOSE
            self._open[c] = [start, end, best, float(is_long)]
            if is_long and not told:
                yield self._event(c, "begin")

    def finish(self) -> Iterator[Event]:
        """The ends of the events that the recording ends in."""
        yield from self._close(math.inf)

    def _close(self, latest: float) -> Iterator[Event]:
        ended = [c for c, state in self._open.items() if state[1] < latest]
        for c in sorted(ended, key=lambda c: (self._open[c][0], c)):
            if self._open[c][3]:
                yield self._event(c, "end")
            del self._open[c]

    def _event(self, c: int, state: Literal["begin", "end"]) -> Event:
        start, end, best, _ = self._open[c]
        name, mid = self._classes.names[c], self._classes.mids[c]
        return Event(start, end, name, mid, best, state)


def find_events(
    windows: Iterable[Window], classes: Classes, rules: Rules
) -> Iterator[Event]:
    """The events of a recording, each once, in the order in which they end."""
    maker = EventMaker(classes, rules)
    for window in windows:
        yield from (e for e in maker.add(window) if e.state == "end")
    yield from maker.finish()


def read_thresholds(
    path: str | Path, classes: Classes
) -> tuple[float | None, dict[str, float | None]]:
    """The threshold for all other classes, if there is one, and those by mid.

    ``path`` is a file that psl.thresholds has written, or a JSON object of numbers by
    mid or name. Raises ShardError for anything else, and for a class that is not among
    ``classes``.
    """
    data = parse_json(read_bounded(path, _MAX_FILE_BYTES), where=str(path))
    if not isinstance(data, dict):
        raise _not_thresholds(path, "no JSON object")
    default, entries = None, data
    if "thresholds" in data:
        default, entries = data.get("default"), data["thresholds"]
        if default is not None and not _is_threshold(default):
            raise _not_thresholds(path, f"default {default!r}")
    if not isinstance(entries, dict):
        raise _not_thresholds(path, f"thresholds {entries!r:.40}")
    return default, dict(_by_mid(path, entries, classes))


def _by_mid(
    path: str | Path, entries: dict[str, Any], classes: Classes
) -> Iterator[tuple[str, float | None]]:
    mids = dict(zip(classes.names, classes.mids, strict=True))
    mids |= {mid: mid for mid in classes.mids}
    for key, entry in entries.items():
        value = entry.get("threshold") if isinstance(entry, dict) else entry
        if key not in mids:
            near = difflib.get_close_matches(key, mids, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ShardError(
                f"{path}: class {key!r} is none of the model's {len(classes)}; {hint}"
                "a file made for another model does not fit"
            )
        if value is not None and not _is_threshold(value):
            raise _not_thresholds(path, f"{value!r} for {key!r}")
        yield mids[key], value


def _is_threshold(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= float(value) <= 1  # type: ignore[arg-type]


def _not_thresholds(path: str | Path, found: str) -> ShardError:
    return ShardError(
        f"{path}: {found}; expected numbers from 0 to 1 by mid or name, as "
        "psl thresholds writes them"
    )
