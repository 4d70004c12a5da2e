"""How fast training and labelling are on a device; a process for each measurement.

Run by tools/gpu/check.py: ``python -m tools.gpu.speed WHAT TASK OUT``, where TASK and
OUT are JSON. Measures the product's own loops, data included.
"""

from __future__ import annotations

import copy
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from psl.config import parse
from psl.data.loader import WaitMeter
from psl.distributed import runtime
from psl.labelling import job
from psl.labelling.config import LabelConfig
from psl.labelling.worker import ShardWorker
from psl.training.config import TrainConfig
from psl.training.optim import build_optimizer
from psl.training.run import Run, make_step
from psl.training.step import Stepper
from shards.format.index import open_index
from tools.bench.opened import opened_run
from tools.bench.scaling import endless, make_dataset, make_labels
from tools.gpu import rounds

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


def make_data(folder: str, num_clips: int, num_classes: int) -> dict[str, Any]:
    """Audio, and a dense label for each chunk of 2 s; how fast they were written."""
    start, audio = time.perf_counter(), Path(folder)
    make_dataset(audio, num_clips, num_classes=num_classes)
    make_labels(audio.parent / "labels", audio)
    return {"clips_per_second": num_clips / (time.perf_counter() - start)}


def stepping(step: Stepper, batches: Callable[[], Any]) -> rounds.Kind:
    """The product's step on what ``batches`` gives."""
    numbers = itertools.count(1)
    return lambda: step(batches(), next(numbers), learning_rate=1e-4, stop=False)


def time_training(config: TrainConfig, num_steps: int) -> dict[str, Any]:
    """Figures of ``num_steps`` steps, after a few to warm up."""
    with opened_run(config) as (run, state):
        fetched = WaitMeter(endless(run, state))
        step = stepping(run.step, lambda: next(fetched))
        _repeat(step, min(WARM_UP_STEPS, num_steps))
        before, memory = fetched.waited_seconds, _resident_mb()
        seconds = _repeat(step, num_steps)
        waited = fetched.waited_seconds - before
        growth, batch = _resident_mb() - memory, next(fetched)
        resident = _repeat(stepping(run.step, lambda: batch), RESIDENT_STEPS)
    chunks = config.chunks_per_step
    return {
        "chunks_per_second": round(num_steps * chunks / seconds, 1),
        "without_loader": round(RESIDENT_STEPS * chunks / resident, 1),
        "wait_share": round(waited / seconds, 4),
        "growth_mb": round(growth, 1),
        "peak_gb": _peak_gb(),
    }


def _repeat(step: rounds.Kind, number: int) -> float:
    """Seconds that ``number`` steps take."""
    start = time.perf_counter()
    for _ in range(number):
        step()
    rounds.wait_for_device()
    return time.perf_counter() - start


def compare_product(config: TrainConfig, task: dict[str, Any]) -> dict[str, Any]:
    """The product's step on one batch, beside the bare step."""
    chunks, steps = config.chunks_per_step, task["steps"]
    plain = rounds.BareStep(config.model, task["num_classes"], chunks)
    with opened_run(config) as (run, state):
        batch = next(iter(endless(run, state)))
        product = stepping(run.step, lambda: batch)
        kinds: dict[str, rounds.Kind] = {"product": product, "bare": plain}
        if config.cuda_graph:
            graph = rounds.BareStep(config.model, task["num_classes"], chunks)
            kinds["bare graph"] = graph.as_graph()
        else:
            at_once = _read_at_once(config, run)
            kinds["verdict read at once"] = stepping(at_once, lambda: batch)
        found = rounds.in_turn(kinds, rounds=task["rounds"], steps=steps, chunks=chunks)
        activity = rounds.activity(product, steps)
    others = [name for name in kinds if name != "product"]
    ratios = {f"product / {o}": rounds.ratio(found, "product", o) for o in others}
    return {**rounds.speeds_of(found), **ratios, **activity}


def _read_at_once(config: TrainConfig, run: Run) -> Stepper:
    """The product's step, if the host waited for the verdict of each."""
    model = copy.deepcopy(run.bare_model).train()
    fused = run.accelerator.device.type == "cuda"
    optimizer = build_optimizer(model, config.optim, fused=fused)
    return make_step(config, run.accelerator, model, optimizer)


def time_labelling(config: LabelConfig) -> dict[str, Any]:
    """Figures of psl.label, from its first claim on, and of its teacher alone."""
    workers: list[ShardWorker] = []
    start = 0.0

    def made(*arguments: Any, **options: Any) -> ShardWorker:
        nonlocal start
        workers.append(ShardWorker(*arguments, **options))
        start = time.perf_counter()
        return workers[-1]

    work = job.open_work(config)
    with mock.patch.object(job, "ShardWorker", made):
        job.label_shards(config, work)
    seconds = time.perf_counter() - start
    num_chunks = _num_chunks(Path(config.out))
    shape = (config.batch_size, rounds.NUM_SAMPLES)
    waveform = 0.1 * torch.randn(shape, device=work.device)
    lengths = torch.full((config.batch_size,), rounds.NUM_SAMPLES, device=work.device)
    bare = _repeat(lambda: work.score(waveform, lengths, None), RESIDENT_STEPS)
    bare_speed = RESIDENT_STEPS * config.batch_size / bare
    return {
        "chunks_per_second": round(num_chunks / seconds, 1),
        "bare": round(bare_speed, 1),
        "of_bare": round(num_chunks / seconds / bare_speed, 4),
        "wait_share": round(sum(w.waited_seconds for w in workers) / seconds, 4),
        "chunks": num_chunks,
        "peak_gb": _peak_gb(),
    }


def _num_chunks(folder: Path) -> int:
    """Rows of all labels of a dataset."""
    return int(open_index(str(folder), kind="labels").table.count.sum())


def _resident_mb() -> float:
    """Memory of this process that is in RAM, 1e6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak_gb() -> float | None:
    """Most memory that tensors took on the GPU, 1e9 bytes."""
    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 1e9, 3)


def _train_config(task: dict[str, Any]) -> TrainConfig:
    return parse(TrainConfig, task["config"], where="gpu_speed")


MEASUREMENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "facts": lambda task: facts(),
    "data": lambda task: make_data(**task),
    "train": lambda task: time_training(_train_config(task), task["num_steps"]),
    "product": lambda task: compare_product(_train_config(task), task),
    "bare": rounds.compare_bare,
    "published": rounds.compare_published,
    "arithmetic": rounds.compare_arithmetic,
    "compile": rounds.compare_compiled,
    "ratios": lambda task: rounds.ratios_of(**task),
    "label": lambda task: time_labelling(parse(LabelConfig, task, where="gpu_speed")),
}


def main() -> None:
    """``tools/gpu/speed.py WHAT TASK OUT``."""
    what, task, out = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    out.write_text(json.dumps(MEASUREMENTS[what](task)))


if __name__ == "__main__":
    main()
