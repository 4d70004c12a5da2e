"""What a run would be on N processes, played by one: its plan, memory and reads.

Owns the stand-in for a rank and the figures. What refuses a configuration is the code
of a real job (psl/training/parts.py, psl/training/resume.py); no process group is
needed, since the order is a pure function of rank and world size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from psl.distributed import launch, runtime
from psl.distributed.config import Strategy
from psl.models.cost import Cost, step_cost
from psl.training.config import TrainConfig
from psl.training.parts import Parts, agreed, open_parts
from psl.training.resume import read_saved
from shards.format.index import Index

ADAM_BYTES, FLOAT_BYTES = 8, 4
"""Per parameter: Adam's two moments; a float32."""


@dataclass(frozen=True)
class Stand:
    """Takes the place of an Accelerator where a job only asks who it is."""

    process_index: int
    num_processes: int
    distributed_type: DistributedType
    state: Any
    """The ZeRO stage, where DeepSpeed would have it."""
    device: torch.device

    @property
    def is_main_process(self) -> bool:
        """As of rank 0."""
        return self.process_index == 0


def stand_of(
    rank: int, world_size: int, strategy: Strategy, device: str
) -> Accelerator:
    """Rank ``rank`` of ``world_size``."""
    kind, settings = DistributedType.MULTI_GPU, {}
    if strategy != "ddp":
        kind = DistributedType.DEEPSPEED
        stage = launch.ZERO_STRATEGIES.index(strategy) + 1
        settings = {"zero_optimization": {"stage": stage}}
    plugin = SimpleNamespace(deepspeed_config=settings)
    state = SimpleNamespace(deepspeed_plugin=plugin)
    stand = Stand(rank, world_size, kind, state, torch.device(device))
    return cast(Accelerator, stand)


