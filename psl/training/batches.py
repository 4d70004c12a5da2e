"""The batches of a run: fetched ahead, mixed, and labelled by an online teacher.

Owns the order of these, and what happens in which thread.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch

from psl.data.batch import Batch
from psl.data.loader import fetch_ahead
from psl.training.config import TrainConfig
from psl.training.run import Run
from psl.weights.checkpoint import TrainingState
from shards.system.exits import JobError


def batches(run: Run, state: TrainingState) -> Iterator[Batch]:
    """This rank's batches of the rest of the epoch, before an online teacher."""
    order = run.data.steps(
        run.plan,
        state.epoch,
        start=state.step_in_epoch,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    device = run.accelerator.device
    prepares = run.online is not None and run.online.prepares
    # back from a GPU, a loader thread would wait for all that is queued there
    made_on = torch.device("cpu") if prepares else device
    put = functools.partial(run.data.memory.to_device, device=device)
    first = run.schedule.steps_done(state) + 1

    def fetch(item: tuple[int, tuple[np.ndarray, np.ndarray]]) -> Batch:
        step, chosen = item
        run.attempt.inject("data", step)
        views = run.data.choose_views(*chosen, seed=run.config.seed, epoch=state.epoch)
        batch = run.data.batch(*chosen, made_on, views, step)
        if run.mixup and (run.online is None or _hears_mixtures(run.config)):
            batch = run.mixup.mix(batch, step)
        if run.online is not None and prepares:
            return run.online.prepare(batch).put(put)
        return batch

    return fetch_ahead(fetch, enumerate(order, start=first), run.config.loader)


def teach(run: Run, batch: Batch, step: int) -> Batch:
    """The batch of a step with the online teacher's targets, if there is one.

    In the training loop: the teacher's time would otherwise pass for waiting.
    """
    if run.online is None:
        return batch
    batch = run.online.teach(batch, step)
    if run.mixup and not _hears_mixtures(run.config):
        batch = run.mixup.mix(batch, step)
    return batch


def _hears_mixtures(config: TrainConfig) -> bool:
    return config.augment.mixup_labels == "heard"


def check_teacher(run: Run, step: int) -> None:
    """JobError naming clip and teacher if targets of a step were not probabilities.

    Collective.
    """
    if run.online is None:
        return
    bad = run.accelerator.gather(run.online.bad_chunks(step).int()).tolist()
    if 1 in bad:
        epoch, done = divmod(step - 1, run.plan.num_steps)
        rows, _ = next(run.plan.steps(epoch, start=done))
        clip = run.data.audio.index.place(int(rows[bad.index(1)]))
        raise JobError(
            f"{clip}: teacher {run.online.blame()} returned values outside [0, 1] at "
            f"step {step}; use another teacher, or drop the clip"
        )
