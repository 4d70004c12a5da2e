"""What the plan of full AudioSet costs one rank: prints one line of JSON.

    python -m tools.bench.plan_scale --world 64 --weighted

Owns the measurement only: a synthetic index of 2,084,320 clips of 5 chunks, global
batches of 2048. CPU seconds, and megabytes by which the process grows at its peak.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from shards.order.plan import Plan
from tools.bench.memory import peak_bytes

NUM_CLIPS = 2_084_320
CLIPS_PER_SHARD = 500
GLOBAL_BATCH_SIZE = 2048


def cpu_seconds(make: Callable[[], object]) -> float:
    """CPU seconds of this process that ``make`` takes."""
    begin = time.process_time()
    make()
    return time.process_time() - begin


def measure(world: int, weighted: bool) -> dict[str, float]:
    """Cost of the first batch of an epoch and of one in the middle, plan included."""
    rng = np.random.default_rng()
    counts = np.full(NUM_CLIPS, 5)
    shards, rest = divmod(NUM_CLIPS, CLIPS_PER_SHARD)
    sizes = np.append(np.full(shards, CLIPS_PER_SHARD), rest)
    weights = rng.permutation(np.linspace(0.5, 1.5, NUM_CLIPS)) if weighted else None
    rank, middle = int(rng.integers(world)), int(rng.integers(5000))

    def start(step: int) -> np.ndarray:
        plan = Plan(counts, sizes, GLOBAL_BATCH_SIZE, 7, weights=weights)
        return next(plan.steps(2, start=step, rank=rank, world_size=world))[0]

    before = peak_bytes()
    first, resumed = cpu_seconds(lambda: start(0)), cpu_seconds(lambda: start(middle))
    return {
        "world": world,
        "first_seconds": round(first, 3),
        "resume_seconds": round(resumed, 3),
        "megabytes": (peak_bytes() - before) // 2**20,
        "share_of_batch": len(start(middle)),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.plan_scale", description=__doc__
    )
    parser.add_argument("--world", type=int, required=True, help="number of ranks")
    parser.add_argument("--weighted", action="store_true", help="weights of 0.5 to 1.5")
    args = parser.parse_args()
    print(json.dumps(measure(args.world, args.weighted)))


if __name__ == "__main__":
    main()
