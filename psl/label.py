"""A teacher over audio shards -> label shards.

Owns the labelling job: one label shard per audio shard, whole or absent, skipped when
done. Processes share the shards by number and need no process group; batches never
cross a shard, so what a shard holds does not depend on how many processes run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm

from psl import runtime
from psl.batch_memory import BatchMemory
from psl.checkpoint import load_checkpoint
from psl.chunking import Chunking
from psl.config import STRICT, from_command_line
from psl.evaluate import check_checkpoint_fits
from psl.loader import (
    LoaderConfig,
    cache_share,
    fetch_ahead,
    open_cache,
    read_chunks,
    to_device,
    to_waveform,
)
from shards import __version__
from shards.cli import JobError, run_main
from shards.index import open_index
from shards.prefetch import Prefetcher
from shards.reader import MemberReader
from shards.schema import encode_labels
from shards.writer import DatasetBuilder, Row

SHARDS_AHEAD = 3
"""Remote shards fetched while the first of them is labelled."""


@dataclass(frozen=True, config=STRICT)
class LabelConfig:
    """Which teacher labels what, how finely."""

    teacher: str
    """A run folder (its best checkpoint) or a checkpoint folder."""
    audio: str
    """Audio dataset to label."""
    out: str
    """Label dataset to make."""
    chunk_seconds: float = Field(default=2.0, gt=0)
    """Length of the chunks that get one label vector each, s."""
    batch_size: int = Field(default=64, gt=0)
    """Chunks the teacher sees at a time."""
    loader: LoaderConfig = LoaderConfig()


def label(config: LabelConfig, rank: int, world_size: int) -> str:
    """Label this process's share of the shards and return a one-line summary.

    The process that finishes the last missing shard publishes the index. Raises
    ShardError or ValueError if teacher, audio and ``out`` do not fit each other.
    """
    index = open_index(config.audio, kind="audio")
    teacher = load_checkpoint(config.teacher)
    check_checkpoint_fits(index, teacher)
    chunking = Chunking.of(config.chunk_seconds, index.properties["sample_rate"])
    builder = DatasetBuilder(
        folder=Path(config.out),
        kind="labels",
        classes=index.classes,
        properties={
            "chunk_samples": chunking.chunk_samples,
            "hop_samples": chunking.hop_samples,
            "sample_rate": index.properties["sample_rate"],
        },
        provenance={
            "labelled_by": f"psl {__version__}",
            "teacher_sha256": teacher.model_sha256,
            "audio_fingerprint": index.fingerprint,
        },
    )
    if not builder.begin():
        return f"{config.out}: already labelled with these settings"
    device = runtime.local_device()
    model = runtime.place(teacher.build_model(), device)
    reader = MemberReader(index, open_cache(config.loader))
    shards = range(rank, len(index.shards), world_size)
    bar = tqdm(
        total=sum(index.shards[s].num_clips for s in shards),
        unit="clip",
        desc=f"label {Path(config.out).name}",
        disable=rank != 0,
    )
    with bar, Prefetcher([reader], cache_share(config.loader)) as prefetcher:
        for position, shard in enumerate(shards):
            prefetcher.want(shards[position : position + SHARDS_AHEAD])
            name = index.shards[shard].name
            if builder.part(name) is None:
                rows = np.flatnonzero(index.table.shard == shard)
                builder.add(name, label_rows(model, reader, rows, chunking, config))
            bar.update(index.shards[shard].num_clips)
    if builder.publish([shard.name for shard in index.shards]):
        return f"{config.out}: labels of {len(index)} clips are complete"
    return f"{config.out}: this process is done, other shards are still missing"


def label_rows(
    model: nn.Module,
    reader: MemberReader,
    rows: np.ndarray,
    chunking: Chunking,
    config: LabelConfig,
) -> Iterator[Row]:
    """The label rows of clips ``rows``, in their order.

    Batches fill across clips; ``model`` gives one probability vector per chunk. Raises
    JobError naming the clip for which it gives no probabilities.
    """
    if not len(rows):
        return
    num_chunks = chunking.num_chunks(reader.index.table.count[rows])
    all_rows = np.repeat(rows, num_chunks)
    all_chunks = np.concatenate([np.arange(n) for n in num_chunks])
    starts = range(0, len(all_rows), config.batch_size)
    memory = BatchMemory()

    def fetch(start: int) -> tuple[np.ndarray, np.ndarray]:
        batch = slice(start, start + config.batch_size)
        rows, chunks = all_rows[batch], all_chunks[batch]
        return read_chunks(reader, rows, chunks, chunking, memory)

    device = next(model.parameters()).device
    probs = []
    with torch.inference_mode():
        for pcm, lengths in fetch_ahead(fetch, starts, config.loader):
            waveform = to_waveform(to_device(pcm, device))
            clip_probs, _ = model(waveform, to_device(lengths, device))
            probs.append(clip_probs.cpu().numpy())
    per_clip = np.split(np.concatenate(probs), np.cumsum(num_chunks)[:-1])
    for row, clip_probs in zip(rows, per_clip, strict=True):
        try:
            data = encode_labels(clip_probs)
        except ValueError as error:
            place = reader.index.place(int(row))
            raise JobError(f"{place}: from teacher {config.teacher}: {error}") from None
        key = reader.index.key(int(row))
        yield Row(key=key, suffix="npy", data=data, count=len(clip_probs))


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.label``."""
    config = from_command_line(
        LabelConfig,
        argv,
        command="python -m psl.label",
        purpose="Write a teacher's chunk probabilities as label shards.",
        example="python -m psl.label teacher=runs/teacher audio=data/balanced "
        "out=data/labels_2s chunk_seconds=2",
    )
    print(label(config, *runtime.rank_and_world_size()))


if __name__ == "__main__":
    run_main(main)
