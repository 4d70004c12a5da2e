"""What is in a dataset folder, for people and for programs.

Owns the report. Reads the index alone, so it takes a second for any dataset;
verify.py says whether the shards are what the index says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from shards.format.index import Index, open_index
from shards.format.label_codec import LabelForm
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name

DEFAULT_CLASSES = 20


def describe(index: Index) -> dict[str, Any]:
    """What a dataset holds, as plain values; ``--json`` prints it as it is.

    Times in seconds, sizes in bytes; classes are sorted by their clips, most first.
    """
    shared = {
        "folder": index.where,
        "kind": index.kind,
        "clips": len(index),
        "shards": len(index.shards),
        "bytes": {
            "shards": sum(shard.num_bytes for shard in index.shards),
            "members": int(index.table.size.sum()),
        },
        "properties": index.properties,
        "num_classes": len(index.classes),
        "fingerprint": index.fingerprint,
        "provenance": list(index.provenances),
    }
    return shared | (_audio(index) if index.kind == "audio" else _labels(index))


def _audio(index: Index) -> dict[str, Any]:
    rate = index.properties["sample_rate"]
    per_class = np.bincount(index.table.label, minlength=len(index.classes))
    per_clip = np.diff(index.table.label_start)
    order = np.argsort(-per_class, kind="stable")
    return {
        "seconds": {
            "total": int(index.table.count.sum(dtype=np.int64)) / rate,
            **_spread(index.table.count / rate),
        },
        "labels_per_clip": {
            "mean": float(per_clip.mean()) if len(index) else None,
            **_spread(per_clip),
        },
        "clips_without_labels": int((per_clip == 0).sum()),
        "classes_without_clips": int((per_class == 0).sum()),
        "classes": [
            {
                "mid": index.classes.mids[i],
                "name": index.classes.names[i],
                "clips": int(per_class[i]),
            }
            for i in order
        ],
    }


def _labels(index: Index) -> dict[str, Any]:
    report: dict[str, Any] = {
        "chunks": int(index.table.count.sum(dtype=np.int64)),
        "chunks_per_clip": _spread(index.table.count),
        "clips_unlabelled": int((index.table.count == 0).sum()),
    }
    if rate := index.properties.get("sample_rate"):
        for what in ("chunk", "hop"):
            if samples := index.properties.get(f"{what}_samples"):
                report[f"{what}_seconds"] = samples / rate
    return report


def _spread(values: np.ndarray) -> dict[str, float | None]:
    """Smallest, middle and largest value; None where there is none."""
    if not len(values):
        return {"min": None, "median": None, "max": None}
    return {
        "min": values.min().item(),
        "median": float(np.median(values)),
        "max": values.max().item(),
    }


def add_up(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums over several datasets."""
    return {
        "folders": len(reports),
        "clips": sum(report["clips"] for report in reports),
        "shards": sum(report["shards"] for report in reports),
        "bytes": {
            name: sum(report["bytes"][name] for report in reports)
            for name in ("shards", "members")
        },
        "seconds": {
            "total": sum(
                report.get("seconds", {}).get("total", 0) for report in reports
            )
        },
    }


def render(report: dict[str, Any], max_classes: int) -> str:
    """The report of one dataset for people, with at most ``max_classes`` classes."""
    lines = [report["folder"]]
    lines += [f"  {name:<13}{text}" for name, text in _facts(report)]
    shown = report.get("classes", [])[:max_classes]
    if shown:
        width = max(len(f"{shown[0]['clips']:,}"), len("clips"))
        lines += ["", f"  {'clips':>{width}}  class"]
        lines += [f"  {c['clips']:>{width},}  {c['name']} ({c['mid']})" for c in shown]
        if rest := report["num_classes"] - len(shown):
            lines.append(
                f"  {'':>{width}}  and {rest} more; --classes {report['num_classes']} "
                "shows all"
            )
    return "\n".join(lines)


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Heading and text of each line of a dataset's report."""
    yield "kind", report["kind"]
    yield "clips", f"{report['clips']:,} in {report['shards']:,} shards"
    is_audio = report["kind"] == "audio"
    yield from (_audio_facts if is_audio else _label_facts)(report)
    sizes, clips = report["bytes"], max(report["clips"], 1)
    per_clip = round(sizes["members"] / clips)
    what = "audio" if is_audio else "labels"
    yield "bytes", f"{sizes['shards']:,}; {per_clip:,} of {what} a clip"
    for provenance in report["provenance"]:
        width = max(map(len, provenance), default=0)
        for number, (name, value) in enumerate(provenance.items()):
            # JSON, because a value may come from anyone and steer the terminal
            text = f"{_plain(name):<{width}}  {_plain(value)}"
            yield "" if number else "made", text
    yield "fingerprint", report["fingerprint"]


