"""What the ways that use torch's DataLoader share.

Owns how chunks of clips are numbered and drawn, without any library's help.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tools.bench.peers.task import SEED, Task


def loader_options(task: Task) -> dict[str, Any]:
    """What every DataLoader of whole batches is given."""
    return {
        "batch_size": task.batch_size,
        "num_workers": task.workers,
        "persistent_workers": task.workers > 0,
        "drop_last": True,
    }


def random_batches(dataset: Dataset[Any], task: Task) -> Iterator[Any]:
    """Batches of a dataset with a length, in a new random order every epoch.

    By torch's own samplers: a seeded generator alone, DistributedSampler among ranks.
    """
    sampler: DistributedSampler[Any] | None = None
    generator = torch.Generator().manual_seed(SEED)
    if task.world_size > 1:
        sampler = DistributedSampler(
            dataset, task.world_size, task.rank, seed=SEED, drop_last=True
        )
    loader = DataLoader(
        dataset,
        sampler=sampler,
        shuffle=sampler is None,
        generator=generator,
        **loader_options(task),
    )
    epoch = 0
    while True:
        if sampler is not None:
            sampler.set_epoch(epoch)
        yield from loader
        epoch += 1
