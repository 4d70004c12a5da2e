"""The true events that a command measures against, and what is said of them.

Owns the key ``strong``: reading it, the refusal where nothing can be measured, and a
line for everything that stays out. true_events.py reads the file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psl.evaluation.true_events import Events, read_events
from shards.errors import ShardError
from shards.format.index import Index

_log = logging.getLogger(__name__)


def open_events(
    path: str | Path, audio: Index, max_left_out: float | None, columns: Sequence[int]
) -> Events:
    """``read_events`` for a key ``max_left_out=``, None for 0.

    ``columns`` are the classes that are measured. Raises ShardError if they have no
    event. Messages say what is left out, cut, or not measured.
    """
    events = read_events(
        path, audio, max_left_out=max_left_out or 0.0, option="max_left_out="
    )
    has_events = np.bincount(events.label, minlength=len(audio.classes)) > 0
    measured = int(has_events[list(columns)].sum())
    if not measured:
        raise ShardError(
            f"{path}: no event of the {len(columns)} classes that are measured lies in "
            f"a clip of {audio.where}; nothing can be measured"
        )
    left_out = sum(events.unknown.values()) + events.num_outside
    if left_out:
        _log.warning("%s: %d events left out", path, left_out)
    if events.num_cut:
        _log.info("%s: %d events cut at the end of their clip", path, events.num_cut)
    if events.num_segments_elsewhere:
        line = "%s: names %d clips that are not in %s, with %d events: left out"
        numbers = events.num_segments_elsewhere, audio.where, events.num_elsewhere
        _log.info(line, path, *numbers)
    if not events.covered.all():
        found, number = int(events.covered.sum()), len(audio)
        _log.info("%s: names %d of %d clips; only these count", path, found, number)
    if lacking := len(columns) - measured:
        line = "%s: no event of %d of %d classes, which are in no mean"
        _log.info(line, path, lacking, len(columns))
    return events