def _audio_facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    properties, seconds = report["properties"], report["seconds"]
    yield "audio", f"{properties['codec']}, {properties['sample_rate']:,} Hz, mono"
    if report["clips"]:
        length = (
            f"{seconds['total'] / 3600:,.2f} hours; clips of {seconds['min']:.2f} to "
            f"{seconds['max']:.2f} s, median {seconds['median']:.2f} s"
        )
        yield "length", length
        labels = report["labels_per_clip"]
        mean = (
            f"{labels['mean']:.2f} a clip ({labels['min']} to {labels['max']}); "
            f"{report['clips_without_labels']:,} clips without"
        )
        yield "labels", mean
    have = report["num_classes"] - report["classes_without_clips"]
    yield "classes", f"{have:,} of {report['num_classes']:,} have clips"


def _label_facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    chunks = report["chunks_per_clip"]
    text = f"{report['chunks']:,}"
    if report["clips"]:
        text += f"; {chunks['min']} to {chunks['max']} a clip"
    if "chunk_seconds" in report and "hop_seconds" in report:
        text += f"; of {report['chunk_seconds']:g} s, every {report['hop_seconds']:g} s"
    yield "chunks", text
    if report["clips_unlabelled"]:
        yield "unlabelled", f"{report['clips_unlabelled']:,} clips that did not decode"
    properties = report["properties"]
    form = LabelForm.of(properties)
    kept = f"; the {form.top_k} most probable of each chunk, tail {form.tail}"
    yield "classes", f"{report['num_classes']:,}" + (kept if form.top_k else "")
    if form.views > 1:
        names = ("augment_seed", "gain_db", "roll_samples", "roll_fill")
        how = [f"{name} {properties[name]}" for name in names if name in properties]
        yield "views", f"{form.views}; {', '.join(how)}"


def _plain(value: Any) -> str:
    """``value`` in ASCII without control characters; a text without its quotes."""
    text = json.dumps(value)
    return text[1:-1] if isinstance(value, str) else text


def _render_sum(total: dict[str, Any]) -> str:
    return (
        f"together: {total['clips']:,} clips in {total['shards']:,} shards of "
        f"{total['folders']} folders, {total['seconds']['total'] / 3600:,.2f} hours of "
        f"audio, {total['bytes']['shards']:,} bytes"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.info``."""
    name = typed_name("shards.info")
    parser = Parser(
        prog=name,
        description="Show what is in datasets, from their indexes alone.",
        epilog=f"example: {name} data/balanced data/labels_2s",
    )
    parser.add_argument("folders", nargs="+", help="audio or label datasets")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--classes",
        type=int,
        default=DEFAULT_CLASSES,
        metavar="N",
        help=f"show the N classes with most clips (default {DEFAULT_CLASSES})",
    )
    args = parser.parse_args(argv)
    if args.classes < 0:
        raise ValueError(f"--classes {args.classes}; expected 0 or more")
    reports = [describe(open_index(folder, kind=None)) for folder in args.folders]
    total = add_up(reports)
    if args.json:
        print(json.dumps({"datasets": reports, "total": total}, indent=1))
        return
    print("\n\n".join(render(report, args.classes) for report in reports))
    if len(reports) > 1:
        print("\n" + _render_sum(total))


if __name__ == "__main__":
    run_main(main)
