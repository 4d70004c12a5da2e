"""Average the best checkpoints of a run, as the paper's students were.

Owns the mean of their weights and the checkpoint it becomes. psl.train does it at its
end where the configuration says average_best; this command does it for a run that is
finished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from psl.checkpoint import (
    AVERAGE_NAME,
    FOLDER_NAME,
    TrainingState,
    best_steps,
    checkpoint_folder,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from psl.config import STRICT, from_command_line, parse, read_yaml
from psl.data.loader import LoaderConfig
from psl.data.validation import Validation, open_validation
from psl.distributed import launch, runtime
from psl.evaluate import check_checkpoint_fits
from psl.evaluation.scoring import measure
from psl.result import Average, read_result, write_result
from psl.run_log import CONFIG_NAME
from psl.train_config import TrainConfig
from shards.cli import run_main
from shards.join import open_indexes
from shards.schema import ShardError

BATCH_SIZE = 32
"""Clips scored at a time; their scores do not depend on it."""


@dataclass(frozen=True, config=STRICT)
class AverageConfig:
    """What to average."""

    run: str
    """Folder of a finished run."""
    k: int = Field(default=4, gt=0)
    """Checkpoints to average, the best by validation mAP; fewer if there are fewer."""


def mean_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each parameter and buffer over checkpoints, in float64.

    BatchNorm statistics count as weights, as upstream has it. Whole numbers, such as
    how many batches BatchNorm saw, are rounded down.
    """
    first, *others = (load_checkpoint(folder).weights for folder in folders)
    sums = {
        name: tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64)
        for name, tensor in first.items()
    }
    for weights in others:
        for name, tensor in weights.items():
            sums[name] += tensor
    count = len(folders)
    return {
        name: (total / count if total.is_floating_point() else total // count).to(
            first[name].dtype
        )
        for name, total in sums.items()
    }


def average_best(
    run_dir: str | Path,
    training: TrainingState,
    *,
    k: int,
    valid: Validation,
    accelerator: Accelerator,
    loader: LoaderConfig,
    before_batch: Callable[[int], None] = lambda number: None,
) -> Average:
    """Make checkpoints/average of the ``k`` best checkpoints, and measure it.

    Collective. What result.json says of the same average is taken from there. Raises
    ShardError if one of the checkpoints is gone or damaged.
    """
    steps = tuple(best_steps(training.history, k))
    result = read_result(run_dir)
    folder = Path(run_dir, FOLDER_NAME, AVERAGE_NAME)
    done = result.average if result is not None else None
    if done is not None and done.steps == steps and folder.exists():
        return done
    folders = [checkpoint_folder(run_dir, step) for step in steps]
    for missing in (path for path in folders if not path.exists()):
        raise ShardError(
            f"{missing}: no longer there, so that the best {k} checkpoints cannot be "
            "averaged; train with keep_best that large, or average fewer"
        )
    best = load_checkpoint(folders[0])
    averaged = dataclasses.replace(best, weights=mean_weights(folders))
    model = runtime.place(averaged.build_model(), accelerator.device)
    if accelerator.is_main_process:
        save_checkpoint(
            folder,
            model=model,
            optimizer={},
            model_config=best.model_config,
            classes=best.classes,
            training=training,
        )
    metrics = measure(
        model,
        valid.index,
        accelerator,
        batch_size=BATCH_SIZE,
        loader=loader,
        rows=valid.rows,
        before_batch=before_batch,
    )
    return Average(steps, metrics.mean_ap)


def average_run(config: AverageConfig, accelerator: Accelerator) -> Average:
    """Average the best checkpoints of a finished run. Collective."""
    result, newest = read_result(config.run), load_newest(config.run)
    if result is None or newest is None:
        raise ShardError(
            f"{config.run}: not a finished run, as it has no result.json; finish it "
            "first"
        )
    path = Path(config.run, CONFIG_NAME)
    train_config = parse(TrainConfig, read_yaml(path), where=str(path))
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


def describe(run_dir: str | Path, average: Average) -> str:
    """One line for people."""
    steps = ", ".join(map(str, average.steps))
    folder = Path(run_dir, FOLDER_NAME, AVERAGE_NAME)
    return (
        f"{folder}: validation mAP {100 * average.valid_mAP:.2f} % of the average of "
        f"steps {steps}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.average``."""
    config = from_command_line(
        AverageConfig,
        argv,
        command="python -m psl.average",
        purpose="Average the best checkpoints of a finished run, and use the average.",
        example="python -m psl.average run=runs/student k=4",
    )
    accelerator = launch.start()
    average_run(config, accelerator)
    launch.finish(accelerator)


if __name__ == "__main__":
    run_main(main)
