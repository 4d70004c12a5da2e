"""CSV reports of clips that were left out, and the error when they are too many.

Owns the form that packing and labelling share.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from shards.errors import ShardError
from shards.system.files import write_atomic


def write_report(path: str | Path, lines: Iterable[Sequence[str]]) -> None:
    """Write a CSV of ``lines``: key, status and reason of each clip left out.

    Half characters, of file names that are not UTF-8, are escaped.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "status", "reason"])
    writer.writerows(lines)
    write_atomic(path, buffer.getvalue().encode("utf-8", "backslashreplace"))


def too_many(
    number: int, total: int, what: str, *, first: str, allow: str
) -> ShardError:
    """The error for more clips left out than are allowed.

    ``what`` says what is wrong with them, ``first`` where one is, ``allow`` is the
    option that would allow a fraction F.
    """
    return ShardError(
        f"{number} of {total} clips {what} (first: {first}); fix them, or allow up to "
        f"a fraction F with {allow}"
    )
