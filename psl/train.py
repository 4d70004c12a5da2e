"""Train a tagger on weak labels, on pseudo strong labels, or on a mixture.

Owns the story of a run: join data, build, resume, then epochs of steps, validation and
checkpoints. One process, torchrun and accelerate launch all come through here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn, optim

from psl import runtime
from psl.checkpoint import (
    TrainingState,
    assert_finite,
    best_steps,
    checkpoint_folder,
    load_newest,
    load_optimizer,
    prune_checkpoints,
    save_checkpoint,
)
from psl.config import STRICT, from_command_line
from psl.evaluate import check_fits, measure
from psl.loader import (
    Batch,
    LoaderConfig,
    TrainingData,
    WaitMeter,
    check_has_labels,
    fetch_ahead,
)
from psl.losses import psl_loss
from psl.models import ModelConfig, build_from_config
from psl.optim import OptimConfig, build_optimizer, learning_rate, set_learning_rate
from psl.run_log import (
    LossSummary,
    LossWindow,
    RunLog,
    check_same_config,
    write_first_files,
    write_result,
)
from shards.cli import JobError, run_main
from shards.index import Index, open_index
from shards.plan import Plan

VALID_BATCH_SIZE = 32
"""Clips scored at a time in validation; their scores do not depend on it."""


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Datasets of a run."""

    audio: list[str]
    """Audio datasets to train on, taken together."""
    valid: str
    """Audio dataset that chooses the best checkpoint; not the one you report."""
    labels: list[str] | None = None
    """Label datasets, one for each of audio; null trains on the weak labels."""
    chunk_seconds: float = Field(default=10.0, gt=0)
    """Length of a training example, s; that of the labels if there are any."""
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Weight of the pseudo labels against the weak ones in the target."""
    balance: float | None = Field(default=None, ge=0, le=1)
    """Copies of a clip in an epoch go by (sum of 1 / clips of each of its classes) to
    this power: 1 shows rare classes about as often as common ones, 0.5 goes part of the
    way, null shows each clip once. An epoch stays as long."""
    balance_limit: float = Field(default=20.0, ge=1, allow_inf_nan=False)
    """Copies in an epoch, over those of an average clip, that balance gives at most."""
    mix: list[float] | None = None
    """One positive number for each of audio: its share of an epoch, relative to their
    sum; classes are then balanced within each. null for as many chunks as there are."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A training run."""

    run_dir: str
    """Folder of the run; an unfinished run in it goes on where it stopped."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    loader: LoaderConfig = LoaderConfig()
    global_batch_size: int = Field(default=32, gt=0)
    """Chunks per optimizer step over all processes; their number must divide it."""
    epochs: int = Field(default=300, gt=0)
    """Epochs at most; each has as many chunks as the data, balanced or not."""
    patience: int | None = Field(default=15, gt=0)
    """Validations without a better mAP after which training ends; null for never."""
    keep_best: int = Field(default=4, gt=0)
    """Checkpoints kept by validation mAP, beside the newest two."""
    precision: runtime.Precision = "no"
    """Autocast type of the forward pass; no for none (float32; TF32 on some GPUs)."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights, the order of chunks and dropout."""
    log_every: int = Field(default=20, gt=0)
    """Steps between records of loss and speed; each epoch's end has one, too."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints inside an epoch; null for one at each epoch's end."""


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same from the first step to the last."""

    config: TrainConfig
    accelerator: Accelerator
    data: TrainingData
    valid: Index
    plan: Plan
    model: nn.Module
    optimizer: optim.Optimizer
    log: RunLog

    @property
    def bare_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def learning_rate(self, step: int) -> float:
        """Of optimizer step number ``step`` (from 1)."""
        total_steps = self.config.epochs * self.plan.num_steps
        return learning_rate(self.config.optim, step - 1, total_steps)


def train(config: TrainConfig, accelerator: Accelerator) -> TrainingState:
    """Train to the end, from wherever the run stands. Collective."""
    run, state = _begin(config, accelerator)
    while not _is_done(state, config):
        _train_epoch(run, state)
        state = _validate(run, state)
        _save(run, state)
    run.log.close()
    return state


def _begin(config: TrainConfig, accelerator: Accelerator) -> tuple[_Run, TrainingState]:
    """Open everything, check that it fits, and take up the newest checkpoint."""
    data = TrainingData.open(
        config.data.audio,
        config.data.labels,
        chunk_seconds=config.data.chunk_seconds,
        alpha=config.data.alpha,
        loader=config.loader,
    )
    valid = open_index(config.data.valid, kind="audio")
    classes = data.audio.index.classes
    for index in (data.audio.index, valid):
        rate = config.model.front_end.sample_rate
        check_fits(index, sample_rate=rate, classes=classes, what="the model")
    check_has_labels(valid, "validate against")
    plan = data.plan(
        config.global_batch_size,
        config.seed,
        balance=config.data.balance,
        balance_limit=config.data.balance_limit,
        mix=config.data.mix,
    )
    plan.local_slice(accelerator.process_index, accelerator.num_processes)

    torch.manual_seed(config.seed)
    model = runtime.place(
        build_from_config(config.model, len(classes)),
        accelerator.device,
        channels_last=not runtime.is_deepspeed(accelerator),
    )
    optimizer = build_optimizer(model, config.optim)
    fingerprint = plan.fingerprint(f"{data.fingerprint}+{valid.fingerprint}")
    state = _resume(config, model, optimizer, fingerprint)
    runtime.check_agreement(accelerator, f"{fingerprint} {state}")
    if accelerator.is_main_process and not state.history:
        write_first_files(config.run_dir, config, accelerator.num_processes)
    model, optimizer = accelerator.prepare(model, optimizer)
    log = RunLog(
        config.run_dir,
        main=accelerator.is_main_process,
        start=state.epoch * plan.num_steps + state.step_in_epoch,
        total=config.epochs * plan.num_steps,
    )
    return _Run(config, accelerator, data, valid, plan, model, optimizer, log), state


def _resume(
    config: TrainConfig, model: nn.Module, optimizer: optim.Optimizer, fingerprint: str
) -> TrainingState:
    """The state to go on from, with its weights loaded; fresh if there is none."""
    checkpoint = load_newest(config.run_dir)
    if checkpoint is None:
        return TrainingState(0, 0, (), fingerprint)
    check_same_config(config.run_dir, config)
    if checkpoint.training.plan_fingerprint != fingerprint:
        raise ValueError(
            f"{checkpoint.folder}: was trained on other data or in another order "
            f"(plan {checkpoint.training.plan_fingerprint[:12]}, now "
            f"{fingerprint[:12]}); restore the data, or choose another run_dir"
        )
    model.load_state_dict(checkpoint.weights)
    if not _is_done(checkpoint.training, config):
        load_optimizer(checkpoint, optimizer)
    return checkpoint.training


def _is_done(state: TrainingState, config: TrainConfig) -> bool:
    if state.epoch >= config.epochs or not state.history:
        return state.epoch >= config.epochs
    best = best_steps(state.history, 1)[0]
    since_best = sum(step > best for step, _ in state.history)
    return config.patience is not None and since_best >= config.patience


def _train_epoch(run: _Run, state: TrainingState) -> None:
    """The steps of epoch ``state.epoch`` that are not done yet. Collective."""
    config, num_steps = run.config, run.plan.num_steps
    run.model.train()
    batches = WaitMeter(_batches(run, state))
    window = LossWindow(batches.waited_seconds, run.accelerator.num_processes)
    for step_in_epoch, batch in enumerate(batches, start=state.step_in_epoch + 1):
        step = state.epoch * num_steps + step_in_epoch
        at_end = step_in_epoch == num_steps
        window.add(_train_step(run, batch, step))
        if at_end or step % config.log_every == 0:
            _record(run, window.close(batches.waited_seconds), step, state.epoch)
        run.log.advance()
        if config.save_every and step % config.save_every == 0 and not at_end:
            _save(run, dataclasses.replace(state, step_in_epoch=step_in_epoch))


def _record(run: _Run, window: LossSummary, step: int, epoch: int) -> None:
    """Log the steps since the last record; stop if the loss is not a number."""
    if not math.isfinite(window.loss):
        raise JobError(f"loss is {window.loss} at step {step}; lower learning_rate")
    run.log.record(
        step,
        epoch=epoch,
        loss=window.loss,
        learning_rate=run.learning_rate(step),
        chunks_per_second=window.steps_per_second * run.config.global_batch_size,
        wait_share=window.wait_share,
    )


def _batches(run: _Run, state: TrainingState) -> Iterator[Batch]:
    """This rank's batches of the rest of the epoch."""
    order = run.data.steps(
        run.plan,
        state.epoch,
        start=state.step_in_epoch,
        rank=run.accelerator.process_index,
        world_size=run.accelerator.num_processes,
    )
    device = run.accelerator.device
    return fetch_ahead(
        lambda chosen: run.data.batch(*chosen, device), order, run.config.loader
    )


