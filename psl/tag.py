"""The command that says what is heard when in audio files and streams.

Owns its words; psl/tagging does it. What loads torch is imported late, so that --help
and a wrong value are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psl.tagging.interrupts import keep_interrupts
from psl.tagging.live import HOP_SECONDS, WINDOW_SECONDS, listen, printer
from psl.tagging.outputs import OF_EVENTS, SUFFIXES, format_of, import_pyarrow
from psl.tagging.records import Settings
from psl.tagging.rules import DEFAULT_THRESHOLD, Rules, read_thresholds
from psl.tagging.windows import MIN_LEVEL_DBFS, Cut
from psl.teachers.named import check_model
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name

if TYPE_CHECKING:
    from psl.tagger import Tagger

_EXAMPLES = """examples:
  psl tag runs/student dog.mp3
  psl tag runs/student yard.flac --window 2 --hop 1 --threshold 0.3 --events
  psl tag runs/student recordings --window 2 --thresholds t.json --out tags.csv --jobs 4
  psl tag runs/student yard.flac --window 2 --events --out yard.txt --timeline yard.png
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | psl tag runs/student --listen
"""


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.tag")
    parser = Parser(
        prog=name,
        description="Say what is heard when: in audio files of any length, folders of "
        "them, URLs, and streams.",
        epilog=_EXAMPLES.replace("psl tag", name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="run folder, checkpoint folder, ONNX file, or fetched teacher",
    )
    add("places", metavar="FILE", nargs="*", help="file, folder, http(s) URL, or - ")
    _add_windows(parser)
    _add_rules(parser)
    _add_outputs(parser)
    live = parser.add_argument_group("streams")
    live.add_argument(
        "--listen",
        action="store_true",
        help="print events of raw mono s16le PCM on stdin as they begin and end "
        f"(windows of {WINDOW_SECONDS:g} s every {HOP_SECONDS:g} s by default)",
    )
    live.add_argument(
        "--rate", type=int, metavar="HZ", help="of that PCM (default: the model's)"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU, if any)")
    return parser


def _add_windows(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("windows (default: each file is one)").add_argument
    add("--window", type=float, metavar="S", help="score windows of so many seconds")
    add("--hop", type=float, metavar="S", help="one every so many seconds (--window)")
    add("--frames", action="store_true", help="the model's own frames as windows")
    add(
        "--min-level",
        type=float,
        default=MIN_LEVEL_DBFS,
        metavar="DB",
        help="windows below this level are silence and get no tags "
        f"(default {MIN_LEVEL_DBFS:g} dB of full scale)",
    )


def _add_rules(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is reported").add_argument
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="classes from this probability on (default: the top 5 of a window; for "
        f"events {DEFAULT_THRESHOLD:g})",
    )
    add("--thresholds", metavar="FILE", help="one per class, of psl thresholds")
    add("--top-k", type=int, metavar="K", help="at most K tags of a window")
    add("--all", action="store_true", help="every class of every window")
    add("--events", action="store_true", help="join windows over the threshold")
    add("--min-duration", type=float, default=0.0, metavar="S", help="of an event")
    add(
        "--max-gap",
        type=float,
        default=0.0,
        metavar="S",
        help="events of a class no further apart are one",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="JSON lines; the same as --format json")
    add("--format", choices=sorted(SUFFIXES), help="default: as the name of --out says")
    add(
        "--out",
        metavar="FILE|DIR",
        help="one table of all files (.jsonl, .csv, .parquet, .txt for Audacity, "
        ".selections.txt for Raven), or a folder/ for one per file",
    )
    add("--timeline", metavar="PNG", type=Path, help="spectrogram over tags of a file")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.tag``."""
    args = _parser().parse_args(argv)
    kind = _check(args)
    check_model(args.model)
    from psl.tagger import load  # loads torch

    tagger = load(args.model, device=args.device)
    settings = _settings(args, tagger, kind)
    try:
        with keep_interrupts():
            if args.listen:
                _listen(args, tagger, settings)
            else:
                _tag(args, tagger, settings, kind)
    except BrokenPipeError:  # as of head; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check(args: argparse.Namespace) -> str:
    """The format of the output. ValueError for flags that do not go together."""
    _cut(args)
    if args.listen == bool(args.places):
        raise ValueError("give either files or --listen")
    if args.rate is not None and not args.listen:
        raise ValueError("--rate is that of raw PCM; it goes with --listen")
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: expected 1 or more")
    if args.listen and (args.out or args.timeline or args.all or args.top_k):
        raise ValueError("--listen prints events; it takes no output and no --all")
    if args.json and args.format not in (None, "json"):
        raise ValueError(f"--json and --format {args.format} contradict each other")
    kind = "json" if args.json else args.format
    if args.out and not _is_folder(args.out):
        kind = kind or format_of(args.out)
    kind = kind or ("csv" if args.out else "text")
    if kind == "parquet":
        import_pyarrow()
        if not args.out:
            raise ValueError("Parquet is not for a terminal; name a file with --out")
    _check_rules(args, events=args.events or args.listen or kind in OF_EVENTS)
    if args.timeline:
        if not (args.window or args.frames):
            raise ValueError("--timeline needs --window S or --frames")
        from psl.tagging.timeline import check_matplotlib

        check_matplotlib()
    return kind


