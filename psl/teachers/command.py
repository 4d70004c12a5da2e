"""The command line of published teachers: list them, fetch one, their classes.

Owns its words and the printed table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from psl.teachers.audioset import audioset_classes, select_classes
from psl.teachers.named import teachers_folder
from psl.teachers.published import TEACHERS, PublishedTeacher, teacher_named
from shards.system.arguments import Parser
from shards.system.exits import typed_name


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.teachers``."""
    args = _parser().parse_args(argv)
    if args.action == "fetch":
        _fetch(args)
    elif args.action == "classes":
        chosen = select_classes(args.names) if args.names else audioset_classes()
        print(chosen.to_csv(), end="")
    elif args.json:
        print(json.dumps(_facts(args.cache), indent=1))
    else:
        print(_table(args.cache))


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.teachers")
    parser = Parser(
        prog=name,
        description="List the published AudioSet taggers that can be teachers. A\n"
        "fetched one is named as teacher=NAME.",
        epilog="fetch NAME [--file PATH | --mirror URL] [--cache DIR]: download a "
        "teacher, or take it from PATH, and make a checkpoint of it\n"
        "classes [NAME ...]: print AudioSet's classes, or some, as a class list\n\n"
        f"example: {name} fetch mn04",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    cache_help = "cache folder, as loader.cache (default: the user's)"
    parser.add_argument("--cache", type=Path, help=cache_help)
    actions = parser.add_subparsers(dest="action", metavar="{fetch,classes}")
    fetch = actions.add_parser(
        "fetch",
        help="more with fetch --help",
        description="Download a published teacher, check it, and make a checkpoint "
        "folder of it in the cache. What was cut goes on.",
    )
    fetch.add_argument("name", help="a name in the list")
    fetch.add_argument(
        "--file",
        type=Path,
        metavar="PATH",
        help="take the published file from here (a folder, if there are several)",
    )
    fetch.add_argument(
        "--mirror", metavar="URL", help="folder with files of the same names"
    )
    fetch.add_argument("--cache", type=Path, default=argparse.SUPPRESS, help=cache_help)
    classes = actions.add_parser(
        "classes",
        help="more with classes --help",
        description="Print AudioSet's 527 classes, or those named, as a class list for "
        "shards.pack. By Google, CC BY 4.0.",
    )
    classes.add_argument("names", nargs="*", help="display names or machine ids")
    return parser


def _fetch(args: argparse.Namespace) -> None:
    teacher = teacher_named(args.name)
    if args.file and args.mirror:
        raise ValueError("--file and --mirror: name one source")
    print(f"{teacher.name}: {teacher.title}; licence: {teacher.licence}")
    print(f"  {teacher.citation}", flush=True)
    from psl.teachers.fetch import fetch  # loads torch

    folder = fetch(
        teacher, teachers_folder(args.cache), file=args.file, mirror=args.mirror
    )
    print(f"{folder}: ready; use it as teacher={teacher.name}")


def _facts(cache: Path | None) -> list[dict[str, object]]:
    return [
        {
            **asdict(teacher),
            "num_classes": len(audioset_classes()),
            "check": teacher.check,
            "folder": _fetched(teacher, cache),
        }
        for teacher in TEACHERS.values()
    ]


def _fetched(teacher: PublishedTeacher, cache: Path | None) -> str | None:
    folder = teachers_folder(cache) / teacher.name
    return str(folder) if folder.exists() else None


def _table(cache: Path | None) -> str:
    head = ("name", "mAP %", "Hz", "checked", "tried", "fetched", "licence", "what")
    rows = [
        (
            teacher.name,
            f"{teacher.audioset_map:.1f}",
            str(teacher.sample_rate),
            "-" if teacher.setting else teacher.check,
            "yes" if teacher.is_tried else "no",
            "yes" if _fetched(teacher, cache) else "-",
            teacher.licence.partition(";")[0],
            teacher.title,
        )
        for teacher in TEACHERS.values()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]
    notes = (
        "",
        "mAP: on AudioSet's evaluation set, according to the authors; all know "
        "AudioSet's 527 classes.",
        "checked: what of the file is compared with this list; tried: whether this "
        "project has run it.",
        f"fetched teachers are in {teachers_folder(cache)}; --json has addresses and "
        "citations.",
        "ced_*: loaded by transformers, with code of its own; teacher=ced_tiny says "
        "how.",
    )
    return "\n".join([*(line.rstrip() for line in lines), *notes])
