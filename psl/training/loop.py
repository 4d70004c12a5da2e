"""The story of a run: epochs of steps, validation and checkpoints.

Before them, psl/training/run.py joins the data, builds and resumes; one step is
psl/training/step.py; psl/job/attempt.py surrounds it all. One process, torchrun and
accelerate launch all come through here, from the command psl/train.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from typing import NoReturn

import torch
from accelerate import Accelerator

from psl.data.loader import WaitMeter
from psl.distributed import launch
from psl.evaluation.scoring import measure
from psl.job.attempt import Attempt
from psl.training.averages import average_best, describe
from psl.training.batches import batches, check_teacher, teach
from psl.training.config import TrainConfig
from psl.training.datasets import batch_keys, describe_batch
from psl.training.log import LossSummary, LossWindow
from psl.training.run import Run, begin_run, is_done
from psl.training.step import Outcome
from psl.weights.checkpoint import (
    TrainingState,
    assert_finite,
    best_steps,
    checkpoint_folder,
    prune_checkpoints,
    save_checkpoint,
)
from psl.weights.result import Result, read_result, write_result
from shards.system.exits import JobError

_log = logging.getLogger(__name__)


VALID_BATCH_SIZE = 32
"""Clips scored at a time in validation; their scores do not depend on it."""


STOP_BATCHES = 16
"""Batches of validation between two agreements on whether to stop."""


def train(
    config: TrainConfig, accelerator: Accelerator, attempt: Attempt
) -> TrainingState:
    """Train to the end, from wherever the run stands. Collective."""
    run, state = begin_run(config, accelerator, attempt)
    with contextlib.closing(run.log):
        while not is_done(state, config):
            if not _is_due(run, state):
                state = _train_on(run, state)
            if _is_due(run, state):
                state = _validate(run, state)
            if state.step_in_epoch == run.plan.num_steps:
                state = dataclasses.replace(
                    state, epoch=state.epoch + 1, step_in_epoch=0
                )
            _save(run, state)
        _conclude(run, state)
    return state


def _is_due(run: Run, state: TrainingState) -> bool:
    """Whether the next thing to do is a validation."""
    step = run.steps_done(state)
    last = state.history[-1][0] if state.history else 0
    return step > last and run.is_validated_after(step)


def _train_on(run: Run, state: TrainingState) -> TrainingState:
    """Do steps up to the next validation, or the epoch's end. Collective."""
    config, attempt = run.config, run.attempt
    attempt.mark("data", run.steps_done(state) + 1)
    run.step.model.train()
    fetched = WaitMeter(batches(run, state))
    window = LossWindow(fetched.waited_seconds, run.accelerator.num_processes)
    for batch in fetched:
        step = run.steps_done(state) + 1
        batch = teach(run, batch, step)
        if attempt.at("step", step):
            batch.targets.fill_(torch.nan)
        rate, stop = run.learning_rate(step), attempt.is_asked_to_stop
        outcome = run.step(batch, step, learning_rate=rate, stop=stop)
        state = dataclasses.replace(state, step_in_epoch=state.step_in_epoch + 1)
        if outcome.problem is None:
            window.add(outcome.loss)
            if run.average:
                run.average.update(step)
        else:
            state = _skip(run, state, outcome)
        at_end = state.step_in_epoch == run.plan.num_steps
        at_end |= run.is_validated_after(step)
        if window.num_steps and (at_end or step % config.log_every == 0):
            _record(run, window.close(fetched.waited_seconds), step, state.epoch)
        attempt.step_done(step)
        run.log.advance()
        if outcome.stop:
            _stop(run, state)
        if config.save_every and step % config.save_every == 0 and not at_end:
            _save(run, state)
        if at_end:
            break
        attempt.mark("data", step + 1)
    return state


def _validate(run: Run, state: TrainingState) -> TrainingState:
    """The state with its validation mAP. Collective."""
    step = run.steps_done(state)
    run.attempt.mark("evaluate", step)
    model = run.used_model().eval()

    def check(number: int) -> None:
        run.attempt.at("evaluate", step)
        if number % STOP_BATCHES == 0 and run.attempt.agree_to_stop():
            _stop(run, state)

    metrics = measure(
        model,
        run.valid.index,
        run.accelerator,
        batch_size=VALID_BATCH_SIZE,
        loader=run.config.loader,
        rows=run.valid.rows,
        before_batch=check,
    )
    run.log.record(step, epoch=state.epoch, valid_mAP=metrics.mean_ap)
    history = (*state.history, (step, metrics.mean_ap))
    return dataclasses.replace(state, history=history)


