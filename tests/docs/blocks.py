"""The blocks of code of the pages, and which of them no test runs, and why.

Owns the languages that a fence may name and the marker of a block that is not run, a
comment that ends in the line above the fence: ``<!-- not run: needs a GPU -->``.

``python -m tests.docs.blocks`` lists the blocks that are not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import Page, Snippet, read_pages

RUN = ("sh", "python")
"""Languages of what a test runs."""
PARSED = ("yaml", "json")
"""Languages of files, which a test reads."""
SHOWN = ("text",)
"""What a command prints, how files lie, formulas."""
_MARKER = re.compile(r"^<!-- not run: (\S[^>]*?) -->\n\Z", re.MULTILINE)
_COMMENT = re.compile(r"^\s*<!--\s*not[ _-]?run", re.IGNORECASE | re.MULTILINE)
_INSTALLS = re.compile(
    r"^\s*[!%]?(?:sudo |python -m )?(?:pip3?|apt(?:-get)?|conda|npm) .*", re.MULTILINE
)
_FENCE = re.compile(r"^\s*(?:```|~~~)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    snippet: Snippet
    reason: str | None
    """Why it is not run; None if it is not marked."""

    @property
    def place(self) -> str:
        """The page and the line at which the code begins."""
        return f"{self.page}:{self.snippet.line}"


def blocks_of(page: Page) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    lines = page.text.splitlines(keepends=True)
    blocks = []
    for snippet in page.blocks():
        above = "".join(lines[: snippet.line - 2])
        marker = _MARKER.search(above)
        reason = " ".join(marker.group(1).split()) if marker else None
        blocks.append(Block(page.path, snippet, reason))
    return blocks


def problems(page: Page, root: Path) -> Iterator[str]:
    """What is wrong with the fences and markers of a page, as "page:line: what"."""
    blocks = blocks_of(page)
    yield from _wrong_marks(page, blocks, root)
    inside: set[int] = set()
    for block in blocks:
        first = block.snippet.line
        inside |= set(range(first - 1, first + block.snippet.text.count("\n") + 1))
        if block.reason is None and block.snippet.language in RUN:
            for line in _INSTALLS.findall(block.snippet.text):
                yield f"{block.place}: {line!r} would change the tests' environment"
        known = (*RUN, *PARSED, *SHOWN)
        if block.snippet.language not in known and block.reason is None:
            yield (
                f"{block.place}: fence of {block.snippet.language or 'no language'!r}; "
                f"expected {', '.join(known)}, or a marker that says why it is not run"
            )
    for number, line in enumerate(page.text.splitlines(), 1):
        if _FENCE.match(line) and number not in inside:
            yield f"{page.path}:{number}: a fence that is not read; begin it with ```"


def _wrong_marks(page: Page, blocks: list[Block], root: Path) -> Iterator[str]:
    for block in blocks:
        if block.reason is None:
            continue
        if block.snippet.language in (*PARSED, *SHOWN):
            yield f"{block.place}: marked, but {block.snippet.language} is never run"
        for name in re.findall(r"test_\w+", block.reason):
            if not any(root.glob(f"tests/**/{name}.py")):
                yield f"{block.place}: its marker names {name}.py, which is no test"
    num_markers = len(_COMMENT.findall(page.text))
    num_marked = sum(block.reason is not None for block in blocks)
    if num_markers != num_marked:
        yield (
            f"{page.path}: {num_markers} markers and {num_marked} marked blocks; write "
            "<!-- not run: REASON --> and the fence in the next line"
        )


def main() -> None:
    """Print the blocks that are not run, and why."""
    for page in read_pages(Path(__file__).parents[2]):
        for block in blocks_of(page):
            if block.reason is not None:
                print(f"{block.place}: {block.reason}")


if __name__ == "__main__":
    main()
