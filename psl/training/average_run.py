"""Average the best checkpoints of a finished run, as the paper's students were.

psl.train does it at its end where the configuration says average_best
(psl/training/averages.py); this does it for a run that is finished.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from accelerate import Accelerator

from psl.config import parse
from psl.config_values import read_yaml
from psl.data.validation import open_validation
from psl.distributed import launch
from psl.distributed.arithmetic import choose_arithmetic
from psl.distributed.collectives import from_main
from psl.training.averages import average_best, describe_average
from psl.training.config import AverageConfig, TrainConfig
from psl.training.log import CONFIG_NAME
from psl.weights.checkpoint import Checkpoint, check_checkpoint_fits, load_newest
from psl.weights.result import Average, Result, read_result, write_result
from shards.errors import ShardError
from shards.format.join import open_indexes
from shards.format.ontology import with_ancestors


def average_run(config: AverageConfig, accelerator: Accelerator) -> Average:
    """Average the best checkpoints of a finished run. Collective."""
    result, newest, train_config = from_main(lambda: _read_run(config.run))
    choose_arithmetic(train_config.arithmetic)
    data = train_config.data
    audio = with_ancestors(open_indexes(data.audio, kind="audio"), data.ontology)
    valid = open_validation(
        data.valid, data.held_out_share, audio, ontology=data.ontology
    )
    check_checkpoint_fits(valid.index, newest)
    average = average_best(
        config.run,
        newest.training,
        k=config.k,
        valid=valid,
        accelerator=accelerator,
        loader=train_config.loader,
    )
    if accelerator.is_main_process:
        write_result(config.run, dataclasses.replace(result, average=average))
        print(describe_average(config.run, average))
    return average


def _read_run(run_dir: str) -> tuple[Result, Checkpoint, TrainConfig]:
    """A finished run's result, newest checkpoint (without weights) and config."""
    result, newest = read_result(run_dir), load_newest(run_dir)
    if result is None or newest is None:
        raise ShardError(
            f"{run_dir}: not a finished run, as it has no result.json; finish it first"
        )
    path = Path(run_dir, CONFIG_NAME)
    train_config = parse(TrainConfig, read_yaml(path, TrainConfig), where=str(path))
    return result, dataclasses.replace(newest, weights={}), train_config


def run_averaging(config: AverageConfig) -> None:
    """Join the job and average. Collective."""
    accelerator = launch.join_job()
    average_run(config, accelerator)
    launch.leave_job(accelerator)
