"""Readahead of local shards: all of the next two windows, and nothing beyond."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from psl.config import parse
from psl.data.config import LoaderConfig
from psl.data.examples import TrainingData
from shards.order.plan import Plan
from tests.conftest import Run, write_source

Asked = list[tuple[str, int, int]]
"""File name, first byte, number of bytes."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """32 clips of 4 chunks in 16 shards."""
    folder = tmp_path_factory.mktemp("many")
    source = write_source(folder / "source", num_clips=32)
    words = [*source.pack_arguments(folder / "packed"), "--clips-per-shard", "2"]
    result = run("shards.pack", *words)
    assert result.returncode == 0, result.stderr
    return folder / "packed"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """What the kernel is asked to read, in pieces of 50,000 bytes."""
    found: Asked = []

    def note(handle: int, start: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((Path(os.readlink(f"/proc/self/fd/{handle}")).name, start, size))

    monkeypatch.setattr("shards.dataset.readahead.os.posix_fadvise", note)
    monkeypatch.setattr("shards.dataset.readahead.PIECE_BYTES", 50_000)
    yield found


def opened(folder: Path, **loader: object) -> TrainingData:
    config = parse(LoaderConfig, dict(loader), where="loader")
    return TrainingData.open(
        [str(folder)], None, chunk_seconds=0.5, alpha=1.0, loader=config
    )


def small_windows(data: TrainingData) -> Plan:
    """The order of the data in windows of one shard."""
    counts = np.array([shard.num_clips for shard in data.audio.index.shards])
    return Plan(data.num_chunks, counts, global_batch_size=4, seed=1, window_shards=1)


def read_by(plan: Plan, data: TrainingData, rank: int, window: int) -> set[str]:
    """Names of the shards of a rank's steps in a window, from the steps themselves."""
    steps = list(plan.steps(0, rank=rank, world_size=2))
    rows = np.concatenate(
        [rows for rows, _ in steps[window * plan.window_steps :][: plan.window_steps]]
    )
    shards = data.audio.index.table.shard[rows]
    return {data.audio.index.shards[shard].name for shard in shards}


def settle(asked: Asked, names: set[str]) -> None:
    """Wait until all of ``names`` were asked for, and for more that may come."""
    deadline = time.monotonic() + 120
    while not names <= {name for name, _, _ in asked}:
        assert time.monotonic() < deadline, (names, asked)
        time.sleep(0.01)
    time.sleep(0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_two_windows_are_asked_for_whole_and_once_and_nothing_beyond_them(
    packed: Path, asked: Asked, rank: int
) -> None:
    """A cold disk would be read chunk by chunk, or memory filled for nothing."""
    data = opened(packed)
    plan = small_windows(data)
    num_windows = -(-plan.num_steps // plan.window_steps)
    assert num_windows >= 4
    steps = data.steps(plan, 0, start=0, rank=rank, world_size=2)
    near: set[str] = set()
    expected: list[tuple[str, int, int]] = []
    sizes = {shard.name: shard.num_bytes for shard in data.audio.index.shards}
    for step, _ in enumerate(steps):
        window, into = divmod(step, plan.window_steps)
        if into == 0 and window + 1 < num_windows:
            before, near = near, set()
            for number in (window, window + 1):
                near |= read_by(plan, data, rank, number)
            assert len(near) < 16
            for name in near - before:
                for start in range(0, sizes[name], 50_000):
                    size = min(50_000, sizes[name] - start)
                    expected.append((name, start, size))
            settle(asked, near)
            assert sorted(asked) == sorted(expected)
        if window == num_windows - 2:
            break


def test_no_more_is_asked_for_than_the_limit(packed: Path, asked: Asked) -> None:
    """Readahead would push what is in use out of a small machine's memory."""
    size = max(path.stat().st_size for path in packed.glob("*.tar"))
    data = opened(packed, readahead_gb=2.5 * size / 1e9)
    plan = small_windows(data)
    steps = data.steps(plan, 0, start=0, rank=0, world_size=2)
    next(steps)
    time.sleep(0.3)
    assert len({name for name, _, _ in asked}) == 2


def test_a_limit_of_0_asks_for_nothing_and_starts_no_thread(
    packed: Path, asked: Asked
) -> None:
    """Who has turned it off would still pay for it."""
    data = opened(packed, readahead_gb=0)
    before = threading.active_count()
    steps = data.steps(small_windows(data), 0, start=0, rank=0, world_size=1)
    next(steps)
    assert threading.active_count() == before
    assert not asked


def test_a_window_has_the_shards_that_its_steps_read() -> None:
    """The wrong files would be read ahead. Compared with the steps themselves."""
    rng = np.random.default_rng(0)
    for trial in range(60):
        clips = rng.integers(0, 9, 12)
        clips[0] += 2
        num_chunks = rng.integers(0, 4, clips.sum())
        num_chunks[0] += 8
        weights = rng.uniform(0, 3, clips.sum()) if trial % 2 else None
        plan = Plan(num_chunks, clips, 2, seed=trial, window_shards=2, weights=weights)
        shard_of = np.repeat(np.arange(12), clips)
        for rank in (0, 1):
            steps = list(plan.steps(1, rank=rank, world_size=2))
            for start in range(0, plan.num_steps, plan.window_steps):
                rows = [rows for rows, _ in steps[start : start + plan.window_steps]]
                found = plan.shards_of_window(
                    1, start, rank=rank, world_size=2
                ).tolist()
                assert len(set(found)) == len(found)
                assert set(found) == set(shard_of[np.concatenate(rows)].tolist())
