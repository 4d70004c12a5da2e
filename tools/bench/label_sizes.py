"""What each form of labels takes on disk and to read: prints two Markdown tables.

    python -m tools.bench.label_sizes

Writes real label shards of made-up probabilities into a temporary folder, weighs them
with tar and index overhead, and reads random chunks of them as training does, the forms
in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.label_codec import LabelForm, encode_labels

NUM_CLASSES = 527
CLIPS_PER_SHARD = 500
BATCH_SIZE = 32
CLIP_SECONDS = 10
CHUNK_SECONDS = (10, 5, 2)
FORMS = {
    "dense": LabelForm(),
    "top 20, tail zero": LabelForm(top_k=20, tail="zero"),
    "top 20, tail mean": LabelForm(top_k=20, tail="mean"),
    "top 50, tail mean": LabelForm(top_k=50, tail="mean"),
    "dense, 3 views": LabelForm(views=3),
    "top 20, tail mean, 3 views": LabelForm(views=3, top_k=20, tail="mean"),
}


def rows(form: LabelForm, num_chunks: int, num_clips: int) -> Iterator[Row]:
    """Label rows of a shard; a few probabilities are high, as a teacher's are."""
    rng = np.random.default_rng(0)
    for number in range(num_clips):
        probs = rng.random((form.views, num_chunks, NUM_CLASSES)) ** 20
        data = encode_labels(probs if form.views > 1 else probs[0], form)
        yield Row(f"abcdefghijk_{number}0000", "npy", data, num_chunks)


def make(folder: Path, form: LabelForm, num_chunks: int, num_shards: int) -> int:
    """Make a label dataset and return its bytes, all files together."""
    mids = tuple(f"/m/{n:05d}" for n in range(NUM_CLASSES))
    builder = DatasetBuilder(
        folder, "labels", Classes(mids, mids), form.properties, {"made_by": "bench"}
    )
    builder.begin()
    names = [f"{number:06d}.tar" for number in range(num_shards)]
    for number, name in enumerate(names):
        begin = number * CLIPS_PER_SHARD
        renamed = (
            Row(f"{row.key}_{begin}", row.suffix, row.data, row.count)
            for row in rows(form, num_chunks, CLIPS_PER_SHARD)
        )
        builder.add(name, renamed)
    assert builder.publish(names)
    return sum(path.stat().st_size for path in folder.iterdir())


def chunks_per_second(reader: MemberReader, num_batches: int, seed: int) -> float:
    """Chunks of random rows that are read in a second of processor time."""
    rng, form = np.random.default_rng(seed), reader.form
    counts = reader.index.table.count
    picked = rng.integers(len(counts), size=(num_batches, BATCH_SIZE))
    chunks = rng.integers(counts[picked])
    views = rng.integers(form.views, size=picked.shape)
    begin = time.process_time()
    for batch in zip(picked, chunks, views, strict=True):
        reader.chunk_labels(*batch)
    return num_batches * BATCH_SIZE / (time.process_time() - begin)


def size_table(folder: Path, num_shards: int) -> list[str]:
    """Megabytes per million clips of every form at every length of chunk."""
    heads = [f"{seconds}-s chunks" for seconds in CHUNK_SECONDS]
    lines = [f"| MB per million clips | {' | '.join(heads)} |", "|---" * 4 + "|"]
    for name, form in FORMS.items():
        cells = []
        for seconds in CHUNK_SECONDS:
            place = folder / f"{name}-{seconds}"
            num_bytes = make(place, form, CLIP_SECONDS // seconds, num_shards)
            cells.append(f"{num_bytes / (num_shards * CLIPS_PER_SHARD):,.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def speed_table(folder: Path, num_batches: int, rounds: int) -> list[str]:
    """Medians over the rounds; ratios are taken within a round."""
    seconds = CHUNK_SECONDS[-1]
    readers = {
        name: MemberReader(open_index(folder / f"{name}-{seconds}", kind="labels"))
        for name in FORMS
    }
    for reader in readers.values():
        chunks_per_second(reader, num_batches, 0)  # maps the files
    found = [
        {name: chunks_per_second(r, num_batches, seed) for name, r in readers.items()}
        for seed in range(1, rounds + 1)
    ]
    lines = ["| 2-s chunks, read in random order | chunks/s, CPU | x dense (range) |"]
    lines.append("|---" * 3 + "|")
    for name in FORMS:
        speeds = [one[name] for one in found]
        ratios = [one[name] / one["dense"] for one in found]
        lines.append(
            f"| {name} | {statistics.median(speeds):,.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.label_sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", type=int, default=4, help="of 500 clips each")
    parser.add_argument("--batches", type=int, default=300, help="of 32, in a round")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = size_table(Path(folder), args.shards)
        speeds = speed_table(Path(folder), args.batches, args.rounds)
    print("\n".join([*sizes, "", *speeds]))


if __name__ == "__main__":
    main()
