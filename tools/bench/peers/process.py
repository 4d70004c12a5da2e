"""One trial of one way of reading, in a process of its own.

Owns what is measured there: ``speed`` times it, ``digests`` says which chunks each
batch holds. Started by tools/bench/peers/compare.py; the answer is the last line of
stdout, JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import itertools
import json
import os
import pickle
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # else loaded by whoever shuffles first, and timed
import psutil
import torch

from tools.bench.peers.task import PEERS, Task


def cpu_seconds() -> float:
    """Processor time of this process and its children so far, ended ones too."""
    own = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    living = (child.cpu_times() for child in _family()[1:])
    return sum(times.ru_utime + times.ru_stime for times in own) + sum(
        times.user + times.system for times in living
    )


def private_bytes() -> int:
    """Memory of this process and its living children that is no file's."""
    return sum(
        int(line.split()[1]) * 1024
        for process in _family()
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Anonymous:")
    )


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def measure_speed(module: Any, task: Task, seconds: float) -> dict[str, float]:
    """First batch from opening on, then the rate over about ``seconds``."""
    gc.collect()
    memory, start = private_bytes(), time.perf_counter()
    batches = iter(module.Reader(task))
    next(batches)
    first = time.perf_counter() - start
    for _ in range(3):  # what is done once is in the first batches
        next(batches)
    cpu, begin, count = cpu_seconds(), time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        next(batches)
        count += 1
    chunks = count * task.batch_size
    return {
        "first_batch_seconds": first,
        "chunks_per_second": chunks / passed,
        "cpu_microseconds_per_chunk": (cpu_seconds() - cpu) / chunks * 1e6,
        "private_bytes": private_bytes() - memory,
    }


def digests(module: Any, task: Task, state: Path | None, first: int, count: int) -> Any:
    """Hashes of the chunks of ``count`` batches, after ``first`` that are skipped.

    ``state`` is loaded where it exists; else it is written after the last batch, if
    the library has one. Both by our own processes.
    """
    loaded = None
    if state is not None and state.exists():
        loaded = pickle.loads(state.read_bytes())
    reader = module.Reader(task, loaded)
    batches: Iterator[Any] = itertools.islice(iter(reader), first, first + count)
    found = [[_digest(chunk) for chunk in np.asarray(batch)] for batch in batches]
    saved = reader.state()
    if state is not None and loaded is None and saved is not None:
        state.write_bytes(pickle.dumps(saved))
    return {"batches": found, "has_state": saved is not None}


def _digest(chunk: np.ndarray) -> str:
    if chunk.dtype == np.float32:
        chunk = np.round(chunk * 32768)
    return hashlib.sha256(chunk.astype(np.int16).tobytes()).hexdigest()[:16]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("mode", choices=["prepare", "speed", "digests"])
    add("module", choices=[peer.module for peer in PEERS])
    add("--audio", type=Path, required=True)
    add("--folder", type=Path, required=True)
    add("--batch", type=int, required=True)
    add("--workers", type=int, default=0)
    add("--seconds", type=float, default=1.0)
    add("--state", type=Path)
    add("--first", type=int, default=0)
    add("--count", type=int, default=0)
    return parser.parse_args()


def _try(args: argparse.Namespace) -> Any:
    task = Task(args.audio, args.folder, args.batch, args.workers)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
        rank = int(os.environ["RANK"])
        task = replace(task, rank=rank, world_size=world_size)
    module = importlib.import_module(f"tools.bench.peers.{args.module}")
    if args.mode == "prepare":
        module.prepare(task)
        return {}
    if args.mode == "speed":
        return measure_speed(module, task, args.seconds)
    return digests(module, task, args.state, args.first, args.count)


def main() -> None:
    """Print the answer and leave at once: workers of a library may not end."""
    torch.set_num_threads(1)
    answer = _try(_arguments())
    print(json.dumps(answer), flush=True)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
