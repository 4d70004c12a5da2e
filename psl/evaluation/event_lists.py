"""Lists of true events as people write them, line by line.

Owns the forms (AudioSet-strong's: segment_id, start_time_seconds, end_time_seconds,
label; DESED's: filename, onset, offset, event_label) and what is refused by its line.
Knows classes, but no clips; true_events.py places the events in those of a dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.lists import event_times, open_list
from shards.packing.names import keys_of_file

COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
DESED_COLUMNS = ("filename", "onset", "offset", "event_label")
"""Files have names with a suffix."""


class Line(NamedTuple):
    """One line below the header."""

    number: int
    segment: str
    """What the list calls the clip."""
    keys: tuple[str, ...]
    """Keys that the clip may have in a dataset, the likeliest first."""
    start_seconds: float
    end_seconds: float
    mid: str | None
    """What stands there if no class has it; None where the line only says that a clip
    has no event."""


def read_lines(path: str | Path, classes: Classes) -> list[Line]:
    """The lines of a list of events, separated by tabs or commas.

    A label is the mid of a class, or its name; in DESED's form the other way round. A
    line without times and label is a clip without events. Raises ShardError naming the
    file, and the first line that is malformed.
    """
    with open_list(path, "events") as stream:
        return list(_parse(stream, path, classes))


def _parse(stream: TextIO, path: str | Path, classes: Classes) -> Iterator[Line]:
    header = stream.readline()
    delimiter = "\t" if "\t" in header else ","
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter))]
    columns = _columns(names, header, path)
    places = [names.index(name) for name in columns]
    is_desed = columns == DESED_COLUMNS
    mids = _mids_by_label(classes, names_first=is_desed)
    reader = csv.reader(stream, delimiter=delimiter)
    past = 2
    for fields in reader:
        number, past = past, reader.line_num + 2
        if not any(field.strip() for field in fields):
            continue
        try:
            if len(fields) != len(names) or _is_torn(fields, delimiter):
                raise ValueError
            segment, start, end, label = (fields[place].strip() for place in places)
            times = event_times(start, end, label)
            if not segment:
                raise ValueError
        except ValueError:
            raise ShardError(
                f"{path}: line {number}: found {delimiter.join(fields)!r:.200}, "
                f"expected {len(names)} columns with a clip, 0 <= start <= end in "
                "seconds, and a class"
            ) from None
        keys = keys_of_file(segment) if is_desed else (segment,)
        yield Line(number, segment, keys, *times, mids.get(label, label) or None)


def file_names(path: str | Path, classes: Classes) -> dict[str, str]:
    """The name of its file for each key, of a list in DESED's form; else none.

    Raises ShardError as ``read_lines`` does.
    """
    names: dict[str, str] = {}
    for line in read_lines(path, classes):
        if line.keys != (line.segment,):
            for key in line.keys:
                names.setdefault(key, line.segment)
    return names


def _columns(names: list[str], header: str, path: str | Path) -> tuple[str, ...]:
    """Which form the columns ``names`` are; ShardError unless it is one."""
    forms = [form for form in (COLUMNS, DESED_COLUMNS) if set(form) <= set(names)]
    if len(forms) == 1 and all(names.count(name) == 1 for name in forms[0]):
        return forms[0]
    if forms:
        twice = [name for name in names if names.count(name) > 1]
        what = f"column {twice[0]!r} twice" if twice else "columns of both forms"
    else:
        form = DESED_COLUMNS if "filename" in names else COLUMNS
        missing = ", ".join(name for name in form if name not in names)
        what = f"no column {missing}"
    hint = "; it has semicolons" if ";" in header else ""
    raise ShardError(
        f"{path}: line 1: {what} in {header.strip()!r:.200}; expected a header with "
        f"{', '.join(COLUMNS)}, or {', '.join(DESED_COLUMNS)}, separated by tabs or "
        f"commas{hint}"
    )


def _is_torn(fields: list[str], delimiter: str) -> bool:
    """Whether a quote that is never closed has swallowed the lines below it."""
    return any("\n" in field and delimiter in field for field in fields)


def _mids_by_label(classes: Classes, *, names_first: bool) -> dict[str, str]:
    """The mid of each label; a name that several classes have is none."""
    by_mid = {mid: mid for mid in classes.mids}
    pairs: Sequence[tuple[str, str]] = list(
        zip(classes.names, classes.mids, strict=True)
    )
    seen: dict[str, set[str]] = {}
    for name, mid in pairs:
        seen.setdefault(name, set()).add(mid)
    by_name = {name: mid for name, mid in pairs if len(seen[name]) == 1}
    return {**by_mid, **by_name} if names_first else {**by_name, **by_mid}
