"""Try a model in the browser: drop or record a sound, and see its tags over time.

Owns the words of the command; psl/trying/ has the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.demo")
    parser = Parser(
        prog=name,
        description="Open a page on this machine on which one drops or records a sound "
        "and sees what a model hears in it, over time. Nothing leaves the machine. "
        "(make demo, in a clone, is another thing: the whole method in small.)",
        epilog=f"example: {name} runs/psl_2s",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="run, checkpoint, export, or fetched teacher")
    add("--window", type=float, default=2.0, metavar="S", help="heard at a time (2)")
    add(
        "--hop", type=float, default=0.5, metavar="S", help="from one to the next (0.5)"
    )
    add("--port", type=int, default=0, help="of the page (default: a free one)")
    add("--no-browser", action="store_true", help="print the address only")
    add("--device", help="cpu, cuda, ... (default: the GPU, if any)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.demo``."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 <= args.port < 65536:
        parser.error(f"--port {args.port}: expected 0 to 65535")
    from psl.teachers.named import check_model

    check_model(args.model)
    from psl.serving.local import LocalServer
    from psl.tagger import load  # loads torch
    from psl.tagging.windows import Cut
    from psl.trying.session import MAX_BYTES, Session

    cut = Cut(args.window, args.hop)
    session = Session(load(args.model, device=args.device), args.model, cut)
    with LocalServer(session.routes, port=args.port, max_body=MAX_BYTES) as server:
        message = f"{args.model}: {server.url}\nend with Ctrl-C"
        server.show(message, in_browser=not args.no_browser)


if __name__ == "__main__":
    run_main(main)
