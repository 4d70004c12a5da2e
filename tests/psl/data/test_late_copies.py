"""Memory that a GPU fetches from: not written to again before the copy is done.

The GPU is tests/late_device.py's: a device that copies late.
"""

from __future__ import annotations

import gc
import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from psl.data import page_locked
from psl.data.batch_memory import MAX_WAITING, BatchMemory
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead
from psl.data.page_locked import GpuCopier, copier_for
from tests.late_device import LateDevice

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = (4, 1000)


def sent(memory: BatchMemory, value: int, shape: tuple[int, int] = SHAPE) -> Tensor:
    """A batch of ``value``, written, asked to be copied, and dropped; its copy."""
    array = memory.take(shape)
    array[:] = value
    return memory.to_device(array, CPU)


def is_full_of(tensor: Tensor, value: int) -> bool:
    """Whether all samples are ``value``."""
    return bool((tensor == value).all())


def test_a_batch_that_is_copied_late_is_not_overwritten_by_the_next() -> None:
    """A GPU would be trained on another batch's samples, in silence."""
    late = LateDevice()
    memory = BatchMemory(late)
    array = memory.take(SHAPE)
    array[:] = 7
    address, there = array.ctypes.data, memory.to_device(array, CPU)
    del array
    second = memory.take(SHAPE)
    second[:] = 1
    assert second.ctypes.data != address
    late.finish(1)
    assert is_full_of(there, 7)
    # done: now it may be used
    assert memory.take(SHAPE).ctypes.data == address
    assert late.num_allocated == 2 and late.num_waits == 0


def test_a_part_of_a_batch_keeps_all_of_its_memory_until_it_is_copied() -> None:
    """Who copies a batch in parts would find the next one in them."""
    late = LateDevice()
    memory = BatchMemory(late)
    array = memory.take(SHAPE)
    array[:] = np.arange(4)[:, None]
    there = memory.to_device(torch.from_numpy(array)[2:3, 10:], CPU)
    del array
    memory.take(SHAPE)[:] = 9
    late.finish(1)
    assert is_full_of(there, 2) and late.num_allocated == 2
    assert late.copied == [(1, 990)]


def test_a_device_far_behind_makes_readers_wait_instead_of_taking_more() -> None:
    """Page-locked memory would grow until the machine has none for anything else."""
    late = LateDevice()
    memory = BatchMemory(late)
    copies = [sent(memory, value) for value in range(50)]
    assert late.num_allocated == MAX_WAITING == 8
    assert late.num_waits == 50 - 8
    late.finish(50)
    assert [is_full_of(copy, n) for n, copy in enumerate(copies)] == [True] * 50


def test_batches_that_somebody_holds_get_memory_without_waiting() -> None:
    """A job would hang: nothing that it waits for would be on its way."""
    late = LateDevice()
    memory = BatchMemory(late)
    held = [memory.take(SHAPE) for _ in range(50)]
    assert late.num_allocated == 50 and late.num_waits == 0
    assert len({array.ctypes.data for array in held}) == 50
    del held
    sent(memory, 1)
    assert late.num_allocated == 50


def test_nobody_waits_for_a_device_that_keeps_up() -> None:
    """Threads would read a batch only when the one before is copied."""
    late = LateDevice(lag=3)
    memory = BatchMemory(late)
    copies = [sent(memory, value) for value in range(50)]
    late.finish(3)
    assert late.num_waits == 0 and late.num_allocated == 4
    assert [is_full_of(copy, n) for n, copy in enumerate(copies)] == [True] * 50


def test_short_batches_and_targets_have_memory_of_their_size() -> None:
    """The last batch of each shard would have new memory page-locked, or keep more."""
    late = LateDevice(lag=0)
    memory = BatchMemory(late)
    for _ in range(10):
        for shape in ((32, 32000), (31, 32000), (32, 527)):
            sent(memory, 1, shape)
    assert late.num_allocated == 2


def test_threads_that_read_get_no_memory_that_another_batch_is_copied_from() -> None:
    """With 16 loader threads a batch would now and then be that of another thread."""
    late = LateDevice(lag=5)
    memory = BatchMemory(late)
    numbers = itertools.count()

    def read(_: int) -> list[tuple[int, Tensor]]:
        values = list(itertools.islice(numbers, 200))
        shapes = itertools.cycle([SHAPE, (4, 900), (3, 20)])
        return [
            (value % 30000, sent(memory, value % 30000, shape))
            for value, shape in zip(values, shapes, strict=False)
        ]

    with ThreadPoolExecutor(6) as pool:
        made = [pair for pairs in pool.map(read, range(6)) for pair in pairs]
    late.finish(5)
    assert len(made) == 1200
    assert all(is_full_of(copy, value) for value, copy in made)
    assert late.num_lost == 0
    assert late.num_allocated <= 2 * (MAX_WAITING + 2 * 6)


