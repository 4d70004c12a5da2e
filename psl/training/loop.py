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
from collections.abc import Callable
from typing import NoReturn

import torch
from accelerate import Accelerator

from psl.data.batch import Batch
from psl.distributed import launch
from psl.distributed.collectives import from_main
from psl.evaluation.scoring import evaluate_model
from psl.job.attempt import Attempt
from psl.training.averages import average_best, describe_average
from psl.training.batches import batches, check_teacher, teach
from psl.training.config import TrainConfig
from psl.training.datasets import batch_keys, describe_batch
from psl.training.parts import agreed
from psl.training.run import Run, open_run
from psl.training.speed import timed
from psl.training.step import Outcome
from psl.weights.checkpoint import (
    TrainingState,
    assert_finite,
    best_steps,
    checkpoint_folder,
    prune_checkpoints,
    save_checkpoint,
)
from psl.weights.result import Average, Result, read_result, write_result
from shards.system.exits import JobError

_log = logging.getLogger(__name__)


def run_training(config: TrainConfig) -> None:
    """One start of the run that ``config`` describes. Collective."""
    with Attempt(
        config.run_dir, config.attempt, lambda step: describe_batch(config, step)
    ) as attempt:
        config = agreed(config)
        accelerator = launch.join_job(
            precision=config.precision,
            strategy=config.strategy,
            global_batch_size=config.chunks_per_step,
            clip_grad_norm=config.optim.clip_grad_norm,
            accumulation_steps=config.accumulation_steps,
            timeout_seconds=config.attempt.timeout_seconds,
        )
        attempt.join(accelerator)
        train(config, accelerator, attempt)
        attempt.leave()
        launch.leave_job(accelerator)


STOP_BATCHES = 16
"""Batches of validation between two agreements on whether to stop."""


def train(
    config: TrainConfig, accelerator: Accelerator, attempt: Attempt
) -> TrainingState:
    """Train to the end, from the start or the newest checkpoint. Collective."""
    run, state = open_run(config, accelerator, attempt)
    with contextlib.closing(run.log), contextlib.closing(run.profiler):
        while not run.schedule.is_over(state):
            if not run.schedule.is_validation_due(state):
                state = _take_steps(run, state)
            if run.schedule.is_validation_due(state):
                state = _validate(run, state)
            if state.step_in_epoch == run.plan.num_steps:
                state = dataclasses.replace(
                    state, epoch=state.epoch + 1, step_in_epoch=0
                )
            _save(run, state)
        _conclude(run, state)
    return state


@timed("step")
def _take_steps(run: Run, state: TrainingState) -> TrainingState:
    """Steps up to the next validation, or the end of the epoch. Collective."""
    first = run.schedule.steps_done(state) + 1
    run.attempt.mark("data", first)
    run.step.model.train()
    for step, batch in enumerate(run.meter.fetch(batches(run, state)), start=first):
        run.profiler.begin(step)
        outcomes = _update(run, batch, step)
        run.profiler.end(step)
        if run.schedule.is_settled_after(step) or any(o.stop for o in outcomes):
            outcomes += run.step.settle()
        stop = any(outcome.stop for outcome in outcomes)
        state = dataclasses.replace(state, step_in_epoch=state.step_in_epoch + 1)
        for outcome in outcomes:
            state = _take_in(run, state, outcome)
        if run.schedule.is_recorded_after(step) and state.loss_steps:
            state = _record(run, state)
        run.attempt.step_done(step)
        run.log.advance()
        if stop:
            _stop(run, state)
        if run.schedule.is_saved_after(step):
            _save(run, state)
        if run.schedule.pauses_after(step):
            break
        run.attempt.mark("data", step + 1)
    return state


def _update(run: Run, batch: Batch, step: int) -> list[Outcome]:
    """Optimizer step number ``step``; what is known of the steps so far. Collective."""
    batch = teach(run, batch, step)
    if run.attempt.at("step", step):
        batch.targets.fill_(torch.nan)
    return run.step(
        batch,
        step,
        learning_rate=run.schedule.learning_rate(step),
        stop=run.attempt.is_asked_to_stop,
    )


def _take_in(run: Run, state: TrainingState, outcome: Outcome) -> TrainingState:
    """The state that also knows what came of a step. Collective."""
    run.meter.step_done(updated=outcome.problem is None)
    if outcome.problem is not None:
        return _skip(run, state, outcome)
    return dataclasses.replace(
        state,
        loss_sum=state.loss_sum + outcome.loss,
        loss_steps=state.loss_steps + 1,
    )


