"""The part of a page of docs/ that a tool writes, between two marks.

Owns the marks.
"""

from __future__ import annotations

from pathlib import Path

from shards.errors import ShardError
from shards.system.files import write_atomic

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def fill_page(page: Path, text: str) -> None:
    """Replace what is between the two marks in ``page``.

    Raises ShardError unless the page has each of them once, in order.
    """
    old = page.read_text(encoding="utf-8")
    if [old.count(BEGIN), old.count(END)] != [1, 1] or old.index(BEGIN) > old.index(
        END
    ):
        raise ShardError(f"{page}: expected one line {BEGIN} and below it one {END}")
    before, rest = old.split(BEGIN)
    write_atomic(
        page, f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{rest.split(END)[1]}"
    )
