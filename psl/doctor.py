"""The command that says what works on this machine, and what cures what does not.

Owns its words and what it prints; psl/checkup/ looks.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.system.arguments import Parser
from shards.system.exits import EXIT_DONE, EXIT_FAILED, message_of, run_main, typed_name

if TYPE_CHECKING:
    from psl.checkup.finding import Finding


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.doctor``."""
    name = typed_name("psl.doctor")
    parser = Parser(
        prog=name,
        description="Say what works on this machine and in a folder, in a few seconds: "
        "versions, processor, GPUs, disk, loader, what a shared folder promises, which "
        "extras are missing; with what cures it. Exits with 1 if something is broken "
        "that psl needs.",
        epilog=f"example: {name} /shared/experiments",
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path("."),
        help="folder for data and runs, in which a few files are written and removed "
        "(default: this one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder}: no such folder; make it, or name another")
    findings = list(_look(args.folder))
    broken = [finding.name for finding in findings if finding.state == "broken"]
    print(_as_json(findings, args.folder) if args.json else _text(findings))
    sys.exit(EXIT_FAILED if broken else EXIT_DONE)


def _look(folder: Path) -> Iterator[Finding]:
    from psl.checkup.packages import extras, versions  # imported late: --help is quick

    found = list(versions())
    yield from found
    if any(finding.state == "broken" for finding in found):
        yield from extras()
        return  # what follows needs all of them
    from psl.checkup.machine import cpu, gpus

    yield cpu()
    yield from gpus()
    yield from _look_at(folder)
    yield from extras()


def _look_at(folder: Path) -> Iterator[Finding]:
    from psl.checkup.finding import Finding
    from psl.checkup.folder import disk, promises
    from psl.checkup.loading import loader

    def each(place: Path) -> Iterator[Finding]:
        looks: list[tuple[str, Callable[[], list[Finding]]]] = [
            ("disk", lambda: [disk(place)]),
            ("folder", lambda: list(promises(place))),
            ("loader", lambda: [loader(place / "dataset")]),
        ]
        for name, look in looks:
            try:
                yield from look()
            except Exception as error:
                if (said := message_of(error)) is None:
                    raise
                yield Finding(
                    name, "broken", said, "name another folder: psl doctor DIR"
                )

    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".psl-doctor-") as place:
            yield from each(Path(place))
    except OSError as error:
        text = f"{folder}: nothing can be written: {error.strerror}"
        yield Finding("folder", "broken", text, "name another folder: psl doctor DIR")


def _text(findings: Sequence[Finding]) -> str:
    from psl.checkup.finding import render

    broken = [finding.name for finding in findings if finding.state == "broken"]
    end = f"broken: {', '.join(broken)}" if broken else "nothing is broken"
    return f"{render(findings)}\n{end}"


def _as_json(findings: Sequence[Finding], folder: Path) -> str:
    return json.dumps(
        {
            "version": 1,
            "host": socket.gethostname(),
            "folder": str(folder.resolve()),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "broken": [f.name for f in findings if f.state == "broken"],
            "findings": [
                {"name": f.name, "state": f.state, "text": f.text, "cure": f.cure}
                | {"facts": f.facts}
                for f in findings
            ],
        },
        indent=1,
        allow_nan=False,
    )


if __name__ == "__main__":
    run_main(main)
