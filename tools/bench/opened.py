"""The product's own run, opened for tools that time its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psl.distributed import launch
from psl.job.attempt import Attempt
from psl.training.config import TrainConfig
from psl.training.run import Run, open_run
from psl.weights.checkpoint import TrainingState


@contextlib.contextmanager
def opened_run(config: TrainConfig) -> Iterator[tuple[Run, TrainingState]]:
    """The run of ``config`` and its state, ready for steps. Collective."""
    with Attempt(config.run_dir, config.attempt, str) as attempt:
        accelerator = launch.join_job(
            precision=config.precision, global_batch_size=config.chunks_per_step
        )
        attempt.join(accelerator)
        run, state = open_run(config, accelerator, attempt)
        run.step.model.train()
        yield run, state
        run.log.close()
        attempt.leave()
        launch.leave_job(accelerator)
