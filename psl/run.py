"""What a run is made of, opened, checked and taken up where it stopped.

Owns everything before the first step, and the batches of an epoch.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn, optim

from psl import runtime, zero
from psl.attempt import Attempt
from psl.checkpoint import (
    Checkpoint,
    TrainingState,
    best_steps,
    load_newest,
    load_optimizer,
    load_trained,
)
from psl.ema import MovingAverage
from psl.evaluate import check_fits
from psl.loader import Batch, fetch_ahead, open_cache
from psl.mixup import Mixup
from psl.models import build_from_config
from psl.online import OnlineTeacher
from psl.optim import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    put_optimizer_tensors,
)
from psl.run_checks import check_possible
from psl.run_log import RunLog, check_same_config, write_first_files
from psl.spec_augment import install_masks
from psl.start import start_from, write_record
from psl.step import Stepper
from psl.teachers import load_teacher
from psl.train_config import TrainConfig
from psl.training_data import TrainingData
from psl.validation import HELD_OUT, TRAIN, Validation, open_validation
from shards.cli import JobError
from shards.index import Index
from shards.plan import Plan


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
        runtime.average_norm_statistics(model)
        if not runtime.splits_weights(self.accelerator):
            return model
        whole = build_from_config(self.config.model, len(self.valid.index.classes))
        whole.load_state_dict(zero.gather_weights(model))
        return runtime.place(whole, self.accelerator.device)

    def used_model(self) -> nn.Module:
        """What is validated, saved and used. Collective."""
        if self.average is None:
            return self.whole_model()
        runtime.average_norm_statistics(self.average.model)
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
    data, valid, plan = _open_data(config)
    if accelerator.is_main_process and (left_out := data.num_unlabelled):
        print(f"{left_out} of {len(data.audio.index)} clips have no labels: left out")
    if accelerator.is_main_process and config.data.valid == TRAIN:
        print("validation on the training clips: its mAP says little about new ones")
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
    model = runtime.place(
        build_from_config(config.model, len(classes)),
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
    runtime.check_agreement(accelerator, f"{fingerprint} {state} {begun}")
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
    averaged = _copy_to_average(config, model, checkpoint)
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
    average = None
    if averaged is not None and config.optim.ema_decay is not None:
        trained = accelerator.unwrap_model(step.model)
        average = MovingAverage(averaged, trained, config.optim.ema_decay)
    run = Run(
        config,
        accelerator,
        attempt,
        data,
        valid,
        plan,
        step,
        log,
        online,
        mixup,
        average,
    )
    return run, state


def _copy_to_average(
    config: TrainConfig, model: nn.Module, checkpoint: Checkpoint | None
) -> nn.Module | None:
    """Where the moving average begins, or goes on; None if there is to be none."""
    if config.optim.ema_decay is None:
        return None
    averaged = copy.deepcopy(model)
    if checkpoint is not None:
        averaged.load_state_dict(checkpoint.weights)
    return averaged


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


def _open_data(config: TrainConfig) -> tuple[TrainingData, Validation, Plan]:
    online = config.data.labels == "online"
    if online != (config.data.teacher is not None):
        raise ValueError(
            "data.labels=online and data.teacher=PATH belong together; set both, or "
            "neither"
        )
    if config.augment.mixup_labels is not None and not online:
        raise ValueError(
            "augment.mixup_labels is for the teacher of data.labels=online; leave it "
            "out"
        )
    data = TrainingData.open(
        config.data.audio,
        None if config.data.labels == "online" else config.data.labels,
        online=online,
        chunk_seconds=config.data.chunk_seconds,
        alpha=config.data.alpha,
        max_unlabelled=config.data.max_unlabelled,
        hop_seconds=config.data.hop_seconds,
        label_settings=config.data.label_settings,
        loader=config.loader,
    )
    data = data.augmented(config.augment, seed=config.seed)
    wanted, audio = config.data, data.audio.index
    valid = open_validation(wanted.valid, wanted.held_out_share, audio)
    plan = data.plan(
        config.global_batch_size,
        config.seed,
        balance=config.data.balance,
        balance_limit=config.data.balance_limit,
        mix=config.data.mix,
        held_out=valid.rows if wanted.valid == HELD_OUT else None,
    )
    return data, valid, plan


def _load(config: TrainConfig, model: nn.Module, fingerprint: str) -> Checkpoint | None:
    """The checkpoint to go on from, its weights put into ``model``; None if there is
    none."""
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


def batches(run: Run, state: TrainingState) -> Iterator[Batch]:
    """This rank's batches of the rest of the epoch, not taught yet."""
    order = run.data.steps(
        run.plan,
        state.epoch,
        start=state.step_in_epoch,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    device, first = run.accelerator.device, run.steps_done(state) + 1

    def fetch(item: tuple[int, tuple[np.ndarray, np.ndarray]]) -> Batch:
        step, chosen = item
        run.attempt.inject("data", step)
        views = run.data.choose_views(*chosen, seed=run.config.seed, epoch=state.epoch)
        batch = run.data.batch(*chosen, device, views, step)
        if run.mixup and (run.online is None or _hears_mixtures(run.config)):
            batch = run.mixup.mix(batch, step)
        return run.online.prepare(batch) if run.online else batch

    return fetch_ahead(fetch, enumerate(order, start=first), run.config.loader)


def teach(run: Run, batch: Batch, step: int) -> Batch:
    """The batch of a step with the online teacher's targets, if there is one.

    In the training loop: the teacher's time would otherwise pass for waiting.
    """
    if run.online is None:
        return batch
    batch = run.online.teach(batch)
    if run.mixup and not _hears_mixtures(run.config):
        batch = run.mixup.mix(batch, step)
    return batch


def _hears_mixtures(config: TrainConfig) -> bool:
    return config.augment.mixup_labels == "heard"


def check_teacher(run: Run, step: int) -> None:
    """JobError naming clip and teacher if the targets of a step were no probabilities.

    Collective.
    """
    if run.online is None:
        return
    bad = run.accelerator.gather(run.online.bad_chunks.int()).tolist()
    if 1 in bad:
        epoch, done = divmod(step - 1, run.plan.num_steps)
        rows, _ = next(run.plan.steps(epoch, start=done))
        place = run.data.audio.index.place(int(rows[bad.index(1)]))
        raise JobError(
            f"{place}: from teacher {run.online.blame()}: no probabilities (step "
            f"{step}); use another teacher, or leave the clip out"
        )


def batch_keys(
    data: TrainingData,
    plan: Plan,
    step: int,
    world_size: int,
    ranks: Sequence[int] = (),
) -> str:
    """The keys in the batch of optimizer step ``step`` (from 1), by rank.

    Of ``ranks`` only, unless there are none.
    """
    epoch, done = divmod(step - 1, plan.num_steps)
    rows, _ = next(plan.steps(epoch, start=done))
    shares = {r: plan.local_slice(r, world_size) for r in ranks or range(world_size)}
    index = data.audio.index
    return "; ".join(
        f"rank {rank}: " + ", ".join(index.key(int(row)) for row in rows[share])
        for rank, share in shares.items()
    )


def describe_batch(config: TrainConfig, step: int) -> str:
    """The keys in the batch of a step, for a run that is not open."""
    data, _, plan = _open_data(config)
    return batch_keys(data, plan, step, runtime.rank_and_world_size()[1])
