"""The pages of the documentation as blocks of code, inline code and links.

Owns Markdown as these pages use it. Knows nothing of what the code in them means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """Text of a page and the line it begins at, from 1."""

    text: str
    line: int
    language: str = ""
    """The word after the fence; empty for inline code, links and bare fences."""


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    """Relative to the repository."""
    text: str

    def blocks(self) -> Iterator[Snippet]:
        """The fenced blocks."""
        for match in _FENCE.finditer(self.text):
            line = self._line(match.start()) + 1
            yield Snippet(match.group(2), line, match.group(1))

    def inline(self) -> Iterator[Snippet]:
        """The inline code, each on one line."""
        prose = self._prose()
        for match in _INLINE.finditer(prose):
            yield Snippet(" ".join(match.group(1).split()), self._line(match.start()))

    def links(self) -> Iterator[Snippet]:
        """The targets of links and pictures."""
        prose = _INLINE.sub(_blank, self._prose())
        for match in _LINK.finditer(prose):
            yield Snippet(match.group(1), self._line(match.start()))

    def anchors(self, root: Path) -> set[str]:
        """The ids of headings, as GitHub and the site both make them.

        A page that consists of another file, relative to ``root``, has the headings of
        that file.
        """
        text = _SNIPPET.sub(
            lambda found: (root / found.group(1)).read_text(), self.text
        )
        headings = _HEADING.findall(_FENCE.sub("", text))
        return {_slug(heading) for heading in headings}

    def _prose(self) -> str:
        """The text with fenced blocks blanked, at the same offsets."""
        return _FENCE.sub(_blank, self.text)

    def _line(self, offset: int) -> int:
        return self.text.count("\n", 0, offset) + 1


def read_pages(root: Path) -> list[Page]:
    """Every page of the repository ``root``, by path."""
    paths = [
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        *root.glob(".github/**/*.md"),
    ]
    return [
        Page(path.relative_to(root), path.read_text(encoding="utf-8"))
        for path in sorted(paths)
    ]


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())


def _slug(heading: str) -> str:
    words = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return re.sub(r"[\s-]+", "-", words)
