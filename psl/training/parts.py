"""What a run is made of before any process talks to another: data, order, teacher.

Owns what refuses a configuration for the data or the number of processes it is to be
run with. A job goes through here, and so does a rehearsal (psl/training/rehearsal.py).
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from psl.data.checks import check_fits
from psl.data.examples import TrainingData
from psl.data.loader import open_cache
from psl.data.mixup import Mixup
from psl.data.validation import TRAIN, Validation
from psl.distributed import launch, runtime
from psl.teachers.load import load_teacher
from psl.training.checks import check_possible
from psl.training.config import TrainConfig
from psl.training.datasets import open_data
from psl.training.online import OnlineTeacher
from psl.training.schedule import Schedule
from psl.training.tracking import check_board
from shards.format.index import Index
from shards.order.plan import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What fits together."""

    data: TrainingData
    valid: Validation
    plan: Plan
    schedule: Schedule
    mixup: Mixup | None
    online: OnlineTeacher | None
    fingerprint: str
    """Of the examples in their order, their targets, and the validation."""


def agreed(config: TrainConfig) -> TrainConfig:
    """``config`` with what the launcher says; ValueError if they contradict."""
    return dataclasses.replace(
        config,
        global_batch_size=config.chunks_per_step,
        precision=launch.agreed_precision(config.precision),
        strategy=launch.agreed_strategy(config.strategy),
    )


def open_parts(
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    teacher_device: torch.device | None = None,
) -> Parts:
    """Open everything and check that it fits.

    Raises ValueError or ShardError if it does not, or cannot be read. An online
    teacher goes to ``teacher_device``; None for that of the process.
    """
    device = teacher_device or accelerator.device
    data, valid, plan = _open_fitting_data(config, accelerator)
    check_board(config.board, valid.index.classes)
    mixup = _open_mixup(config, plan, accelerator)
    online = _open_teacher(config, data.audio.index, device)
    targets = f"{data.fingerprint}+{online.identity}" if online else data.fingerprint
    return Parts(
        data=data,
        valid=valid,
        plan=plan,
        schedule=Schedule(config, plan.num_steps),
        mixup=mixup,
        online=online,
        fingerprint=plan.fingerprint(f"{targets}+{valid.fingerprint}"),
    )


def _open_fitting_data(
    config: TrainConfig, accelerator: Accelerator
) -> tuple[TrainingData, Validation, Plan]:
    """The datasets, as far as they fit the model, the options and the processes."""
    data, valid, plan = open_data(config)
    if accelerator.is_main_process:
        _announce(config, data)
    for index in (data.audio.index, valid.index):
        check_fits(
            index,
            sample_rate=config.model.front_end.sample_rate,
            classes=data.audio.index.classes,
            what="the model",
        )
    check_possible(config, plan, accelerator)
    return data, valid, plan


def _announce(config: TrainConfig, data: TrainingData) -> None:
    """Print what a user may not expect about the data."""
    if left_out := data.num_unlabelled:
        _log.warning(
            "%d of %d clips have no labels: left out", left_out, len(data.audio.index)
        )
    if config.data.valid == TRAIN:
        _log.warning(
            "validation on the training clips: its mAP says little about new ones"
        )


def _open_teacher(
    config: TrainConfig, audio: Index, device: torch.device
) -> OnlineTeacher | None:
    """The teacher on ``device``, if labels are computed online."""
    if config.data.teacher is None:
        return None
    cache = open_cache(config.loader)
    teacher = load_teacher(config.data.teacher, audio, cache=cache)
    runtime.move_model(teacher.model.requires_grad_(False), device)
    return OnlineTeacher(teacher, alpha=config.data.alpha)


def _open_mixup(
    config: TrainConfig, plan: Plan, accelerator: Accelerator
) -> Mixup | None:
    return Mixup.from_config(
        config.augment,
        seed=config.seed,
        global_batch_size=config.chunks_per_step,
        share=plan.local_slice(accelerator.process_index, accelerator.num_processes),
    )
