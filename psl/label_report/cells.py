"""Numbers as a summary shows them.

Owns how many digits and how much text there is.
"""

from __future__ import annotations

MAX_PATH = 400
"""Characters of a folder's name."""
MAX_SHOWN = 5
"""Classes at either end of the table of gains, and unknown mids."""


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"
