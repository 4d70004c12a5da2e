"""The command ``python -m shards.download``: AudioSet's lists, and the audio of a list.

Owns its words; shards/downloading does the work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.downloading.lists import LISTS, fetch_list
from shards.system.arguments import Parser
from shards.system.exits import JobError, run_main, typed_name

if TYPE_CHECKING:
    from shards.downloading.job import Pace, State
    from shards.downloading.video import FetchSettings

_DESCRIPTION = """Fetch AudioSet: its lists (--lists), or the audio of a list's segments
(--segments), each cut to a mono FLAC file that shards.pack finds. Audio comes
through yt-dlp. You are responsible for your use: YouTube's terms of service
forbid downloads that YouTube does not offer, and videos belong to their makers."""
_EXAMPLES = """examples:
  psl download --lists eval class_labels --out lists
  psl download --segments lists/eval_segments.csv --out audio/eval --dry-run
  psl download --segments lists/eval_segments.csv --out audio/eval --jobs 4 \\
      --sleep 2 --limit-rate 2M --cookies cookies.txt
  psl download --segments lists/eval_segments.csv --out audio/eval --retry-failed
"""


def _parser() -> argparse.ArgumentParser:
    name = typed_name("shards.download")
    parser = Parser(
        prog=name,
        description=_DESCRIPTION,
        epilog=_EXAMPLES.replace("psl download", name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--lists",
        nargs="+",
        metavar="NAME",
        help=f"fetch lists: {', '.join(LISTS)}; or all",
    )
    what.add_argument(
        "--segments",
        metavar="FILE",
        help="fetch the audio of a segments CSV or a strong TSV",
    )
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder for the lists or the audio")
    add("--json", action="store_true", help="print the summary as JSON")
    _add_lists(parser)
    _add_what(parser)
    _add_pace(parser)
    return parser


def _add_lists(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("with --lists").add_argument
    add("--lists-from", metavar="PLACE", help="folder or URL that has copies of them")
    add(
        "--any-edition",
        action="store_true",
        help="take a list whose hash is not that of the first edition",
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("with --segments").add_argument
    add("--dry-run", action="store_true", help="only count and estimate")
    add(
        "--retry-failed",
        action="store_true",
        help="try those that failed, and nothing else",
    )
    add("--at-most", type=int, metavar="N", help="stop after so many videos")
    add(
        "--url-template",
        metavar="URL",
        help="where a recording is, with {id} in it (default: YouTube)",
    )
    add(
        "--files-are",
        choices=("recordings", "segments"),
        default="recordings",
        help="what is there: whole recordings (default), or segments already cut",
    )
    add("--format", metavar="F", help="yt-dlp's format (default bestaudio/best)")
    add("--sample-rate", type=int, default=16000, metavar="HZ")
    add("--cookies", metavar="FILE", help="cookies of your account, Netscape's form")
    add("--proxy", metavar="URL", help="http(s):// or socks5://HOST:PORT")


def _add_pace(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pace, with --segments").add_argument
    add("--jobs", type=int, default=2, metavar="N", help="processes (default 2)")
    add(
        "--sleep",
        type=float,
        default=0.0,
        metavar="S",
        help="each job's pause between two videos, in seconds",
    )
    add("--limit-rate", metavar="R", help="bytes/s of all jobs together, as 500K or 2M")
    add(
        "--timeout",
        type=float,
        default=20.0,
        metavar="S",
        help="give a silent connection up after so many seconds (default 20)",
    )
    add(
        "--video-timeout",
        type=float,
        default=1800.0,
        metavar="S",
        help="give a video up after so many seconds (default 1800)",
    )
    add(
        "--backoff",
        type=float,
        default=60.0,
        metavar="S",
        help="pause when the site asks for fewer requests, doubled five times at most "
        "(default 60)",
    )
    add(
        "--max-mb",
        type=float,
        default=1000.0,
        metavar="N",
        help="give a video up that is larger (default 1000 MB)",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.download``."""
    args = _parser().parse_args(argv)
    if args.lists:
        _fetch_lists(args)
    else:
        _fetch_segments(args)


def _fetch_lists(args: argparse.Namespace) -> None:
    names = list(LISTS) if args.lists == ["all"] else args.lists
    for name in names:
        if name not in LISTS:
            raise ValueError(
                f"--lists {name}: unknown; expected all, or some of {', '.join(LISTS)}"
            )
    if args.proxy:
        raise ValueError("--proxy is for --segments; for lists set https_proxy")
    lines = {}
    for name in names:
        lines[name] = fetch_list(
            name,
            Path(args.out),
            place=args.lists_from,
            check_hash=not args.any_edition,
        )
        if not args.json:
            print(lines[name], flush=True)
    if args.json:
        print(json.dumps(lines, indent=1))


