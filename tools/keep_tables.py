"""Run a tool and keep the tables that it prints as docs/results/FILE.json.

    python -m tools.keep_tables label_forms sizes speed -- tools.bench.label_sizes
    python -m tools.keep_tables tagging --copy docs/tagging.md --date D --command C

The first form names the tables in the order in which the module prints them. The second
copies those of a page, below marks <!-- table: tagging.NAME -->, whose results were not
kept, and says so. Owns the command.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from shards.errors import ShardError
from shards.system.exits import JobError, run_main
from tools.results.pages import tables_of
from tools.results.stored import Stored, cells_of, measured_now, write_stored

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def run(names: Sequence[str], command: Sequence[str]) -> Stored:
    """The tables that ``python -m COMMAND`` prints, by ``names`` in their order."""
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="")
    if done.returncode:
        raise JobError(f"{shlex.join(command)}: exit status {done.returncode}")
    found = [table.lines for table in tables_of(done.stdout) if table.lines]
    if len(found) != len(names):
        raise ShardError(
            f"{shlex.join(command)}: printed {len(found)} tables, expected "
            f"{len(names)}: {', '.join(names)}"
        )
    tables = {n: cells_of(lines) for n, lines in zip(names, found, strict=True)}
    said = shlex.join(["python", "-m", *command])
    return replace(measured_now(tables=tables), command=said)


def copy(page: Path, file: str, *, date: str, command: str) -> Stored:
    """The tables of ``page`` that its marks call FILE.NAME."""
    tables = {
        table.results.partition(".")[2]: cells_of(table.lines)
        for table in tables_of(page.read_text(encoding="utf-8"))
        if table.results and table.results.startswith(f"{file}.") and table.lines
    }
    if not tables:
        raise ShardError(f"{page}: no table below a mark <!-- table: {file}.NAME -->")
    source = f"copied from docs/{page.name}; the raw results were not kept"
    return Stored(date=date, command=command, source=source, tables=tables)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.keep_tables``."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    own, command = words[:end], words[end + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m tools.keep_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="docs/results/FILE.json")
    add("names", nargs="*", metavar="TABLE", help="of each table that is printed")
    add("--copy", type=Path, metavar="MD", help="copy tables of a page instead")
    add("--date", help="with --copy: when they were measured")
    add("--command", help="with --copy: what had printed them")
    add("--folder", type=Path, default=RESULTS, help="instead of docs/results")
    args = parser.parse_args(own)
    if (args.copy is None) != bool(command) or bool(command) != bool(args.names):
        parser.error("expected FILE TABLE ... -- MODULE ..., or FILE --copy MD")
    if args.copy is not None and not (args.date and args.command):
        parser.error("--copy needs --date and --command")
    if args.copy is None:
        stored = run(args.names, command)
    else:
        stored = copy(args.copy, args.file, date=args.date, command=args.command)
    write_stored(args.folder / f"{args.file}.json", stored)


if __name__ == "__main__":
    run_main(main)
