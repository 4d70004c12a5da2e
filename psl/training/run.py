"""What a run is made of, opened, checked and taken up where it stopped.

Owns everything before the first step.
"""

from __future__ import annotations

import copy
import dataclasses
import logging

import torch
from accelerate import Accelerator
from torch import Tensor, nn, optim

from psl.data.checks import check_fits
from psl.data.examples import TrainingData
from psl.data.loader import open_cache
from psl.data.mixup import Mixup
from psl.data.spec_augment import install_masks
from psl.data.validation import TRAIN, Validation
from psl.distributed import collectives, runtime, zero
from psl.job.attempt import Attempt
from psl.models.families import build_from_config
from psl.teachers.load import load_teacher
from psl.training.averages import MovingAverage
from psl.training.checks import check_possible
from psl.training.config import TrainConfig
from psl.training.datasets import open_data
from psl.training.log import RunLog, check_same_config, write_first_files
from psl.training.online import OnlineTeacher
from psl.training.optim import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    put_optimizer_tensors,
)
from psl.training.step import Stepper
from psl.weights.checkpoint import (
    Checkpoint,
    TrainingState,
    best_steps,
    load_newest,
    load_optimizer,
    load_trained,
)
from psl.weights.start import start_from, write_record
from shards.format.index import Index
from shards.order.plan import Plan

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    config: TrainConfig
    accelerator: Accelerator
    attempt: Attempt
    data: TrainingData
    valid: Validation
    plan: Plan
    step: Stepper
    log: RunLog
    online: OnlineTeacher | None
    """Who makes the targets; None if they are stored, or weak."""
    mixup: Mixup | None
    average: MovingAverage | None
    """Of the weights; None if they are used as they are."""

    @property
    def bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.step.model)

    def whole_model(self) -> nn.Module:
        """The model with all weights, BatchNorm statistics of all ranks. Collective.

        A copy where ranks hold a part each: they could run their own only in step,
        and in validation they have unequal numbers of batches.
        """
        model = self.bare_model
        collectives.average_norm_statistics(model)
        if not runtime.splits_weights(self.accelerator):
            return model
        whole = build_from_config(self.config.model, len(self.valid.index.classes))
        whole.load_state_dict(zero.gather_weights(model))
        return runtime.place(whole, self.accelerator.device)

    def used_model(self) -> nn.Module:
        """What is validated, saved and used. Collective."""
        if self.average is None:
            return self.whole_model()
        collectives.average_norm_statistics(self.average.model)
        return self.average.model

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The whole state of the optimizer, as a checkpoint keeps it. Collective.

        Only for the main process, where it is gathered.
        """
        keep, optimizer = self.accelerator.is_main_process, self.step.optimizer
        if runtime.is_deepspeed(self.accelerator):
            return zero.gather_optimizer(self.bare_model, optimizer, keep=keep)
        return optimizer_tensors(optimizer) if keep else {}

    def learning_rate(self, step: int) -> float:
        """Of optimizer step number ``step`` (from 1)."""
        total_steps = self.config.epochs * self.plan.num_steps
        return learning_rate(self.config.optim, step - 1, total_steps)

    def is_validated_after(self, step: int) -> bool:
        """Whether a validation is due after optimizer step number ``step``."""
        every = self.config.valid_every or self.plan.num_steps
        return step % every == 0 or step == self.config.epochs * self.plan.num_steps

    def steps_done(self, state: TrainingState) -> int:
        """Optimizer steps of the whole run up to ``state``."""
        return state.epoch * self.plan.num_steps + state.step_in_epoch


def begin_run(
    config: TrainConfig, accelerator: Accelerator, attempt: Attempt
) -> tuple[Run, TrainingState]:
    """Open everything, check that it fits, and take up the newest checkpoint."""
    data, valid, plan = open_data(config)
    if accelerator.is_main_process:
        _announce(config, data)
    classes = data.audio.index.classes
    for index in (data.audio.index, valid.index):
        rate = config.model.front_end.sample_rate
        check_fits(index, sample_rate=rate, classes=classes, what="the model")
    check_possible(config, plan, accelerator)
    mixup = Mixup.of(
        config.augment,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        places=plan.local_slice(accelerator.process_index, accelerator.num_processes),
    )
    # before the seed, as building a model draws random numbers
    online = _open_teacher(config, data.audio.index, accelerator.device)
    torch.manual_seed(config.seed)
    model = _build_model(config, len(classes), accelerator)
    optimizer = build_optimizer(model, config.optim)
    targets = f"{data.fingerprint}+{online.identity}" if online else data.fingerprint
    fingerprint = plan.fingerprint(f"{targets}+{valid.fingerprint}")
    checkpoint = _load(config, model, fingerprint)
    started = None
    if checkpoint is None and config.start is not None:
        started = start_from(config.start, model, config.model, classes)
    state = checkpoint.training if checkpoint else TrainingState(0, 0, (), fingerprint)
    tensors: dict[str, Tensor] = {}
    if checkpoint is not None and not is_done(state, config):
        tensors = load_optimizer(checkpoint)
    begun = started and started[1]["weights_sha256"]
    collectives.check_agreement(accelerator, f"{fingerprint} {state} {begun}")
    if accelerator.is_main_process and not state.history:
        write_first_files(config.run_dir, config, accelerator.num_processes)
    if started is not None and accelerator.is_main_process:
        write_record(config.run_dir, *started)
    done = state.epoch * plan.num_steps + state.step_in_epoch
    attempt.saved(done, state.epoch)
    log = RunLog(
        config.run_dir,
        main=accelerator.is_main_process,
        start=done,
        total=config.epochs * plan.num_steps,
    )
    step, average = _build_step(
        config, accelerator, model, optimizer, tensors, checkpoint
    )
    run = Run(
        config=config,
        accelerator=accelerator,
        attempt=attempt,
        data=data,
        valid=valid,
        plan=plan,
        step=step,
        log=log,
        online=online,
        mixup=mixup,
        average=average,
    )
    return run, state


def _build_model(
    config: TrainConfig, num_classes: int, accelerator: Accelerator
) -> nn.Module:
    """The model with fresh weights on the device, masking as the config says."""
    model = runtime.place(
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


def _announce(config: TrainConfig, data: TrainingData) -> None:
    """Say what a user may not expect of the data."""
    if left_out := data.num_unlabelled:
        _log.warning(
            "%d of %d clips have no labels: left out", left_out, len(data.audio.index)
        )
    if config.data.valid == TRAIN:
        _log.warning(
            "validation on the training clips: its mAP says little about new ones"
        )


def _build_step(
    config: TrainConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: optim.Optimizer,
    tensors: dict[str, Tensor],
    checkpoint: Checkpoint | None,
) -> tuple[Stepper, MovingAverage | None]:
    """Model and optimizer, prepared, and the average of the weights. Collective."""
    average, decay = None, config.optim.ema_decay
    averaged = None if decay is None else copy.deepcopy(model)  # before it is wrapped
    step = Stepper(
        accelerator,
        *_prepare(accelerator, model, optimizer, tensors),
        seed=config.seed,
        precision=config.precision,
        clip_grad_norm=config.optim.clip_grad_norm,
        accumulation_steps=config.accumulation_steps,
        nonfinite=config.nonfinite,
        compile_model=config.compile,
    )
    if averaged is not None and decay is not None:
        if checkpoint is not None:
            averaged.load_state_dict(checkpoint.weights)
        average = MovingAverage(averaged, accelerator.unwrap_model(step.model), decay)
    return step, average


def _open_teacher(
    config: TrainConfig, audio: Index, device: torch.device
) -> OnlineTeacher | None:
    """Who makes the targets, on ``device``, if labels are made online."""
    if config.data.teacher is None:
        return None
    cache = open_cache(config.loader)
    teacher = load_teacher(config.data.teacher, audio, cache=cache)
    runtime.place(teacher.model.requires_grad_(False), device)
    return OnlineTeacher(teacher, alpha=config.data.alpha)


def _load(config: TrainConfig, model: nn.Module, fingerprint: str) -> Checkpoint | None:
    """The checkpoint to go on from, its weights put into ``model``; None if there is
    none.
    """
    checkpoint = load_newest(config.run_dir)
    if checkpoint is None:
        return None
    check_same_config(config.run_dir, config)
    if checkpoint.training.plan_fingerprint != fingerprint:
        raise ValueError(
            f"{checkpoint.folder}: was trained on other data or in another order "
            f"(plan {checkpoint.training.plan_fingerprint[:12]}, now "
            f"{fingerprint[:12]}); restore the data, or choose another run_dir"
        )
    model.load_state_dict(load_trained(checkpoint))
    return checkpoint


def _prepare(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: optim.Optimizer,
    tensors: dict[str, Tensor],
) -> tuple[nn.Module, optim.Optimizer]:
    """Both, wrapped for the strategy, the optimizer with ``tensors``. Collective."""
    model, optimizer = accelerator.prepare(model, optimizer)
    if runtime.is_deepspeed(accelerator):
        bare_model = accelerator.unwrap_model(model)
        zero.deal_out_optimizer(tensors, bare_model, optimizer)
    else:
        put_optimizer_tensors(tensors, optimizer)
    return model, optimizer


def is_done(state: TrainingState, config: TrainConfig) -> bool:
    """Whether all epochs are done, or patience is at its end."""
    if state.epoch >= config.epochs or not state.history:
        return state.epoch >= config.epochs
    best = best_steps(state.history, 1)[0]
    since_best = sum(step > best for step, _ in state.history)
    return config.patience is not None and since_best >= config.patience
