"""Look at pseudo labels in the browser, and correct them.

Owns the words of the command; psl/reviewing/ has the page, and psl/data/corrections.py
what a decision means for training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name

if TYPE_CHECKING:
    from psl.data.pseudo_labels import PseudoLabels
    from psl.reviewing.queue import Item, Rule
    from psl.reviewing.store import Store
    from shards.dataset.clips import AudioDataset
    from shards.format.classes import Classes


def _parser() -> argparse.ArgumentParser:
    name = typed_name("psl.review")
    parser = Parser(
        prog=name,
        description="Open a page on this machine with chunks whose pseudo labels are "
        "doubtful, to hear, see, and correct them. Each decision is written at once.",
        epilog=f"""examples:
  {name} data/labels_2s
  {name} data/labels_2s --class Dog --scores 0.3 0.7
  psl train ... data.corrections=corrections.jsonl
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("labels", metavar="LABELS", help="label dataset")
    add("--audio", metavar="DIR", help="its audio dataset (default: as made.json says)")
    add(
        "--out",
        type=Path,
        default=Path("corrections.jsonl"),
        metavar="FILE",
        help="decisions are added to it (default %(default)s)",
    )
    add("--number", type=int, default=100, metavar="N", help="chunks (default 100)")
    pick = parser.add_argument_group(
        "which chunks (default: where teacher and weak labels disagree most)"
    ).add_argument
    pick("--class", dest="class_name", metavar="NAME", help="of a class, or a mid")
    pick(
        "--scores",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="labels between these, of any class or of --class (default for it "
        "0.2 0.8)",
    )
    pick("--list", type=Path, metavar="FILE", help="of the clips whose keys it lists")
    page = parser.add_argument_group("page").add_argument
    page("--port", type=int, default=0, help="of the page (default: a free one)")
    page("--no-browser", action="store_true", help="print the address only")
    studio = parser.add_argument_group("Label Studio, instead of a page").add_argument
    studio("--export-label-studio", type=Path, metavar="DIR", help="write tasks")
    studio("--import-label-studio", type=Path, metavar="FILE", help="read its JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.review``."""
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    # imported late, so that --help is quick
    from psl.data.pseudo_labels import read_labels
    from psl.labelling.progress import audio_of
    from psl.reviewing.store import Store
    from shards.dataset.clips import open_dataset

    place = args.audio or audio_of(args.labels)
    labels, audio = read_labels(args.labels, audio=place), open_dataset(place)
    rule, rows = _picked(args, labels)
    with Store(args.out, labels=str(args.labels), audio=str(place)) as store:
        if args.import_label_studio is not None:
            from psl.reviewing.label_studio import import_tasks

            added = import_tasks(args.import_label_studio, labels, store)
            print(f"{args.out}: {added}")
            return
        items = _items(args, rule, rows, labels, audio, store)
        if args.export_label_studio is not None:
            from psl.reviewing.label_studio import export_tasks

            export_tasks(args.export_label_studio, items, labels.classes, audio)
            return
        _serve(args, items, labels, audio, store)


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.number < 1:
        parser.error(f"--number {args.number}: expected 1 or more")
    if args.list is not None and (args.class_name or args.scores):
        parser.error("--list goes without --class and --scores")
    low, high = args.scores or (0.2, 0.8)
    if not 0 <= low < high <= 1:
        parser.error(f"--scores {low:g} {high:g}: expected 0 <= LOW < HIGH <= 1")
    if not 0 <= args.port < 65536:
        parser.error(f"--port {args.port}: expected 0 to 65535")
    if args.export_label_studio is not None and args.import_label_studio is not None:
        parser.error("--export-label-studio and --import-label-studio: give one")


def _picked(
    args: argparse.Namespace, labels: PseudoLabels
) -> tuple[Rule, list[int] | None]:
    """By what chunks are chosen, and of which clips; None for all."""
    from psl.reviewing.queue import disagreement, every_chunk, of_class, of_scores

    low, high = args.scores or (0.2, 0.8)
    if args.list is not None:
        return every_chunk, _rows_of(args.list, labels)
    if args.class_name is not None:
        return of_class(_class_named(args.class_name, labels.classes), low, high), None
    return of_scores(low, high) if args.scores else disagreement, None


def _items(
    args: argparse.Namespace,
    rule: Rule,
    rows: list[int] | None,
    labels: PseudoLabels,
    audio: AudioDataset,
    store: Store,
) -> list[Item]:
    """What the words ask for. ValueError if nothing is left to look at."""
    from tqdm import tqdm

    from psl.reviewing.queue import find_items

    held = {(line.key, line.start, line.end) for line in store.held()}
    items = find_items(
        labels,
        audio,
        rule,
        number=args.number,
        rows=rows,
        without=held,
        progress=lambda rows: tqdm(rows, "look for chunks", unit="clip", disable=None),
    )
    if not items:
        raise ValueError(
            f"{args.labels}: no chunk to look at; {len(held)} are decided in {args.out}"
        )
    return items


def _class_named(name: str, classes: Classes) -> int:
    import difflib

    for known in (classes.mids, classes.names):
        if name in known:
            return known.index(name)
    near = difflib.get_close_matches(name, classes.names, n=3)
    raise ValueError(
        f"--class {name}: not one of the {len(classes)} classes of the labels"
        + (f"; near it: {', '.join(near)}" if near else "")
    )


def _rows_of(path: Path, labels: PseudoLabels) -> list[int]:
    """The rows of the keys in a file, the first word of each line.

    A warning says how many of them are not in the labels.
    """
    import logging

    from shards.errors import ShardError
    from shards.system.files import read_bounded
    from shards.system.text import plain

    lines = read_bounded(path, 1 << 28).decode("utf-8", "replace").splitlines()
    words = [line.replace(",", " ").replace('"', " ").split() for line in lines]
    keys = list(dict.fromkeys(word[0] for word in words if word))
    row_of = {key: row for row, key in enumerate(labels.keys)}
    found = [row_of[key] for key in keys if key in row_of]
    if not found:
        raise ShardError(
            f"{path}: none of its {len(lines)} lines begins with the key of a clip, "
            f"such as {labels.keys[0]}"
        )
    if absent := [key for key in keys if key not in row_of]:
        logging.getLogger(__name__).warning(
            "%s: %d of %d first words, such as %s, are not keys of %s",
            *(path, len(absent), len(keys), plain(absent[0], 40), labels.index.where),
        )
    return found


def _serve(
    args: argparse.Namespace,
    items: list[Item],
    labels: PseudoLabels,
    audio: AudioDataset,
    store: Store,
) -> None:
    from psl.reviewing.session import Session
    from psl.serving.local import LocalServer

    session = Session(items, labels, audio, store)
    with LocalServer(session.routes, port=args.port) as server:
        server.show(
            f"{len(items)} chunks to look at: {server.url}\n"
            f"decisions go to {args.out}; end with Ctrl-C",
            in_browser=not args.no_browser,
        )
    print(f"{args.out}: {len(store.held())} decided or skipped")


if __name__ == "__main__":
    run_main(main)