def _skip(run: Run, state: TrainingState, outcome: Outcome) -> TrainingState:
    """The state that also knows a step without update; JobError if it is one too many.

    Collective.
    """
    config, step = run.config, outcome.step
    own_loss = torch.tensor([outcome.own_loss], device=run.accelerator.device)
    losses = run.accelerator.gather(own_loss).tolist()
    bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    check_teacher(run, step)
    keys = batch_keys(run.data, run.plan, step, len(losses), bad)
    problem = f"step {step}: {outcome.problem}, nothing was updated; batch of {keys}"
    if config.nonfinite == "stop":
        raise JobError(f"{problem}; lower learning_rate, or set nonfinite=skip")
    if state.skipped_steps >= config.max_skipped_steps:
        budget = config.max_skipped_steps
        raise JobError(f"{problem}; reached max_skipped_steps={budget}")
    if run.accelerator.is_main_process:
        _log.warning("%s; skipped", problem)
    run.log.record(step, skipped_steps=state.skipped_steps + 1)
    return dataclasses.replace(state, skipped_steps=state.skipped_steps + 1)


def _record(run: Run, state: TrainingState) -> TrainingState:
    """Log the mean loss since the last record; the state with nothing to log."""
    step = run.schedule.steps_done(state)
    run.log.record(
        step,
        epoch=state.epoch,
        loss=state.loss_sum / state.loss_steps,
        learning_rate=run.schedule.learning_rate(step),
        **run.meter.read(),
    )
    run.attempt.tell(run.meter.whole_start())
    return dataclasses.replace(state, loss_sum=0.0, loss_steps=0)


@timed("validation")
def _validate(run: Run, state: TrainingState) -> TrainingState:
    """The state with its validation mAP. Collective."""
    step = run.schedule.steps_done(state)
    run.attempt.mark("evaluate", step)
    metrics = evaluate_model(
        run.used_model().eval(),
        run.valid.index,
        run.accelerator,
        folder=run.config.run_dir,
        loader=run.config.loader,
        rows=run.valid.rows,
        before_batch=_while_scoring(run, step, lambda: _stop(run, state)),
        on_scores=lambda labels, scores: run.log.show(step, labels, scores),
    )
    run.log.record(step, epoch=state.epoch, valid_mAP=metrics.mean_ap)
    history = (*state.history, (step, metrics.mean_ap))
    return dataclasses.replace(state, history=history)


def _while_scoring(
    run: Run, step: int, stop: Callable[[], NoReturn]
) -> Callable[[int], None]:
    """What to call before each batch: calls ``stop`` if the ranks agree to stop."""

    def before_batch(number: int) -> None:
        run.attempt.at("evaluate", step)
        if number % STOP_BATCHES == 0 and run.attempt.agree_to_stop():
            stop()

    return before_batch


def _stop(run: Run, state: TrainingState) -> NoReturn:
    """End the job, as all ranks agreed, with a checkpoint. Collective."""
    _save(run, state)
    run.attempt.preempted(run.schedule.steps_done(state))


@timed("checkpoint")
def _save(run: Run, state: TrainingState) -> None:
    """Write a checkpoint and remove those no longer wanted. Collective.

    Rank 0 writes while the others continue; they never read these files (see
    collectives.from_main).
    """
    step = run.schedule.steps_done(state)
    run.attempt.at("checkpoint.before", step)
    trained, optimizer = run.whole_model(), run.optimizer_tensors()
    model = run.average.model if run.average else trained
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
        meter = run.meter
        run.attempt.saved(step, state.epoch, meter.useful_seconds, meter.whole_start())
        prune_checkpoints(run.config.run_dir, state.history, run.config.keep_best)
    run.attempt.at("checkpoint.after", step)


def _conclude(run: Run, state: TrainingState) -> None:
    """result.json with the average of the best, and lines about them. Collective."""
    config, average = run.config, None
    if config.average_best is not None:
        last = run.schedule.steps_done(state)
        average = average_best(
            config.run_dir,
            state,
            k=config.average_best,
            valid=run.valid,
            accelerator=run.accelerator,
            loader=config.loader,
            before_batch=_while_scoring(run, last, lambda: run.attempt.preempted(last)),
        )
    from_main(lambda: _write_result(run, state, average))


def _write_result(run: Run, state: TrainingState, average: Average | None) -> None:
    """result.json; an average that psl.average made before stays in it."""
    run_dir, step = run.config.run_dir, best_steps(state.history, 1)[0]
    if average is None:
        before = read_result(run_dir)
        average = before.average if before else None
    mean_ap, best = dict(state.history)[step], checkpoint_folder(run_dir, step)
    last = run.schedule.steps_done(state)
    write_result(run_dir, Result(best.name, mean_ap, last, run.valid.meaning, average))
    print(f"{best}: best validation mAP {100 * mean_ap:.2f} %")
    if average is not None:
        print(describe_average(run_dir, average))