@dataclass(frozen=True)
class Reads:
    """What each rank reads in an epoch; [world] int64 each."""

    chunks: np.ndarray
    shards: np.ndarray
    """Audio shards that it reads from."""
    shard_bytes: np.ndarray
    """All of these, with their label shards: what a cache fetches."""
    audio_bytes: np.ndarray
    """Of the chunks it reads in these shards: WAV by chunk, other codecs by clip."""


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of one process."""

    weights: float
    gradients: float
    """With the flat copy that is reduced."""
    optimizer: float
    average: float
    """The moving average of the weights."""
    activations: float
    """Of one part of its share, in float32; bfloat16 needs less."""
    teacher: float
    """Weights of an online teacher."""
    batches: float
    """Main memory: batches that are fetched ahead."""


@dataclass(frozen=True)
class Rehearsal:
    """What N processes would do."""

    world_size: int
    config: TrainConfig
    steps_per_epoch: int
    total_steps: int
    chunks_per_rank: int
    chunks_per_part: int
    cost: Cost
    memory: Memory
    reads: Reads
    batches: dict[int, list[list[str]]]
    """Of chosen ranks, the keys in their first batches."""
    seconds: dict[str, float]
    """What the start of the data side took here."""
    resumes_after: int
    """Steps that are done; 0 for a new run."""


def rehearse(
    config: TrainConfig,
    world_size: int,
    *,
    ranks: Sequence[int] = (0,),
    num_batches: int = 2,
    device: str = "cuda",
) -> Rehearsal:
    """Play the start of ``world_size`` processes, and their first epoch's reads.

    ``device`` is what they would compute on. Raises what they would raise, and
    ValueError for ``ranks`` that there are not.
    """
    if wrong := [rank for rank in ranks if rank >= world_size]:
        raise ValueError(f"ranks {wrong}: expected 0 to {world_size - 1} (world - 1)")
    seconds: dict[str, float] = {}
    _check_run_dir(config.run_dir)
    config = agreed(config)
    strategy = config.strategy or "ddp"
    launch.check_installed(strategy)
    begin = time.perf_counter()
    stand = stand_of(0, world_size, strategy, device)
    parts = open_parts(config, stand, teacher_device=torch.device("cpu"))
    seconds["open the data"] = time.perf_counter() - begin
    saved = read_saved(parts.schedule, parts.fingerprint)
    for rank in ranks:
        parts.data.check_cache(parts.plan, rank=rank, world_size=world_size)
    begin = time.perf_counter()
    first = next(parts.plan.steps(0, rank=0, world_size=world_size))
    seconds["order of the first batch"] = time.perf_counter() - begin
    if not parts.data.is_remote:
        begin = time.perf_counter()
        parts.data.batch(*first, torch.device("cpu"))
        seconds["read the first batch"] = time.perf_counter() - begin
    index = parts.data.audio.index
    num_samples = parts.data.chunking.chunk_samples
    cost = step_cost(config.model, len(index.classes), num_samples)
    share = config.chunks_per_step // world_size
    return Rehearsal(
        world_size=world_size,
        config=config,
        steps_per_epoch=parts.plan.num_steps,
        total_steps=parts.schedule.total_steps,
        chunks_per_rank=share,
        chunks_per_part=share // config.accumulation_steps,
        cost=cost,
        memory=_memory(parts, config, cost, world_size),
        reads=count_reads(parts, world_size),
        batches={r: _keys(parts, r, world_size, num_batches) for r in ranks},
        seconds=seconds,
        resumes_after=parts.schedule.steps_done(saved.training) if saved else 0,
    )


def _check_run_dir(run_dir: str) -> None:
    """ValueError if no run can have this folder; nothing is written."""
    place = Path(os.path.abspath(run_dir))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"run_dir = {run_dir}: {place} is no folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"run_dir = {run_dir}: no right to write into {place}; choose another"
        )


def _keys(parts: Parts, rank: int, world_size: int, number: int) -> list[list[str]]:
    """The keys of the chunks in the first batches of a rank."""
    index = parts.data.audio.index
    steps = parts.plan.steps(0, rank=rank, world_size=world_size)
    return [
        [index.key(int(row)) for row in rows]
        for (rows, _), _ in zip(steps, range(number), strict=False)
    ]


def count_reads(parts: Parts, world_size: int) -> Reads:
    """What each rank reads in epoch 0, from the global batches, whose order it is."""
    index, chunking = parts.data.audio.index, parts.data.chunking
    seen = np.zeros((world_size, len(index.shards)), bool)
    chunks = np.zeros(world_size, np.int64)
    audio = np.zeros(world_size, np.int64)
    by_chunk = index.properties["codec"] == "wav"
    for rows, numbers in parts.plan.steps(0):
        shares = rows.reshape(world_size, -1)
        ranks = np.arange(world_size)[:, None].repeat(shares.shape[1], 1)
        seen[ranks, index.table.shard[shares]] = True
        chunks += shares.shape[1]
        if by_chunk:
            starts, stops = chunking.bounds(numbers, index.table.count[rows])
            sizes = 2 * (stops - starts)
        else:
            sizes = index.table.size[rows]
        audio += sizes.reshape(world_size, -1).sum(1)
    labels = parts.data.labels.index if parts.data.labels else None
    sizes = _shard_bytes(index)
    if labels is not None:
        sizes = sizes + _shard_bytes(labels)
    return Reads(chunks, seen.sum(1), seen @ sizes, audio)


def _shard_bytes(index: Index) -> np.ndarray:
    """Of each shard [S], int64."""
    return np.array([shard.num_bytes for shard in index.shards], np.int64)


def _memory(parts: Parts, config: TrainConfig, cost: Cost, world_size: int) -> Memory:
    strategy, number = config.strategy or "ddp", cost.num_parameters
    splits = {
        part: world_size if strategy in strategies else 1
        for part, strategies in {
            "optimizer": ("zero1", "zero2", "zero3"),
            "gradients": ("zero2", "zero3"),
            "weights": ("zero3",),
        }.items()
    }
    share = config.chunks_per_step // world_size
    flat = 2 if strategy == "ddp" and world_size > 1 else 1
    threads = config.loader.threads or runtime.default_threads()
    ahead = config.loader.prefetch + threads
    num_classes = len(parts.data.audio.index.classes)
    example = 2 * parts.data.chunking.chunk_samples + FLOAT_BYTES * num_classes
    return Memory(
        weights=FLOAT_BYTES * number / splits["weights"] + cost.buffer_bytes,
        gradients=flat * FLOAT_BYTES * number / splits["gradients"],
        optimizer=ADAM_BYTES * number / splits["optimizer"],
        average=FLOAT_BYTES * number if config.optim.ema_decay else 0,
        activations=cost.activation_bytes_per_chunk
        * (share // config.accumulation_steps),
        teacher=parts.online.weight_bytes if parts.online else 0,
        batches=ahead * share * example,
    )