def _train_step(run: _Run, batch: Batch, step: int) -> torch.Tensor:
    """Optimizer step number ``step`` (from 1); the loss on this rank's share."""
    config, accelerator = run.config, run.accelerator
    _seed_step(config.seed, step, accelerator.process_index)
    set_learning_rate(run.optimizer, run.learning_rate(step))
    with torch.autocast(
        accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"
    ):
        clip_probs, _ = run.model(batch.waveform, batch.num_samples)
    loss = psl_loss(clip_probs, batch.targets)
    accelerator.backward(loss)
    if config.optim.clip_grad_norm is not None:
        accelerator.clip_grad_norm_(run.model.parameters(), config.optim.clip_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return loss.detach()


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that resume is exact."""
    mixed = np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed[0]))


def _validate(run: _Run, state: TrainingState) -> TrainingState:
    """The state after the epoch, with its validation mAP. Collective."""
    model = run.bare_model
    runtime.average_norm_statistics(model)
    model.eval()
    metrics = measure(
        model,
        run.valid,
        run.accelerator,
        batch_size=VALID_BATCH_SIZE,
        loader=run.config.loader,
    )
    step = (state.epoch + 1) * run.plan.num_steps
    run.log.record(step, epoch=state.epoch, valid_mAP=metrics.mean_ap)
    history = (*state.history, (step, metrics.mean_ap))
    return dataclasses.replace(
        state, epoch=state.epoch + 1, step_in_epoch=0, history=history
    )


def _save(run: _Run, state: TrainingState) -> None:
    """Write a checkpoint and remove those no longer wanted. Collective."""
    runtime.average_norm_statistics(run.bare_model)
    assert_finite(run.bare_model)
    split = runtime.is_deepspeed(run.accelerator)
    if run.accelerator.is_main_process:
        step = state.epoch * run.plan.num_steps + state.step_in_epoch
        save_checkpoint(
            checkpoint_folder(run.config.run_dir, step),
            model=run.bare_model,
            optimizer=None if split else run.optimizer,
            model_config=run.config.model,
            classes=run.valid.classes,
            training=state,
        )
        prune_checkpoints(run.config.run_dir, state.history, run.config.keep_best)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.train``."""
    config = from_command_line(
        TrainConfig,
        argv,
        command="python -m psl.train",
        purpose="Train a tagger on weak or pseudo strong labels.",
        example="python -m psl.train configs/mini/base.yaml configs/mini/psl_2s.yaml "
        "run_dir=runs/mine optim.learning_rate=1e-3",
    )
    accelerator = runtime.start(
        precision=config.precision,
        global_batch_size=config.global_batch_size,
        clip_grad_norm=config.optim.clip_grad_norm,
    )
    state = train(config, accelerator)
    if accelerator.is_main_process and state.history:
        step = best_steps(state.history, 1)[0]
        mean_ap = dict(state.history)[step]
        best = checkpoint_folder(config.run_dir, step)
        write_result(config.run_dir, best, mean_ap, state.history[-1][0])
        print(f"{best}: best validation mAP {100 * mean_ap:.2f} %")
    runtime.finish(accelerator)


if __name__ == "__main__":
    run_main(main)
