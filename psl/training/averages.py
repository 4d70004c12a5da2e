"""Averages of weights: a moving average during training, and the best checkpoints' mean.

Owns their arithmetic. With a moving average, it is the average that is validated, saved
as the model and used; the trained weights are saved next to it
(psl/weights/checkpoint.py), so that a run resumes bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from psl.data.config import LoaderConfig
from psl.data.validation import Validation
from psl.distributed import runtime
from psl.evaluation.scoring import measure
from psl.weights.checkpoint import (
    AVERAGE_NAME,
    FOLDER_NAME,
    TrainingState,
    best_steps,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from psl.weights.result import Average, read_result
from shards.errors import ShardError

AVERAGED_BUFFERS = ("running_mean", "running_var")
"""BatchNorm's. They follow the trained weights, whose activations they describe, so
they are averaged as those are (timm's ModelEma does the same); buffers of other names
are copied."""


def decay_at(decay: float, step: int) -> float:
    """Share of the old average that optimizer step ``step`` (from 1) keeps.

    Less than ``decay`` in the first steps, so that the initial weights are soon
    forgotten: the rule of TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """Keeps ``model``, in evaluation mode, the moving average of another model."""

    def __init__(self, model: nn.Module, trained: nn.Module, decay: float) -> None:
        """``model`` is a copy of ``trained``, or what a checkpoint has of the average.

        ``trained`` must hold its weights whole on every rank, and be prepared for
        training already, which may move buffers.
        """
        self.model = model.requires_grad_(False).eval()
        self._decay = decay
        averaged: dict[str, Tensor] = dict(self.model.named_parameters())
        sources: dict[str, Tensor] = dict(trained.named_parameters())
        self._copied: list[tuple[Tensor, Tensor]] = []
        buffers = dict(trained.named_buffers())
        for name, buffer in self.model.named_buffers():
            if name.rpartition(".")[2] in AVERAGED_BUFFERS:
                averaged[name], sources[name] = buffer, buffers[name]
            else:
                self._copied.append((buffer, buffers[name]))
        self._averages = list(averaged.values())
        self._sources = [sources[name] for name in averaged]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step`` (from 1)."""
        share = 1 - decay_at(self._decay, step)
        torch._foreach_lerp_(self._averages, self._sources, share)
        for buffer, source in self._copied:
            buffer.copy_(source)


BATCH_SIZE = 32
"""Clips scored at a time; their scores do not depend on it."""


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


def describe(run_dir: str | Path, average: Average) -> str:
    """One line for people."""
    steps = ", ".join(map(str, average.steps))
    folder = Path(run_dir, FOLDER_NAME, AVERAGE_NAME)
    return (
        f"{folder}: validation mAP {100 * average.valid_mAP:.2f} % of the average of "
        f"steps {steps}"
    )
