"""The command line of a label report.

Owns its words and their defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from psl.label_report.markdown import render
from psl.label_report.report import (
    Settings,
    draw_report,
    make_report,
    pictures,
    study_labels,
    write_report,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m psl.label_report",
        description="Say how good pseudo labels are, in numbers and pictures: against "
        "true events if there is a CSV of them, else by themselves.",
        epilog="example: python -m psl.label_report data/labels_2s "
        "--audio data/balanced --strong audioset_train_strong.tsv --out runs/report",
    )
    add = parser.add_argument
    add("labels", metavar="DIR", help="label dataset")
    add("--audio", required=True, help="the audio dataset it was made for")
    add("--out", required=True, type=Path, help="folder for the report")
    add(
        "--strong",
        metavar="CSV",
        help="true events: segment_id (the clip's key), start_time_seconds, "
        "end_time_seconds, label (mid), parted by tabs or commas",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="a label that reaches it says that the class is there (default 0.5)",
    )
    add(
        "--min-overlap",
        type=float,
        default=0.25,
        metavar="S",
        help="an event counts for a chunk if S seconds or half of it lie there "
        "(default 0.25)",
    )
    add(
        "--max-left-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the clips' events that may have an unknown mid or lie outside "
        "their clip (default 0)",
    )
    add("--clip", metavar="KEY", help="clip to draw (default: the most telling one)")
    add("--no-pictures", action="store_true", help="write numbers only")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.label_report``."""
    args = _parser().parse_args(argv)
    settings = Settings(
        labels=args.labels,
        audio=args.audio,
        strong=args.strong,
        threshold=args.threshold,
        min_overlap=args.min_overlap,
        max_left_out=args.max_left_out,
        clip=args.clip,
    )
    if not args.no_pictures:
        pictures()  # a missing library is said before the work, not after
    study = study_labels(settings)
    report = make_report(study)
    if not args.no_pictures:
        draw_report(study, report, args.out)
    write_report(report, args.out)
    print(render(report))
