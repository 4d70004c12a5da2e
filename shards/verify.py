"""Re-read a dataset and compare it with its index.

Owns the full check: sizes, hashes, member order, JSON and label members,
decodability, and the join of labels with their audio.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shards.dataset.reader import MemberReader
from shards.dataset.rebuild import rebuild
from shards.dataset.tar import Member, read_members
from shards.errors import ShardError, naming
from shards.format.classes import read_classes
from shards.format.index import CLASSES_NAME, Index, check_size, open_index, read_index
from shards.format.join import check_join
from shards.format.schema import MAX_DESCRIPTION_BYTES, SOURCE_CODEC, ClipInfo
from shards.remote.places import is_url
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name
from shards.system.files import file_sha256
from shards.system.workers import Task, check_workers, default_workers, run_tasks


def verify(
    folder: str | Path, *, audio: str | Path | None = None, workers: int = 1
) -> str:
    """Check a dataset folder whole and return a one-line summary.

    A label folder is also joined with its ``audio`` folder, if given. Raises
    ShardError naming the first bad key of every bad shard.
    """
    check_workers(workers)
    index = read_index(folder, kind=None if audio is None else "labels")
    if audio is not None:
        check_join(open_index(audio, kind="audio"), index)
    problems = _find_problems(index, workers, f"verify {Path(folder).name}")
    if problems:
        raise ShardError(
            f"{len(problems)} of {len(index.shards)} shards are bad: "
            + "; ".join(problems)
        )
    return f"{folder}: {len(index)} clips in {len(index.shards)} shards are as indexed"


def _find_problems(index: Index, workers: int, title: str) -> list[str]:
    """What is wrong with each bad shard, in the order of shards."""
    tasks = [
        Task(len(alone), _check_shard, (alone,)) for alone in _one_shard_indexes(index)
    ]
    workers = min(workers, len(tasks))
    if workers > 1:
        return list(filter(None, run_tasks(tasks, workers, unit="clip", title=title)))
    with tqdm(total=len(index), unit="clip", desc=title) as bar:
        problems = []
        for task in tasks:
            problems.append(_check_shard(*task.arguments))
            bar.update(task.size)
    return list(filter(None, problems))


def _one_shard_indexes(index: Index) -> Iterator[Index]:
    """The index of each shard alone: all that a worker needs, and no more."""
    ends = np.cumsum([shard.num_clips for shard in index.shards]).tolist()
    starts = [0, *ends[:-1]]
    for shard, place, start, end in zip(
        index.shards, index.places, starts, ends, strict=True
    ):
        yield dataclasses.replace(
            index,
            shards=(shard,),
            places=(place,),
            table=index.table.rows(start, end, shard=0),
        )


def _check_shard(index: Index) -> str | None:
    """What is wrong with the only shard of ``index``, if anything is."""
    reader = MemberReader(index)
    try:
        if not is_url(index.places[0]):
            _check_whole(index)
        with reader.local_file(0) as path:
            _check_members(index, reader, path)
    except (ShardError, OSError) as error:
        return str(error)
    return None


def _check_members(index: Index, reader: MemberReader, path: Path) -> None:
    """ShardError unless the tar ``path`` is, member for member, the only shard."""
    (place,), (shard,) = index.places, index.shards
    members = read_members(path)
    if index.properties.get("codec") == SOURCE_CODEC:
        _check_adopted(index, reader, members)
    else:
        for row in range(len(index)):
            with naming(index.place(row)):
                _check_row(index, reader, row, members, path)
        if extra := next(members, None):
            raise ShardError(f"{place}: member {extra.name!r} is not in the index")
    if file_sha256(path) != shard.sha256:
        raise ShardError(
            f"{place}: bytes differ from the sha256 in the index, though no clip is "
            "hurt; copy or make it again"
        )


def _check_adopted(
    index: Index, reader: MemberReader, members: Iterator[Member]
) -> None:
    """ShardError unless each row is a member of a tar that holds others, too."""
    sizes = {member.offset: member.size for member in members}
    for row in range(len(index)):
        with naming(index.place(row)):
            offset, size = int(index.table.offset[row]), int(index.table.size[row])
            if sizes.get(offset) != size:
                raise ShardError(f"no member of {size} bytes at byte {offset}")
            _check_length(index, reader, row)
            _check_crc32(index, reader, row)


def _check_whole(index: Index) -> None:
    """ShardError naming the first clip that is not there, if the size is wrong."""
    (path,), (shard,) = index.paths, index.shards
    try:
        check_size(path, shard.num_bytes)
    except ShardError as error:
        length = path.stat().st_size if path.is_file() else 0
        cut = np.flatnonzero(index.table.offset + index.table.size > length)
        first = f" (from key {index.key(int(cut[0]))!r} on)" if len(cut) else ""
        raise ShardError(f"{error}{first}") from None


def _check_row(
    index: Index,
    reader: MemberReader,
    row: int,
    members: Iterator[Member],
    path: Path,
) -> None:
    """ShardError unless the next members of the tar are what the index says."""
    table = index.table
    suffix = index.properties["codec"] if index.kind == "audio" else "npy"
    name, offset = f"{index.key(row)}.{suffix}", int(table.offset[row])
    expected = Member(name, offset, int(table.size[row]))
    if (found := next(members, None)) != expected:
        raise ShardError(f"found {found}, expected {expected}")
    if index.kind == "labels":
        for view in range(reader.form.views):
            reader.labels(row, view)
    else:
        _check_clip(index, reader, row, next(members, None), path)
    _check_crc32(index, reader, row)


def _check_crc32(index: Index, reader: MemberReader, row: int) -> None:
    if zlib.crc32(reader.member(row)) != index.table.crc32[row]:
        raise ShardError(
            "bytes differ from those that were written; copy or make the shard again"
        )


def _check_length(index: Index, reader: MemberReader, row: int) -> None:
    """ShardError unless a clip decodes to the samples of the index, and no more."""
    count = int(index.table.count[row])
    reader.samples(row, 0, count)
    if _has_samples(reader, row, count, count + 1):
        raise ShardError(f"has more than the {count} samples of the index")


def _check_clip(
    index: Index,
    reader: MemberReader,
    row: int,
    described: Member | None,
    path: Path,
) -> None:
    count, rate = int(index.table.count[row]), index.properties["sample_rate"]
    _check_length(index, reader, row)
    if described is None or described.name != f"{index.key(row)}.json":
        raise ShardError(f"followed by {described}, expected its .json member")
    if described.size > MAX_DESCRIPTION_BYTES:
        raise ShardError(f"its .json member has {described.size} bytes")
    with open(path, "rb") as stream:
        stream.seek(described.offset)
        info = ClipInfo.from_bytes(stream.read(described.size), where="its .json")
    start, stop = index.table.label_start[row : row + 2]
    labels = tuple(index.classes.mids[i] for i in index.table.label[start:stop])
    if (info.num_samples, info.sample_rate, info.labels) != (count, rate, labels):
        raise ShardError(
            f"its .json member says {info}, the index {count} samples at {rate} Hz, "
            f"{labels}"
        )


def _has_samples(reader: MemberReader, row: int, start: int, stop: int) -> bool:
    try:
        reader.samples(row, start, stop)
    except ShardError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.verify``."""
    name = typed_name("shards.verify")
    parser = Parser(
        prog=name,
        description="Re-read a dataset folder and compare it with its index.",
        epilog=f"example: {name} data/labels_2s --audio data/balanced",
    )
    parser.add_argument("folder", help="audio or label dataset, a folder or URL")
    parser.add_argument("--audio", help="audio dataset the labels must match")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes"
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="make a lost index.json or clips.npz again from the tars",
    )
    parser.add_argument("--class-labels", help="with --rebuild, if classes.csv is lost")
    args = parser.parse_args(argv)
    if args.rebuild:
        class_labels = args.class_labels or Path(args.folder, CLASSES_NAME)
        classes = read_classes(class_labels)
        print(rebuild(args.folder, classes=classes, workers=args.workers))
    print(verify(args.folder, audio=args.audio, workers=args.workers))


if __name__ == "__main__":
    run_main(main)
