"""Teachers of every kind, and the command that lists and fetches published ones."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.teachers``; imported when it is asked for."""
    from psl.teachers.command import main as run

    run(argv)
