"""Re-read a dataset and compare it with its index.

Owns the full check: sizes, hashes, member order, JSON and label members,
decodability, and the join of labels with their audio.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from shards.cli import run_main
from shards.files import file_sha256
from shards.index import INDEX_NAME, Index, open_index
from shards.join import check_join, check_unique_keys
from shards.reader import MemberReader
from shards.schema import ClipInfo, ShardError, check_key


def verify(folder: str | Path, *, audio: str | Path | None = None) -> str:
    """Check a dataset folder whole and return a one-line summary.

    A label folder is also joined with its ``audio`` folder, if given. Raises
    ShardError naming the first bad key of every bad shard.
    """
    kind = "audio" if audio is None and not _holds_labels(folder) else "labels"
    index = open_index(folder, kind=kind)
    check_unique_keys(index)
    if audio is not None:
        check_join(open_index(audio, kind="audio"), index)
    reader = MemberReader(index)
    problems = []
    for shard in tqdm(range(len(index.shards)), unit="shard", desc="verify"):
        try:
            _verify_shard(index, reader, shard)
        except ShardError as error:
            problems.append(str(error))
    if problems:
        raise ShardError(
            f"{len(problems)} of {len(index.shards)} shards are bad: "
            + "; ".join(problems)
        )
    return f"{folder}: {len(index)} clips in {len(index.shards)} shards are as indexed"


def _holds_labels(folder: str | Path) -> bool:
    path = Path(folder, INDEX_NAME)
    return path.exists() and b'"kind": "labels"' in path.read_bytes()


def _verify_shard(index: Index, reader: MemberReader, shard: int) -> None:
    path = index.paths[shard]
    rows = (index.table.shard == shard).nonzero()[0]
    members = _members(path)
    for row in rows:
        where = index.place(row)
        key = check_key(index.key(row), where=where)
        name, offset, size = next(members, ("nothing", 0, 0))
        suffix = index.properties["codec"] if index.kind == "audio" else "npy"
        expected = (
            f"{key}.{suffix}",
            index.table.offset[row],
            index.table.size[row],
        )
        if (name, offset, size) != expected:
            raise ShardError(
                f"{where}: found member {name} of {size} bytes at {offset}, expected "
                f"{expected[0]} of {expected[2]} bytes at {expected[1]}"
            )
        if index.kind == "audio":
            _verify_clip(index, reader, int(row), next(members, ("nothing", 0, 0)))
        else:
            reader.labels(int(row))
    if extra := next(members, None):
        raise ShardError(f"{path}: member {extra[0]} is not in the index")
    if file_sha256(path) != index.shards[shard].sha256:
        raise ShardError(f"{path}: bytes differ from the sha256 in the index")


def _verify_clip(
    index: Index, reader: MemberReader, row: int, described: tuple[str, int, int]
) -> None:
    where, count = index.place(row), int(index.table.count[row])
    reader.samples(row, 0, count)
    name, offset, size = described
    if name != f"{index.key(row)}.json":
        raise ShardError(f"{where}: followed by {name}, expected its .json member")
    with open(index.paths[index.table.shard[row]], "rb") as stream:
        stream.seek(offset)
        info = ClipInfo.from_bytes(stream.read(size), where=where)
    start, stop = index.table.label_start[row : row + 2]
    labels = tuple(index.classes.mids[i] for i in index.table.label[start:stop])
    expected = (count, index.properties["sample_rate"], labels)
    if (info.num_samples, info.sample_rate, info.labels) != expected:
        raise ShardError(f"{where}: its .json member says {info}, the index {expected}")


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member; ShardError on anything but a file."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    raise ShardError(f"{path}: member {member.name} is no plain file")
                yield member.name, member.offset_data, member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ShardError(f"{path}: not a whole tar: {error}") from None


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m shards.verify``."""
    parser = argparse.ArgumentParser(
        prog="python -m shards.verify",
        description="Re-read a dataset folder and compare it with its index.",
        epilog="example: python -m shards.verify data/labels_2s --audio data/balanced",
    )
    parser.add_argument("folder", help="audio or label dataset")
    parser.add_argument("--audio", help="audio dataset the labels must match")
    args = parser.parse_args(argv)
    print(verify(args.folder, audio=args.audio))


if __name__ == "__main__":
    run_main(main)
