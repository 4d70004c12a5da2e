"""The command line of a label report.

Owns its words and their defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from psl.labelling.progress import MADE_NAME, audio_of
from shards.remote.places import is_url
from shards.system.arguments import Parser
from shards.system.exits import typed_name


def default_out(labels: str) -> Path:
    """The folder of a report without --out; ValueError for labels at a URL."""
    if is_url(labels):
        raise ValueError(f"{labels}: not a folder; say with --out where to write")
    return Path(labels, "report")


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.label_report")
    parser = Parser(
        prog=name,
        description="Say how good pseudo labels are, in numbers and pictures: against "
        "true events if there is a CSV of them, else by themselves.",
        epilog=f"example: {name} data/labels_2s --strong audioset_train_strong.tsv",
    )
    add = parser.add_argument
    add("labels", metavar="DIR", help="label dataset")
    add(
        "--audio",
        metavar="AUDIO",
        help=f"the audio dataset it was made for (default: as {MADE_NAME} in DIR says)",
    )
    add("--out", type=Path, help="folder for the report (default: DIR/report)")
    _add_truth(parser)
    add(
        "--ontology",
        metavar="NAME",
        help="add the ancestors of weak labels and true events: audioset, or a file "
        "like its ontology.json",
    )
    add(
        "--before",
        metavar="DIR",
        help="the labels that these were calibrated from, to compare with (default: "
        f"as {MADE_NAME} says, if they are still there)",
    )
    add(
        "--corrections",
        metavar="FILE",
        help="what people said in psl review, to compare the labels with",
    )
    add("--clip", metavar="KEY", help="clip to draw (default: the most telling one)")
    add("--no-pictures", action="store_true", help="write numbers only")
    return parser


def _add_truth(parser: argparse.ArgumentParser) -> None:
    """Flags of true events, and of how labels are held against them."""
    add = parser.add_argument
    add(
        "--strong",
        metavar="CSV",
        help="true events: segment_id (the clip's key), start_time_seconds, "
        "end_time_seconds, label (mid or name), separated by tabs or commas; or as "
        "DESED has them",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="a class is present where its label reaches P (default 0.5)",
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
    add(
        "--rules",
        metavar="FILE",
        help="rules.json of psl events: the threshold and filter of each class that "
        "find the labels' events (default: --threshold)",
    )
    add(
        "--event-clips",
        type=int,
        default=1000,
        metavar="N",
        help="measure PSDS, F1 and segments on at most N clips, evenly spaced "
        "(default 1000)",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.label_report``."""
    parser = _parser()
    args = parser.parse_args(argv)
    # imported late, so that --help is quick
    from psl.evaluation.results import check_out
    from psl.label_report.drawing import draw_report, pictures
    from psl.label_report.markdown import render
    from psl.label_report.report import (
        Settings,
        make_report,
        study_labels,
        write_report,
    )

    out = check_out(args.out or default_out(args.labels))
    settings = Settings(
        labels=args.labels,
        audio=args.audio or audio_of(args.labels),
        strong=args.strong,
        threshold=args.threshold,
        min_overlap=args.min_overlap,
        max_left_out=args.max_left_out,
        rules=args.rules,
        event_clips=args.event_clips,
        ontology=args.ontology,
        before=args.before,
        corrections=args.corrections,
        clip=args.clip,
    )
    settings.check()
    for name in ("min_overlap", "max_left_out", "event_clips"):
        if args.strong is None and getattr(args, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} does nothing without --strong; give both")
    if not args.no_pictures:
        pictures()  # a missing library is said before the work, not after
    study = study_labels(settings)
    report = make_report(study)
    if not args.no_pictures:
        draw_report(study, report, out)
    write_report(report, out)
    print(render(report))
