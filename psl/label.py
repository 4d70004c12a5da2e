"""A teacher over audio shards -> label shards.

Owns the labelling job: one label shard per audio shard, whole or absent, skipped when
done. Processes share the shards by number and need no process group; batches never
cross a shard, so what a shard holds does not depend on how many processes run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from psl import runtime
from psl.checkpoint import load_checkpoint
from psl.chunking import Chunking
from psl.config import STRICT, from_command_line
from psl.evaluate import check_checkpoint_fits
from psl.label_rows import label_rows
from psl.loader import LoaderConfig, cache_share, open_cache
from shards import __version__
from shards.cli import run_main
from shards.index import open_index
from shards.prefetch import Prefetcher
from shards.reader import MemberReader
from shards.writer import DatasetBuilder

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
