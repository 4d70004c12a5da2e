"""Events of a stream that has no end, told as they happen.

Owns what is printed and when; a stream that stutters only makes it later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

from psl.tagging.outputs import one_line
from psl.tagging.records import STDIN, event_record, name_of
from psl.tagging.rules import Event, EventMaker, Rules
from psl.tagging.windows import Cut, Score, cut_windows
from shards.format.classes import Classes

WINDOW_SECONDS, HOP_SECONDS = 2.0, 1.0
"""Where none are asked for."""


def listen(
    blocks: Iterable[np.ndarray],
    score: Score,
    classes: Classes,
    *,
    rate: int,
    cut: Cut,
    rules: Rules,
    frame_samples: int | None,
) -> Iterator[Event]:
    """Beginnings and ends of events, as soon as their windows are complete.

    A sound is told when the window in which it shows is complete, so at most a window
    and a hop after it begins; a beginning waits for ``rules.min_seconds``, an end for
    ``rules.max_gap_seconds`` and one more window. A KeyboardInterrupt ends the stream:
    what is open then ends with its last window.
    """
    maker = EventMaker(classes, rules)
    windows = cut_windows(
        blocks, score, rate=rate, cut=cut, frame_samples=frame_samples
    )
    try:
        for window in windows:
            yield from maker.add(window)
    except KeyboardInterrupt:
        pass
    yield from maker.finish()


def printer(stream: BinaryIO, *, as_json: bool) -> Callable[[Event], None]:
    """What writes a line for each beginning and end to ``stream``, at once."""

    def write(event: Event) -> None:
        record = event_record(name_of(STDIN), event)
        if as_json:
            line = json.dumps({"event": event.state, **record}, allow_nan=False)
        else:
            end = f"{event.end:9.2f}" if event.state == "end" else " " * 9
            state = "ended" if event.state == "end" else "began"
            line = f"{event.start:9.2f} {end}  {state}  {event.probability:.2f}  "
            line += one_line(event.name)
        stream.write(f"{line}\n".encode(errors="backslashreplace"))
        stream.flush()

    return write