def _fetch_segments(args: argparse.Namespace) -> None:
    if args.lists_from or args.any_edition:
        raise ValueError("--lists-from and --any-edition are for --lists")
    settings, pace = _settings(args), _pace(args)
    if args.at_most is not None and args.at_most < 1:
        raise ValueError(f"--at-most {args.at_most}: expected 1 or more")
    from shards.downloading import estimate, job  # with decoders, which take a second
    from shards.downloading.video import import_yt_dlp
    from shards.downloading.wanted import read_wanted

    state = job.look(read_wanted(args.segments), settings.out)
    if args.dry_run:
        videos = state.wanted(retry_failed=args.retry_failed)[: args.at_most]
        numbers = estimate.estimate(state, videos, settings, pace)
        _show(args, state, settings.out, {"estimate": numbers}, estimate.words(numbers))
        return
    import_yt_dlp()
    try:
        job.download(
            state,
            settings,
            pace,
            retry_failed=args.retry_failed,
            at_most=args.at_most,
        )
    except BaseException:
        if settings.out.is_dir():
            with contextlib.suppress(OSError):
                job.write_lists(state, settings.out, Path(args.segments).stem)
        raise
    lists = job.write_lists(state, settings.out, Path(args.segments).stem)
    present, missing = map(str, lists)
    line = (
        f"{present}: for shards.pack --segments; {missing}: what is not here, and why"
    )
    _show(args, state, settings.out, {"present": present, "missing": missing}, line)
    if failed := state.counts()["failed"]:
        raise JobError(
            f"{failed} segments failed; {missing} says why, --retry-failed tries them "
            "again"
        )


def _show(
    args: argparse.Namespace,
    state: State,
    out: Path,
    more: dict[str, object],
    line: str,
) -> None:
    from shards.downloading.job import summary

    numbers = summary(state, out)
    if args.json:
        print(json.dumps({**numbers, **more}, indent=1))
        return
    print(
        f"{out}: of {numbers['segments']} segments {numbers['done']} done "
        f"({numbers['short']} of them short), {numbers['gone']} gone, "
        f"{numbers['failed']} failed, {numbers['todo']} to do"
    )
    print(line)


def _settings(args: argparse.Namespace) -> FetchSettings:
    from shards.downloading.video import YOUTUBE, FetchSettings

    template = args.url_template or YOUTUBE
    _check_template(template)
    cookies = Path(args.cookies) if args.cookies else None
    if cookies is not None and not cookies.is_file():
        raise ValueError(f"--cookies {cookies}: no such file")
    if args.sample_rate not in range(8000, 192001):
        raise ValueError(f"--sample-rate {args.sample_rate}: expected 8000 to 192000")
    if not args.max_mb > 0:
        raise ValueError(f"--max-mb {args.max_mb:g}: expected more than 0")
    rate = parse_rate(args.limit_rate) if args.limit_rate else None
    return FetchSettings(
        out=Path(args.out),
        url_template=template,
        is_cut=args.files_are == "segments",
        sample_rate=args.sample_rate,
        format=args.format or FetchSettings.format,
        bytes_per_second=None if rate is None else rate / max(args.jobs, 1),
        cookies=cookies,
        proxy=args.proxy,
        silence_seconds=_seconds(args.timeout, "--timeout", least=0.1),
        max_bytes=round(args.max_mb * 1e6),
    )


def _check_template(template: str) -> None:
    try:
        filled = template.format(id="x")
    except (ValueError, KeyError, IndexError, AttributeError):
        filled = template
    if "{id}" not in template or filled != template.replace("{id}", "x"):
        raise ValueError(
            f"--url-template {template!r}: expected a URL with {{id}}, no other braces"
        )
    if not re.match(r"https?://", template):
        raise ValueError(f"--url-template {template!r}: expected http:// or https://")


def _pace(args: argparse.Namespace) -> Pace:
    from shards.downloading.job import Pace

    if not 1 <= args.jobs <= 64:
        raise ValueError(f"--jobs {args.jobs}: expected 1 to 64")
    return Pace(
        args.jobs,
        _seconds(args.sleep, "--sleep"),
        _seconds(args.video_timeout, "--video-timeout", least=0.1),
        _seconds(args.backoff, "--backoff"),
    )


def _seconds(value: float, flag: str, *, least: float = 0.0) -> float:
    if not least <= value <= 86400:
        raise ValueError(f"{flag} {value:g}: expected {least:g} to 86400 seconds")
    return value


def parse_rate(text: str) -> float:
    """Bytes per second from text such as 500K or 2M (of 1024). Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip().upper())
    rate = float(match[1]) * 1024.0 ** "_KMG".index(match[2] or "_") if match else 0.0
    if rate < 1:
        raise ValueError(f"--limit-rate {text}: expected bytes per second, as 500K")
    return rate


if __name__ == "__main__":
    run_main(main)
