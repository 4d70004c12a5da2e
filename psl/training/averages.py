"""Averages of weights: a moving one during training, the best checkpoints' at the end.

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
from psl.distributed import collectives, runtime
from psl.evaluation.scoring import evaluate_model
from psl.models.families import ModelConfig, build_from_config
from psl.training.norm_statistics import is_averaged
from psl.weights.checkpoint import (
    AVERAGE_NAME,
    FOLDER_NAME,
    Checkpoint,
    TrainingState,
    best_steps,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from psl.weights.result import Average, read_result
from shards.errors import ShardError


def decay_at(decay: float, step: int) -> float:
    """Share of the old average that optimizer step ``step`` (from 1) keeps.

    Less than ``decay`` in the first steps, so that the initial weights are soon
    forgotten: the rule of TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """Keeps ``model``, in evaluation mode, the moving average of another model.

    BatchNorm's running mean and variance follow the trained weights, whose activations
    they describe, so they are averaged as those are (timm's ModelEma does the same);
    other buffers are copied.
    """

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
            if is_averaged(name):
                averaged[name], sources[name] = buffer, buffers[name]
            else:
                self._copied.append((buffer, buffers[name]))
        self._averages = list(averaged.values())
        self._sources = [sources[name] for name in averaged]
        device = next(self.model.parameters()).device
        self._share = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step ``step`` (from 1)."""
        share = 1 - decay_at(self._decay, step)
        torch._foreach_lerp_(self._averages, self._sources, share)
        self._copy()

    def expect(self, step: int) -> None:
        """Optimizer step ``step`` (from 1) is the next that ``update_unless`` sees."""
        self._share.fill_(1 - decay_at(self._decay, step))

    @torch.no_grad()
    def update_unless(self, bad: Tensor) -> None:
        """``update`` for the expected step, unless ``bad`` [] is not 0.

        Without asking the device whether it is. Rounds otherwise than ``update``.
        """
        share = torch.where(bad != 0, 0.0, self._share)
        moves = torch._foreach_sub(self._sources, self._averages)
        torch._foreach_mul_(moves, share)
        torch._foreach_add_(self._averages, moves)
        self._copy()

    def _copy(self) -> None:
        if self._copied:
            buffers, sources = zip(*self._copied, strict=True)
            torch._foreach_copy_(buffers, sources)


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

    Collective; only rank 0 reads and writes the run folder. If result.json has the same
    average already, it is taken from there. Raises ShardError if one of the checkpoints
    is gone or damaged.
    """
    steps = tuple(best_steps(training.history, k))
    known = collectives.from_main(lambda: _find(run_dir, steps))
    if known is not None:
        return known
    made: list[Checkpoint] = []  # on rank 0

    def make() -> tuple[ModelConfig, int]:
        made.append(_make(run_dir, training, steps))
        return made[0].model_config, len(made[0].classes)

    model = build_from_config(*collectives.from_main(make))
    if made:
        model.load_state_dict(made[0].weights)
    collectives.weights_from_main(model)
    metrics = evaluate_model(
        runtime.move_model(model, accelerator.device).eval(),
        valid.index,
        accelerator,
        folder=run_dir,
        loader=loader,
        rows=valid.rows,
        before_batch=before_batch,
    )
    return Average(steps, metrics.mean_ap)


def _find(run_dir: str | Path, steps: tuple[int, ...]) -> Average | None:
    """The average of ``steps``, if it is in the run folder and was measured."""
    result = read_result(run_dir)
    average = result.average if result is not None else None
    if average is None or average.steps != steps or not _folder(run_dir).exists():
        return None
    return average


def _make(
    run_dir: str | Path, training: TrainingState, steps: tuple[int, ...]
) -> Checkpoint:
    """Write checkpoints/average, the mean of the checkpoints of ``steps``."""
    folders = [checkpoint_folder(run_dir, step) for step in steps]
    missing = next((folder for folder in folders if not folder.exists()), None)
    if missing is not None:
        raise ShardError(
            f"{missing}: no longer there, so that the best {len(steps)} checkpoints "
            "cannot be averaged; train with keep_best that large, or average fewer"
        )
    best = load_checkpoint(folders[0])
    averaged = dataclasses.replace(best, weights=mean_weights(folders))
    save_checkpoint(
        _folder(run_dir),
        model=averaged.build_model(),
        optimizer={},
        model_config=best.model_config,
        classes=best.classes,
        training=training,
    )
    return averaged


def _folder(run_dir: str | Path) -> Path:
    return Path(run_dir, FOLDER_NAME, AVERAGE_NAME)


def describe_average(run_dir: str | Path, average: Average) -> str:
    """One line for people."""
    steps = ", ".join(map(str, average.steps))
    return (
        f"{_folder(run_dir)}: validation mAP {100 * average.valid_mAP:.2f} % of the "
        f"average of steps {steps}"
    )