def _check_rules(args: argparse.Namespace, *, events: bool) -> None:
    """ValueError for a rule that would decide nothing."""
    if args.all and events:
        raise ValueError("--all lists windows, which events are not made of")
    if args.all and (args.threshold is not None or args.thresholds):
        raise ValueError("--all lists every class, whatever the thresholds; drop one")
    if args.top_k and events:
        raise ValueError("--top-k is of windows; for events use a threshold")
    if (args.min_duration or args.max_gap) and not events:
        raise ValueError("--min-duration and --max-gap are of events; add --events")


def _is_folder(out: str) -> bool:
    return out.endswith("/") or os.path.isdir(out)


def _cut(args: argparse.Namespace) -> Cut:
    window, hop = args.window, args.hop
    if args.listen and window is None and not args.frames:
        window, hop = WINDOW_SECONDS, hop or HOP_SECONDS
    return Cut(window, hop, args.frames, args.min_level)


def _settings(args: argparse.Namespace, tagger: Tagger, kind: str) -> Settings:
    threshold, by_class = args.threshold, None
    if args.thresholds:
        stored, by_class = read_thresholds(args.thresholds, tagger.classes)
        threshold = stored if threshold is None else threshold
    rules = Rules(
        threshold,
        by_class,
        args.top_k,
        args.all,
        args.min_duration,
        args.max_gap,
    )
    events = args.events or args.listen or kind in OF_EVENTS
    return Settings(_cut(args), rules, events)


def _listen(args: argparse.Namespace, tagger: Tagger, settings: Settings) -> None:
    from psl.tagging.readers import open_live

    rate = args.rate or tagger.sample_rate
    write = printer(sys.stdout.buffer, as_json=args.json)
    for event in listen(
        open_live(rate=rate, sample_rate=tagger.sample_rate),
        tagger.score,
        tagger.classes,
        rate=tagger.sample_rate,
        cut=settings.cut,
        rules=settings.rules,
        frame_samples=tagger.frame_samples,
    ):
        write(event)


def _tag(
    args: argparse.Namespace, tagger: Tagger, settings: Settings, kind: str
) -> None:
    from psl.tagger import load
    from psl.tagging.job import Job, tag_to_file, tag_to_folder, tag_to_stream
    from psl.tagging.readers import list_files

    files = list_files(args.places)
    if len(files) > 1 and args.timeline:
        raise ValueError("--timeline is of one file; name one")
    if args.timeline and "-" in files:
        raise ValueError("--timeline reads its file twice, which stdin cannot be")
    if kind == "audacity" and len(files) > 1 and not _is_folder(args.out or ""):
        raise ValueError(
            "Audacity labels have no column for the file; name a folder: --out DIR/"
        )
    job = Job(args.model, files, settings, kind, args.jobs, args.device)
    if args.out is None:
        done = tag_to_stream(job, tagger, load, sys.stdout.buffer)
    elif _is_folder(args.out):
        done = tag_to_folder(job, tagger, load, Path(args.out))
    else:
        done = tag_to_file(job, tagger, load, Path(args.out))
    done.check(len(files))
    if args.timeline:
        from psl.tagging.timeline import write_timeline

        write_timeline(args.timeline, next(iter(files)), tagger, settings)


if __name__ == "__main__":
    run_main(main)
