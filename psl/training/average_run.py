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
from psl.training.averages import average_best, describe
from psl.training.config import AverageConfig, TrainConfig
from psl.training.log import CONFIG_NAME
from psl.weights.checkpoint import check_checkpoint_fits, load_newest
from psl.weights.result import Average, read_result, write_result
from shards.errors import ShardError
from shards.format.join import open_indexes


def average_run(config: AverageConfig, accelerator: Accelerator) -> Average:
    """Average the best checkpoints of a finished run. Collective."""
    result, newest = read_result(config.run), load_newest(config.run)
    if result is None or newest is None:
        raise ShardError(
            f"{config.run}: not a finished run, as it has no result.json; finish it "
            "first"
        )
    path = Path(config.run, CONFIG_NAME)
    train_config = parse(TrainConfig, read_yaml(path, TrainConfig), where=str(path))
    data = train_config.data
    audio = open_indexes(data.audio, kind="audio")
    valid = open_validation(data.valid, data.held_out_share, audio)
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
        print(describe(config.run, average))
    return average


def run_averaging(config: AverageConfig) -> None:
    """Join the job and average. Collective."""
    accelerator = launch.start()
    average_run(config, accelerator)
    launch.finish(accelerator)
