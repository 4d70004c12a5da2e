"""Work spread over processes that end with their parent.

Owns the pool, its progress bar and what happens when a worker, or the parent, dies.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from shards.system.exits import JobError
from shards.system.threads import start_thread


@dataclass(frozen=True)
class Task:
    """One call to be made in a worker process."""

    size: int
    """How far the progress bar moves when it is done."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def default_workers() -> int:
    """Cores this process may use, which on a cluster is fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def check_workers(workers: int) -> None:
    """ValueError unless ``workers`` is a number of processes."""
    if workers < 1:
        raise ValueError(f"workers = {workers}; expected 1 or more")


def run_tasks(
    tasks: Sequence[Task],
    workers: int,
    *,
    unit: str,
    title: str,
    no_bar: bool | None = False,
) -> list[Any]:
    """The results of ``tasks``, in order, made by ``workers`` processes.

    The first exception ends the work: what is running is finished, the rest is not
    started. ``no_bar`` None: a progress bar only on a terminal. Raises JobError if a
    worker dies.
    """
    check_workers(workers)
    spawn = multiprocessing.get_context("spawn")
    total = sum(task.size for task in tasks)
    with (
        tqdm(total=total, unit=unit, desc=title, disable=no_bar) as bar,
        ProcessPoolExecutor(workers, spawn, end_with_parent) as pool,
    ):
        futures = {pool.submit(task.function, *task.arguments): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future].size)
        except BrokenProcessPool:
            raise JobError(
                "a worker process died, possibly out of memory; run again with fewer "
                "--workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def end_with_parent() -> None:
    """Make this worker process end when its parent is killed; else it waits forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    start_thread(wait, name="parent")
