"""True events of a dataset as those of its clips.

Owns the way from samples of a dataset to seconds of a clip; true_events.py reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.detection.events import Events
from psl.evaluation import true_events


def events_by_row(
    found: true_events.Events, columns: Sequence[int], sample_rate: int
) -> dict[int, Events]:
    """The events of each clip that has any, by its row; joined.

    ``columns`` are the classes that are measured: class ``columns[c]`` of ``found``
    becomes class c, and events of others are left out.
    """
    place = {label: column for column, label in enumerate(columns)}
    rows: dict[int, list[tuple[int, float, float]]] = {}
    for row, start, stop, label in zip(
        found.row.tolist(),
        found.start.tolist(),
        found.stop.tolist(),
        found.label.tolist(),
        strict=True,
    ):
        if label in place:
            event = (place[label], start / sample_rate, stop / sample_rate)
            rows.setdefault(row, []).append(event)
    return {row: Events.of(listed).joined() for row, listed in rows.items()}