def _save(run: Run, state: TrainingState) -> None:
    """Write a checkpoint and remove those no longer wanted. Collective."""
    step = run.steps_done(state)
    run.attempt.at("checkpoint.before", step)
    trained, optimizer = run.whole_model(), run.optimizer_tensors()
    model = run.used_model() if run.average else trained
    assert_finite(trained)
    assert_finite(model)
    if run.accelerator.is_main_process:
        save_checkpoint(
            checkpoint_folder(run.config.run_dir, step),
            model=model,
            optimizer=optimizer,
            model_config=run.config.model,
            classes=run.valid.index.classes,
            training=state,
            trained=trained if run.average else None,
            before_last=lambda: run.attempt.inject("checkpoint.inside", step),
        )
        run.attempt.saved(step, state.epoch)
        prune_checkpoints(run.config.run_dir, state.history, run.config.keep_best)
    run.attempt.at("checkpoint.after", step)


def _stop(run: Run, state: TrainingState) -> NoReturn:
    """End the job, as all ranks agreed, with a checkpoint. Collective."""
    _save(run, state)
    run.attempt.preempted(run.steps_done(state))


def _skip(run: Run, state: TrainingState, outcome: Outcome) -> TrainingState:
    """The state after a step without update; JobError if that is one too many.

    Collective.
    """
    config, step = run.config, run.steps_done(state)
    losses = run.accelerator.gather(outcome.loss.reshape(1)).tolist()
    bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    check_teacher(run, step)
    keys = batch_keys(run.data, run.plan, step, len(losses), bad)
    problem = f"step {step}: {outcome.problem}, nothing was updated; batch of {keys}"
    if config.nonfinite == "stop":
        raise JobError(f"{problem}; lower learning_rate, or set nonfinite=skip")
    if state.skipped_steps >= config.max_skipped_steps:
        budget = config.max_skipped_steps
        raise JobError(f"{problem}; max_skipped_steps={budget} are used up")
    if run.accelerator.is_main_process:
        _log.warning("%s; skipped", problem)
    run.log.record(step, skipped_steps=state.skipped_steps + 1)
    return dataclasses.replace(state, skipped_steps=state.skipped_steps + 1)


def _record(run: Run, window: LossSummary, step: int, epoch: int) -> None:
    """Log the steps since the last record."""
    run.log.record(
        step,
        epoch=epoch,
        loss=window.loss,
        learning_rate=run.learning_rate(step),
        chunks_per_second=window.steps_per_second * run.config.global_batch_size,
        wait_share=window.wait_share,
    )


def run_training(config: TrainConfig) -> None:
    """One start of the run that ``config`` describes. Collective."""
    with Attempt(
        config.run_dir, config.attempt, lambda step: describe_batch(config, step)
    ) as attempt:
        config = dataclasses.replace(
            config,
            precision=launch.agreed_precision(config.precision),
            strategy=launch.agreed_strategy(config.strategy),
        )
        accelerator = launch.start(
            precision=config.precision,
            strategy=config.strategy,
            global_batch_size=config.global_batch_size,
            clip_grad_norm=config.optim.clip_grad_norm,
            accumulation_steps=config.accumulation_steps,
            timeout_seconds=config.attempt.timeout_seconds,
        )
        attempt.join(accelerator)
        train(config, accelerator, attempt)
        attempt.leave()
        launch.finish(accelerator)


def _conclude(run: Run, state: TrainingState) -> None:
    """result.json with the average of the best, and lines about them. Collective."""
    config, last = run.config, run.steps_done(state)
    step = best_steps(state.history, 1)[0]
    before = read_result(config.run_dir)
    average = before.average if before else None  # made by psl.average, perhaps

    def check(number: int) -> None:
        run.attempt.at("evaluate", last)
        if number % STOP_BATCHES == 0 and run.attempt.agree_to_stop():
            run.attempt.preempted(last)

    if config.average_best is not None:
        average = average_best(
            config.run_dir,
            state,
            k=config.average_best,
            valid=run.valid,
            accelerator=run.accelerator,
            loader=config.loader,
            before_batch=check,
        )
    if not run.accelerator.is_main_process:
        return
    mean_ap, best = dict(state.history)[step], checkpoint_folder(config.run_dir, step)
    result = Result(best.name, mean_ap, last, run.valid.meaning, average)
    write_result(config.run_dir, result)
    print(f"{best}: best validation mAP {100 * mean_ap:.2f} %")
    if average is not None:
        print(describe(config.run_dir, average))
