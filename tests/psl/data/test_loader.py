"""Batches as training gets them: the same, whoever and however many fetch them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from psl.data.config import LoaderConfig
from psl.data.examples import TrainingData
from psl.data.loader import fetch_ahead
from psl.distributed.runtime import default_threads
from shards.format.index import open_index
from tests.conftest import Run, write_source

CPU = torch.device("cpu")


def epoch_of(
    data: TrainingData,
    *,
    batch: int,
    threads: int = 1,
    prefetch: int = 8,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[bytes]:
    """Samples and targets of each batch of epoch 1, from step ``start``."""
    plan = data.plan(batch, seed=3)
    steps = plan.steps(1, start=start, rank=rank, world_size=world_size)
    batches = fetch_ahead(
        lambda step: data.batch(*step, CPU),
        steps,
        LoaderConfig(threads=threads, prefetch=prefetch),
    )
    return [b.pcm.numpy().tobytes() + b.targets.numpy().tobytes() for b in batches]


def open_training(folder: Path) -> TrainingData:
    return TrainingData.open([str(folder)], None, chunk_seconds=0.5, alpha=1.0)


@pytest.mark.parametrize("threads, prefetch", [(1, 1), (2, 8), (5, 3), (16, 64)])
def test_any_number_of_threads_gives_the_same_batches_also_after_a_resume(
    dataset: Path, threads: int, prefetch: int
) -> None:
    """Else a run resumed on a machine with more cores sees other examples."""
    data = open_training(dataset)
    whole = epoch_of(data, batch=8, threads=1, prefetch=8)
    assert len(whole) == 24 * 4 // 8 and len(set(whole)) == len(whole)
    assert epoch_of(data, batch=8, threads=threads, prefetch=prefetch) == whole
    for start in (1, 7, 11):
        rest = epoch_of(data, batch=8, threads=threads, prefetch=prefetch, start=start)
        assert rest == whole[start:]


def test_every_thread_has_a_batch_to_make_whatever_the_prefetch() -> None:
    """Cores would stand idle while a GPU waits for FLAC."""
    together = threading.Barrier(12, timeout=60)
    config = LoaderConfig(threads=12, prefetch=2)
    made = fetch_ahead(lambda item: (together.wait(), item)[1], range(24), config)
    assert list(made) == list(range(24))


@pytest.mark.parametrize("cores, processes, threads", [(96, 8, 12), (64, 1, 16)])
def test_threads_are_the_cores_of_a_process_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, threads: int
) -> None:
    """A node's cores would be left unused, or fought over."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_threads() == threads


def test_more_ranks_than_shards_and_shards_without_a_clip_lose_and_double_nothing(
    tmp_path: Path, run: Run
) -> None:
    """Else a rank without data hangs all others, or ends with an error of its own."""
    source = write_source(tmp_path / "source", num_clips=8, seconds=2.0)
    for number in (1, 6):
        (source.audio / f"clip{number}.wav").write_bytes(b"")
    words = [*source.pack_arguments(tmp_path / "packed"), "--clips-per-shard", "1"]
    words = [*words, "--max-rejected", "1"]
    result = run("shards.pack", *words)
    assert result.returncode == 0, result.stderr
    index = open_index(tmp_path / "packed", kind="audio")
    sizes = [shard.num_clips for shard in index.shards]
    assert sorted(sizes) == [0, 0, 1, 1, 1, 1, 1, 1]
    data = open_training(tmp_path / "packed")
    plan = data.plan(12, seed=0)
    for world_size in (1, 2, 6, 12):
        per_rank = [
            list(plan.steps(0, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        assert {len(steps) for steps in per_rank} == {2}
        seen = [
            (int(row), int(chunk))
            for steps in per_rank
            for rows, chunks in steps
            for row, chunk in zip(rows, chunks, strict=True)
        ]
        assert sorted(seen) == [(row, chunk) for row in range(6) for chunk in range(4)]
    read = [epoch_of(data, batch=12, rank=r, world_size=12) for r in range(12)]
    assert all(len(batches) == 2 for batches in read)
    assert len({batch for batches in read for batch in batches}) == 24
