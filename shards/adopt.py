"""The command ``python -m shards.adopt``: an index for WebDataset tars made by others.

No audio is copied: the dataset folder holds an index only, and clips are decoded from
the tars as they are found, whatever their rate, channels and codec. Every clip is
decoded once here, so that its length is known and a broken one is found now.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from shards import __version__
from shards.audio.decode import load_clip
from shards.dataset.tar import read_member
from shards.dataset.writer import DatasetBuilder, Part, part_row
from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.format.meta import ShardRecord
from shards.format.schema import SOURCE_CODEC
from shards.format.weak_labels import LabelReader, LabelsAre, add_labels_are
from shards.packing.rejects import Limits, check_rejected, retry_rejected
from shards.packing.sources.webdataset import find_tars, list_keys, list_pairs, read_tar
from shards.remote.places import is_url
from shards.remote.tars import common_home
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name
from shards.system.files import file_sha256
from shards.system.workers import Task, check_workers, default_workers, run_tasks


def adopt(
    tars: str | Path,
    *,
    classes: Classes,
    out: str | Path | None = None,
    label_field: str = "labels",
    labels_are: LabelsAre | None = None,
    sample_rate: int = 16000,
    limits: Limits | None = None,
    workers: int = 1,
    downloads: str | Path | None = None,
) -> str:
    """Index the tars in the folder ``tars`` and return a one-line summary.

    ``tars`` may be a pattern such as ``s3://bucket/train/{000..123}.tar``: tars of URLs
    are fetched into ``downloads`` to be indexed, and read at their URL later. The index
    goes into ``out``, or next to the tars. Labels are read as in list_pairs and
    LabelReader. Readers give the clips mono at ``sample_rate`` Hz. Clips that cannot be
    used are listed in ``pack_report.csv`` and are not in the index; more than
    ``limits`` allows are a ShardError.
    """
    check_workers(workers)
    paths, home = find_tars([tars], downloads), common_home([tars])
    if is_url(home) and out is None:
        raise ShardError(f"{tars}: name a folder for the index of tars at a URL: --out")
    folder = Path(out or home)
    is_same = os.path.realpath(folder) == os.path.realpath(home)
    builder = DatasetBuilder(
        folder=folder,
        kind="audio",
        classes=classes,
        properties={"codec": SOURCE_CODEC, "sample_rate": sample_rate},
        provenance={
            "adopted_by": f"shards {__version__}",
            "label_field": label_field,
            "tars": [path.name for path in paths],
            "tar_bytes": sum(path.stat().st_size for path in paths),
            **({} if labels_are is None else {"labels_are": labels_are}),
        },
        location=None if is_same else home if is_url(home) else os.path.abspath(home),
        copies=str(paths[0].parent) if is_url(home) else None,
    )
    if builder.finished():
        return f"{folder}: these tars are adopted already"
    builder.begin()
    limits = limits or Limits()
    retry_rejected(builder, [path.name for path in paths], limits)
    settings = _Settings(
        LabelReader(classes, labels_are),
        label_field,
        sample_rate,
        with_folder=_has_same_names(paths, label_field, workers),
    )
    tasks = [
        Task(path.stat().st_size, _index_tar, (builder, path, settings))
        for path in paths
    ]
    parts: list[Part] = run_tasks(tasks, workers, unit="B", title="adopt")
    num_rejected = check_rejected(builder, parts, limits)
    if not builder.publish([path.name for path in paths]):
        raise ShardError(f"{folder}: a tar has changed meanwhile; run again")
    return (
        f"{folder}: adopted {sum(part.shard.num_clips for part in parts)} clips in "
        f"{len(parts)} tars, {num_rejected} rejected"
    )


def _has_same_names(paths: list[Path], label_field: str, workers: int) -> bool:
    """Whether clips of all tars have the same key unless it holds their folder."""
    tasks = [
        Task(path.stat().st_size, list_keys, (path, label_field)) for path in paths
    ]
    keys = list(chain(*run_tasks(tasks, workers, unit="B", title="list")))
    return len(set(keys)) < len(keys)


@dataclass(frozen=True)
class _Settings:
    """What the workers need to know."""

    reader: LabelReader
    label_field: str
    sample_rate: int
    with_folder: bool
    """Whether ids hold the folder of the member."""


def _index_tar(builder: DatasetBuilder, path: Path, settings: _Settings) -> Part:
    """The record of one tar, made unless it is there."""
    if part := builder.part(path.name):
        return part
    tar, rows = read_tar(path, settings.label_field), []
    pairs = list_pairs(
        tar, settings.reader, settings.label_field, with_folder=settings.with_folder
    )
    rejected = tar.rejected
    with open(path, "rb") as stream:
        for clip, member in pairs:
            data = read_member(stream, member)
            try:
                count = len(load_clip(data, sample_rate=settings.sample_rate))
            except ShardError as error:
                reason = f"{path}: {member.name}: {error}"
                rejected.append([clip.key, "rejected", reason])
                continue
            rows.append(part_row(clip.key, member.offset, data, count, clip.labels))
    shard = ShardRecord(path.name, len(rows), path.stat().st_size, file_sha256(path))
    part = Part(shard, rows, rejected)
    builder.record(part)
    return part


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.adopt``."""
    limits = Limits()
    name = typed_name("shards.adopt")
    parser = Parser(
        prog=name,
        description="Use WebDataset tars of audio and JSON members where they lie: "
        "only an index is written.",
        epilog=f"example: {name} audioset_tars --label-field tag "
        "--class-labels class_labels_indices.csv --out data/full",
    )
    add = parser.add_argument
    add("tars", help="folder with the tars, or a pattern: x-{000..123}.tar, URLs too")
    add("--downloads", metavar="DIR", help="where tars of URLs are kept to be indexed")
    add("--class-labels", required=True, help="class_labels_indices.csv")
    add(
        "--label-field",
        default="labels",
        help="field of the JSON with the labels, a.b for one inside another; or cls or "
        "txt, for members with that suffix",
    )
    add_labels_are(add)
    add("--out", help="folder for the index (default: next to the tars)")
    add("--sample-rate", type=int, default=16000, help="Hz that readers give")
    add("--workers", type=int, default=default_workers(), help="processes")
    add(
        "--max-rejected",
        type=float,
        default=limits.max_rejected,
        metavar="F",
        help="fraction of clips that may be rejected (default 0)",
    )
    args = parser.parse_args(argv)
    summary = adopt(
        args.tars,
        classes=read_classes(args.class_labels),
        out=args.out,
        label_field=args.label_field,
        labels_are=args.labels_are,
        sample_rate=args.sample_rate,
        limits=Limits(max_rejected=args.max_rejected),
        workers=args.workers,
        downloads=args.downloads,
    )
    print(summary)


if __name__ == "__main__":
    run_main(main)
