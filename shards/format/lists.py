"""Lists of clips and events as people write them: CSV or TSV.

Owns how they are opened, and which times an event may have.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shards.errors import ShardError


@contextlib.contextmanager
def open_list(path: str | Path, what: str) -> Iterator[TextIO]:
    """A list as UTF-8, without a byte order mark, for csv's readers.

    ShardError naming the file and ``what`` it should have been, if the file, or in the
    block its text, cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            yield stream
    except OSError as error:
        raise ShardError(f"{path}: cannot read {what}: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ShardError(
            f"{path}: cannot read {what}: {error}; save it as text in UTF-8"
        ) from None


def event_times(start: str, end: str, label: str) -> tuple[float, float]:
    """Start and end, s; zeros where all three are empty, and so no event is said.

    ValueError unless there are a label and 0 <= start <= end.
    """
    if not (start or end or label):
        return 0.0, 0.0
    times = float(start), float(end)
    if not (label and 0.0 <= times[0] <= times[1] < math.inf):
        raise ValueError
    return times
