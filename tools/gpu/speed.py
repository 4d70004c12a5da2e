"""How fast training and labelling are on a device; a process for each measurement.

Run by tools/gpu/check.py: ``python -m tools.gpu.speed WHAT TASK OUT``, where TASK and
OUT are JSON. Measures the product's own loops, data included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from psl.config import parse
from psl.data.loader import WaitMeter
from psl.distributed import launch, runtime
from psl.job.attempt import Attempt
from psl.labelling import job
from psl.labelling.config import LabelConfig
from psl.labelling.worker import ShardWorker
from psl.training.config import TrainConfig
from psl.training.run import open_run
from shards.format.index import open_index
from tools.bench.scaling import endless, make_dataset

WARM_UP_STEPS = 20
RESIDENT_STEPS = 20
"""Steps on a batch that is there already."""


def facts() -> dict[str, Any]:
    """What torch and the driver say of the machine."""
    cuda = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "nccl": list(torch.cuda.nccl.version()) if cuda else None,
        "driver": _driver() if cuda else None,
        "cpu_threads": torch.get_num_threads(),
        "loader_threads": runtime.default_threads(),
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
    }


def _gpu(number: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(number)
    return {
        "name": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "capability": f"{properties.major}.{properties.minor}",
    }


def _driver() -> str | None:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.split("\n")[0].strip() or None


def time_training(config: TrainConfig, num_steps: int) -> dict[str, Any]:
    """Figures of ``num_steps`` steps, after a few to warm up."""
    with Attempt(config.run_dir, config.attempt, str) as attempt:
        accelerator = launch.join_job(
            precision=config.precision, global_batch_size=config.chunks_per_step
        )
        attempt.join(accelerator)
        run, state = open_run(config, accelerator, attempt)
        run.step.model.train()
        fetched = WaitMeter(endless(run, state))

        def steps(number: int, batch: Any = None) -> float:
            start = time.perf_counter()
            for step in range(number):
                with_batch = batch if batch is not None else next(fetched)
                run.step(with_batch, step + 1, learning_rate=1e-4, stop=False)
            _wait_for_device()
            return time.perf_counter() - start

        steps(min(WARM_UP_STEPS, num_steps))
        before = fetched.waited_seconds
        seconds = steps(num_steps)
        waited = fetched.waited_seconds - before
        resident = steps(RESIDENT_STEPS, next(fetched)) / RESIDENT_STEPS
        run.log.close()
        attempt.leave()
        launch.leave_job(accelerator)
    return {
        "chunks_per_second": round(num_steps * config.chunks_per_step / seconds, 1),
        "without_loader": round(config.chunks_per_step / resident, 1),
        "wait_share": round(waited / seconds, 4),
        "peak_gb": _peak_gb(),
    }


def time_labelling(config: LabelConfig) -> dict[str, Any]:
    """Figures of psl.label, from its first claim on."""
    workers: list[ShardWorker] = []
    start = 0.0

    def made(*arguments: Any, **options: Any) -> ShardWorker:
        nonlocal start
        workers.append(ShardWorker(*arguments, **options))
        start = time.perf_counter()
        return workers[-1]

    with mock.patch.object(job, "ShardWorker", made):
        job.label(config)
    seconds = time.perf_counter() - start
    num_chunks = _num_chunks(Path(config.out))
    return {
        "chunks_per_second": round(num_chunks / seconds, 1),
        "wait_share": round(sum(w.waited_seconds for w in workers) / seconds, 4),
        "chunks": num_chunks,
        "peak_gb": _peak_gb(),
    }


def _num_chunks(folder: Path) -> int:
    """Rows of all labels of a dataset."""
    return int(open_index(str(folder), kind="labels").table.count.sum())


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_gb() -> float | None:
    """Most memory that tensors took on the GPU, 1e9 bytes."""
    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 1e9, 3)


def main() -> None:
    """``tools/gpu/speed.py WHAT TASK OUT``."""
    what, task, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    if what == "facts":
        found = facts()
    elif what == "data":
        start = time.perf_counter()
        folder = Path(task["folder"])
        make_dataset(folder, task["num_clips"], num_classes=task["num_classes"])
        found = {"clips_per_second": task["num_clips"] / (time.perf_counter() - start)}
    elif what == "train":
        config = parse(TrainConfig, task["config"], where="gpu_speed")
        found = time_training(config, task["num_steps"])
    else:
        found = time_labelling(parse(LabelConfig, task, where="gpu_speed"))
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
