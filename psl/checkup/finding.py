"""One thing that was looked at, and how a list of them is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "note", "broken"]

_WIDTH = 88


@dataclass(frozen=True)
class Finding:
    """What was found, and what cures it."""

    name: str
    state: State
    """broken: something that every user needs does not work."""
    text: str
    cure: str | None = None
    """What to do, a command where there is one; None where nothing is wrong."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same as numbers and plain values."""


def render(findings: Iterable[Finding]) -> str:
    """A line for each, with its cure below."""
    lines = []
    for f in findings:
        head = f"{f.state:7} {f.name:20} "
        lines += textwrap.wrap(
            f.text,
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * 29,
            break_on_hyphens=False,
            break_long_words=False,
        )
        if f.cure:
            lines.append(f"{'':29}-> {f.cure}")
    return "\n".join(lines)