@pytest.mark.parametrize("fails_at", [None, 12])
def test_a_run_that_ends_or_fails_gives_all_memory_back_after_its_copies(
    fails_at: int | None,
) -> None:
    """A GPU would fetch from memory that is something else by now, or none of ours."""
    late = LateDevice(lag=5)
    seen = 0

    def run() -> None:
        nonlocal seen
        memory = BatchMemory(late)

        def make(value: int) -> Tensor:
            copy = sent(memory, value)
            if value == fails_at:
                raise OSError("the disk is gone")
            return copy

        for _ in fetch_ahead(make, range(20), LoaderConfig(threads=2, prefetch=3)):
            seen += 1

    if fails_at is None:
        run()
    else:
        with pytest.raises(OSError, match="the disk is gone"):
            run()
    assert seen == (20 if fails_at is None else fails_at)
    gc.collect()
    assert late.num_alive == 0 and late.num_lost == 0
    assert late.num_waits >= 1


def test_an_array_may_outlive_the_memory_that_made_it() -> None:
    """A batch in a queue of its own would lose its samples with the run."""
    late = LateDevice()
    memory = BatchMemory(late)
    array = memory.take(SHAPE)
    array[:] = 3
    there = memory.to_device(array, CPU)
    del memory
    assert (array == 3).all() and late.num_alive == 1
    del array
    assert is_full_of(there, 3) and late.num_alive == 0 and late.num_lost == 0


def test_on_a_cpu_nothing_is_copied_or_locked() -> None:
    """Training without a GPU would copy each batch once more."""
    memory = BatchMemory.for_device(CPU)
    array = memory.take(SHAPE)
    there = memory.to_device(array, CPU)
    assert there.data_ptr() == array.ctypes.data
    assert copier_for(CPU) is None


class FakeCuda:
    """In the place of what GpuCopier calls of torch; notes the order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        done = self.done

        class Device:
            def __init__(self, device: torch.device) -> None:
                self.name = str(device)

            def __enter__(self) -> None:
                done.append(f"on {self.name}")

            def __exit__(self, *_: Any) -> None:
                done.append("back")

        class Event:
            def __init__(self, *, blocking: bool) -> None:
                assert blocking

            def record(self, stream: str) -> None:
                done.append(f"record in {stream}")

            def query(self) -> bool:
                done.append("query")
                return False

            def synchronize(self) -> None:
                done.append("wait")

        def move(tensor: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
            assert non_blocking
            done.append(f"copy to {device}")
            return tensor

        monkeypatch.setattr(torch.cuda, "device", Device)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the stream")
        monkeypatch.setattr(Tensor, "to", move)


def test_the_event_is_recorded_behind_the_copy_in_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that comes first says that a copy is done which has not begun."""
    cuda = FakeCuda(monkeypatch)
    copier = copier_for(torch.device("cuda", 3))
    assert isinstance(copier, GpuCopier)
    _, mark = copier.copy(torch.zeros(3))
    steps = ["on cuda:3", "copy to cuda:3", "record in the stream", "back"]
    assert cuda.done == steps
    cuda.done.clear()
    assert not mark.query()
    assert cuda.done == ["on cuda:3", "query", "back"]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A system that locks no memory; whether it was asked to, each time."""
    asked: list[bool] = []

    def refuse(*_: Any, **options: Any) -> Tensor:
        asked.append(True)
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    monkeypatch.setattr(page_locked, "_refusals", itertools.count())
    yield asked


def test_where_no_memory_may_be_locked_one_warning_says_so_and_the_run_goes_on(
    refusing: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A container with a limit would end the run, or silently be slow."""
    cuda = FakeCuda(monkeypatch)
    memory = BatchMemory(GpuCopier(GPU))
    with caplog.at_level(logging.WARNING):
        arrays = [memory.take(SHAPE) for _ in range(3)]
        for array in arrays:
            array[:] = 5
            assert is_full_of(memory.to_device(array, GPU), 5)
        lengths = memory.to_device(np.array([1000] * 4), GPU)
    assert lengths.tolist() == [1000] * 4
    assert len(refusing) == 4
    assert cuda.done.count("copy to cuda") == 4
    assert cuda.done.count("record in the stream") == 3
    (said,) = caplog.messages
    assert said.startswith("no page-locked memory (CUDA error: out of memory): ")
    assert "ulimit -l" in said and "loader.prefetch" in said


def test_waiting_readers_do_not_stop_the_thread_that_drops_batches() -> None:
    """A batch may end in any thread, also one that waits: a lock would deadlock."""
    late = LateDevice()
    memory = BatchMemory(late)
    for value in range(MAX_WAITING):
        sent(memory, value)
    held = memory.take((3, 20))
    taken: list[np.ndarray] = []
    late.lock.acquire()
    try:
        reader = threading.Thread(target=lambda: taken.append(memory.take(SHAPE)))
        reader.start()
        del held  # returns while the reader waits for the device
        reader.join(0.2)
        assert reader.is_alive() and not taken
    finally:
        late.lock.release()
    reader.join(10)
    assert len(taken) == 1 and late.num_waits == 1
