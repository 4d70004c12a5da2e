"""Build a run from its configuration, or resume it from its newest checkpoint.

Owns everything before the first step, and what stays the same from then on.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn, optim

from psl.data.batch_memory import BatchMemory
from psl.data.examples import TrainingData
from psl.data.mixup import Mixup
from psl.data.spec_augment import install_masks
from psl.data.validation import Validation
from psl.distributed import collectives, runtime, zero
from psl.distributed.arithmetic import choose_arithmetic
from psl.job.attempt import Attempt
from psl.models.families import build_from_config
from psl.teachers.named import checkpoint_of
from psl.teachers.origin import write_origin
from psl.training.averages import MovingAverage
from psl.training.config import TrainConfig
from psl.training.log import RunLog, note_changes, write_config, write_first_files
from psl.training.online import OnlineTeacher
from psl.training.optim import build_optimizer, optimizer_tensors, put_optimizer_tensors
from psl.training.parts import open_parts
from psl.training.profile import Profiler
from psl.training.recording import CudaRecorder, Recorder
from psl.training.resume import Saved, read_saved, shared_facts
from psl.training.schedule import Schedule
from psl.training.speed import Meter, Work, work_of
from psl.training.step import Stepper
from psl.training.tracking import Tracking
from psl.training.verdict import is_read_late
from psl.weights.checkpoint import TrainingState
from psl.weights.result import remove_result
from psl.weights.start import start_from, write_record
from shards.format.classes import Classes
from shards.format.index import Index
from shards.order.plan import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    config: TrainConfig
    accelerator: Accelerator
    attempt: Attempt
    data: TrainingData
    valid: Validation
    plan: Plan
    schedule: Schedule
    step: Stepper
    log: RunLog
    meter: Meter
    profiler: Profiler
    online: OnlineTeacher | None
    """Computes the targets; None if they are stored, or weak."""
    mixup: Mixup | None

    @property
    def average(self) -> MovingAverage | None:
        """The moving average of the weights; None if they are used as they are."""
        return self.step.average

    @property
    def bare_model(self) -> nn.Module:
        """The model without DeepSpeed's wrapper; under zero3 a part of it."""
        return self.accelerator.unwrap_model(self.step.model)

    def whole_model(self) -> nn.Module:
        """The model that is trained, with all weights. Collective.

        A copy where ranks hold a part each: they could run their own only in step,
        and in validation they have unequal numbers of batches.
        """
        if not runtime.splits_weights(self.accelerator):
            return self.bare_model
        whole = build_from_config(self.config.model, len(self.valid.index.classes))
        whole.load_state_dict(zero.gather_weights(self.bare_model))
        return runtime.move_model(whole, self.accelerator.device)

    def used_model(self) -> nn.Module:
        """What is validated, saved and used. Collective."""
        return self.average.model if self.average else self.whole_model()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The whole state of the optimizer, as a checkpoint keeps it. Collective.

        Only for the main process, where it is gathered.
        """
        keep, optimizer = self.accelerator.is_main_process, self.step.optimizer
        if runtime.is_deepspeed(self.accelerator):
            return zero.gather_optimizer(self.bare_model, optimizer, keep=keep)
        return optimizer_tensors(optimizer) if keep else {}


def open_run(
    config: TrainConfig, accelerator: Accelerator, attempt: Attempt
) -> tuple[Run, TrainingState]:
    """Open everything, check that it fits, and resume if there is a checkpoint.

    Collective. Raises ValueError, ShardError or JobError, on all ranks, if something
    does not fit or cannot be read.
    """
    choose_arithmetic(config.arithmetic)
    parts = open_parts(config, accelerator)
    valid, plan, schedule = parts.valid, parts.plan, parts.schedule
    memory = BatchMemory.for_device(accelerator.device)
    data = dataclasses.replace(parts.data, memory=memory)
    if config.data.labels_on_device:
        data = data.with_labels_on(accelerator.device)
    online, fingerprint = parts.online, parts.fingerprint
    facts = {"data": fingerprint, **shared_facts(config)}
    collectives.check_agreement(accelerator, facts)
    saved = read_saved(schedule, fingerprint)
    step = _build_step(config, accelerator, data.audio.index.classes, saved)
    state = saved.training if saved else TrainingState(0, 0, (), fingerprint)
    done = schedule.steps_done(state)
    if accelerator.is_main_process:
        is_over = schedule.is_over(state)
        _write_config(config, accelerator, saved, done, is_over=is_over)
    attempt.saved(done, state.epoch)
    run = Run(
        config=config,
        accelerator=accelerator,
        attempt=attempt,
        data=data,
        valid=valid,
        plan=plan,
        schedule=schedule,
        step=step,
        log=RunLog(
            config.run_dir,
            main=accelerator.is_main_process,
            start=done,
            total=schedule.total_steps,
            open_tracking=lambda: Tracking(config, valid, start=done),
        ),
        meter=_open_meter(config, accelerator, attempt, valid.index),
        profiler=Profiler(
            config.run_dir, config.profile, rank=accelerator.process_index, done=done
        ),
        online=online,
        mixup=parts.mixup,
    )
    return run, state


def _build_step(
    config: TrainConfig,
    accelerator: Accelerator,
    classes: Classes,
    saved: Saved | None,
) -> Stepper:
    """Model and optimizer as they were saved, or new, and the average. Collective."""
    torch.manual_seed(config.seed)  # here, as opening a teacher draws random numbers
    model = _build_model(config, len(classes), accelerator)
    if saved is not None:
        model.load_state_dict(saved.trained)
    else:
        if config.start is not None:
            collectives.from_main(lambda: _start_from(config, model, classes))
        collectives.weights_from_main(model)
    averaged = None
    if config.optim.ema_decay is not None:
        averaged = copy.deepcopy(model)  # before it is wrapped
        if saved is not None:
            averaged.load_state_dict(saved.used)
    late = is_read_late(accelerator.device) and not runtime.is_deepspeed(accelerator)
    model, optimizer = _prepare(
        accelerator,
        model,
        build_optimizer(model, config.optim, fused=late),
        saved.optimizer if saved else {},
    )
    step = make_step(
        config,
        accelerator,
        model,
        optimizer,
        late=late,
        recorder=CudaRecorder() if config.cuda_graph else None,
    )
    if averaged is not None and config.optim.ema_decay is not None:
        trained = accelerator.unwrap_model(step.model)
        step.average = MovingAverage(averaged, trained, config.optim.ema_decay)
    return step


def make_step(
    config: TrainConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: optim.Optimizer,
    *,
    late: bool = False,
    recorder: Recorder | None = None,
) -> Stepper:
    """What makes the steps of a run of ``config``; ``late`` as Stepper has it."""
    return Stepper(
        accelerator,
        model,
        optimizer,
        seed=config.seed,
        precision=config.precision,
        clip_grad_norm=config.optim.clip_grad_norm,
        accumulation_steps=config.accumulation_steps,
        nonfinite=config.nonfinite,
        compile_model=config.compile,
        bucket_mb=config.bucket_mb,
        late=late,
        recorder=recorder,
    )


def _build_model(
    config: TrainConfig, num_classes: int, accelerator: Accelerator
) -> nn.Module:
    """The model with fresh weights on the device, masking as the config says."""
    model = runtime.move_model(
        build_from_config(config.model, num_classes),
        accelerator.device,
        channels_last=not runtime.is_deepspeed(accelerator),
    )
    install_masks(
        model,
        config.augment,
        config.model.front_end,
        chunk_seconds=config.data.chunk_seconds,
    )
    if config.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _start_from(config: TrainConfig, model: nn.Module, classes: Classes) -> None:
    """Put the weights that config.start names into ``model``; keep a record of it."""
    assert config.start is not None
    start = checkpoint_of(config.start, config.loader.cache)
    source, taken, record = start_from(start, model, config.model, classes)
    write_record(config.run_dir, taken, record)
    if source.checkpoint is not None:
        write_origin(config.run_dir, source.checkpoint)


def _prepare(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: optim.Optimizer,
    tensors: dict[str, Tensor],
) -> tuple[nn.Module, optim.Optimizer]:
    """Both as the strategy needs them, the optimizer with ``tensors``. Collective."""
    if not runtime.is_deepspeed(accelerator):
        put_optimizer_tensors(tensors, optimizer)
        return model, optimizer
    model, optimizer = accelerator.prepare(model, optimizer)
    bare_model = accelerator.unwrap_model(model)
    zero.scatter_optimizer(tensors, bare_model, optimizer)
    return model, optimizer


def _open_meter(
    config: TrainConfig, accelerator: Accelerator, attempt: Attempt, index: Index
) -> Meter:
    """The clock of this start; the main process, which reports it, counts FLOPs."""
    if not accelerator.is_main_process:
        return Meter(Work(config.chunks_per_step))
    work = work_of(
        config,
        len(index.classes),
        int(index.properties["sample_rate"]),
        num_processes=accelerator.num_processes,
        device=accelerator.device,
    )
    return Meter(
        work, useful_seconds=attempt.useful_seconds, wall_seconds=attempt.wall_seconds
    )


def _write_config(
    config: TrainConfig,
    accelerator: Accelerator,
    saved: Saved | None,
    done: int,
    *,
    is_over: bool,
) -> None:
    """config.yaml and run.json, as a reader of the run folder needs them."""
    if saved is None:
        write_first_files(config.run_dir, config, accelerator.num_processes)
        return
    if saved.changes:
        note_changes(config.run_dir, done, saved.changes)
        keys = ", ".join(change.key for change in saved.changes)
        _log.warning("%s: changed from step %d on: %s", config.run_dir, done + 1, keys)
    write_config(config.run_dir, config)
    if not is_over:  # a finished run may be made longer
        remove_result(config.run_dir)
