"""Whether the tables in the pages are what the stored results say.

    python -m tools.check_tables            # a line for each difference
    python -m tools.check_tables --write    # put the results into the pages

A table of results has <!-- table: FILE.TABLE --> above it, and its numbers are in
docs/results/FILE.json; tools.keep_tables and the tools of tools/paper make these files.
Owns the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.errors import ShardError
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.paper.page import BEGIN, END
from tools.paper.real_tables import PAGE, render
from tools.results.pages import problems, rewritten, tables_of
from tools.results.tables import Results

ROOT = Path(__file__).parents[1]


def pages_of(root: Path) -> list[Path]:
    """README, CONTRIBUTING and the pages of docs."""
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def check(root: Path) -> Iterator[str]:
    """A line for each thing that is wrong, in all pages and stored results."""
    results = Results(root / "docs" / "results")
    shown = set()
    for page in pages_of(root):
        name = str(page.relative_to(root))
        yield from problems(page, name, results.render)
        text = page.read_text(encoding="utf-8")
        shown |= {table.results for table in tables_of(text)}
        if page.stem == PAGE and PAGE in results.files():
            yield from _check_text(name, text, results)
    for file in results.files():
        for table in results.tables(file):
            if table not in shown:
                yield f"docs/results/{file}.json: no page has the table {table}"


def _check_text(name: str, text: str, results: Results) -> Iterator[str]:
    """The sentences between the tables of real sound, which are results as well."""
    real = results.stored(PAGE).real
    if real and render(real).strip() != text.split(BEGIN)[-1].split(END)[0].strip():
        yield f"{name}: what is between {BEGIN} and {END} is not that of {PAGE}.json"


def write(root: Path) -> list[str]:
    """Rewrite the pages that differ; their names."""
    results = Results(root / "docs" / "results")
    written = []
    for page in pages_of(root):
        text = page.read_text(encoding="utf-8")
        if (new := rewritten(text, results.render)) != text:
            write_atomic(page, new)
            written.append(str(page.relative_to(root)))
    return written


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.check_tables``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--write", action="store_true", help="rewrite tables that differ"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the clone (this one)")
    args = parser.parse_args(argv)
    for name in write(args.root) if args.write else []:
        print(f"{name}: tables written")
    found = list(check(args.root))
    if found:
        print("\n".join(found))
        raise ShardError(
            f"{len(found)} differences; where docs/results is right, python -m "
            "tools.check_tables --write"
        )
    print("all tables of results are what docs/results says")


if __name__ == "__main__":
    run_main(main)
