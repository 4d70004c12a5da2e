"""One optimizer step: micro-batches, what the ranks exchange, the update.

Owns the arithmetic between a batch and new weights, and the guard before them: no rank
updates unless loss and gradient of all ranks are finite, and all hear in the same step
that one of them was asked to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn, optim

from psl.data.batch import Batch
from psl.distributed import collectives, launch, runtime
from psl.training.config import Nonfinite
from psl.training.loss import psl_loss
from psl.training.norm_statistics import NormStatistics
from psl.training.optim import set_learning_rate


@dataclass(frozen=True)
class Outcome:
    """What came of a step; the same on all ranks except for ``own_loss``."""

    loss: float
    """Mean over the global batch."""
    own_loss: Tensor
    """[] mean over this rank's share of it, on the device."""
    problem: str | None
    """Why nothing was updated; None if all was well."""
    stop: bool
    """Whether any rank was asked to stop."""


class Stepper:
    """Makes optimizer steps.

    Every rank has the same whole model, and gradients are averaged here in one flat
    all-reduce, together with the loss, BatchNorm statistics and the request to stop.
    (DistributedDataParallel would add gradients up in another order in its first step
    than in later ones, so that with 3 or more ranks a resumed run would differ.) Under
    DeepSpeed, model and optimizer are prepared by it, and it reduces the gradients.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: optim.Optimizer,
        *,
        seed: int,
        precision: launch.Precision | None,
        clip_grad_norm: float | None,
        accumulation_steps: int,
        nonfinite: Nonfinite,
        compile_model: bool,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self._seed = seed
        self._is_deepspeed = runtime.is_deepspeed(accelerator)
        # DeepSpeed turns autocast off around its forward, and has its own
        self._autocast = precision == "bf16" and not self._is_deepspeed
        self._clip, self._num_parts = clip_grad_norm, accumulation_steps
        self._forward = torch.compile(model) if compile_model else model
        self._parameters = list(model.parameters())
        self._statistics = NormStatistics(
            model, num_parts=accumulation_steps, can_undo=nonfinite == "skip"
        )

    def __call__(
        self, batch: Batch, step: int, *, learning_rate: float, stop: bool
    ) -> Outcome:
        """Optimizer step number ``step`` (from 1) on this rank's share. Collective.

        A loss or gradient that is not finite leaves weights, optimizer and (where the
        config says skip) BatchNorm statistics as they were.
        """
        set_learning_rate(self.optimizer, learning_rate)
        make_gradient = self._by_deepspeed if self._is_deepspeed else self._by_ourselves
        outcome = make_gradient(batch, step, stop)
        if outcome.problem is None:
            self.optimizer.step()
        else:
            self._statistics.undo()
        self.optimizer.zero_grad()
        return outcome

    def _by_ourselves(self, batch: Batch, step: int, stop: bool) -> Outcome:
        """The gradient over the global batch, clipped, in ``.grad``. Collective."""
        losses: list[Tensor] = []
        for part, micro_batch in enumerate(_parts(batch, self._num_parts)):
            loss = self._loss(micro_batch, step, part)
            (loss / self._num_parts).backward()
            losses.append(loss.detach())
        self._statistics.end_parts()
        own_loss = torch.stack(losses).mean()
        loss, stop_share = own_loss.clone(), own_loss.new_tensor(float(stop))
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        statistics = self._statistics.averaged
        collectives.mean_over_ranks([*gradients, *statistics, loss, stop_share])
        norm = self._clipped_norm(gradients)
        # The one place where the host waits for the device: the update must not be
        # queued before the answer is known.
        values = torch.stack([loss, norm.to(loss), stop_share]).tolist()
        return Outcome(values[0], own_loss, _problem(*values[:2]), values[2] > 0)

    def _clipped_norm(self, gradients: list[Tensor]) -> Tensor:
        """[] norm of the gradient before clipping, which this does."""
        if self._clip is None:
            return nn.utils.get_total_norm(gradients)
        return nn.utils.clip_grad_norm_(self._parameters, self._clip)

    def _by_deepspeed(self, batch: Batch, step: int, stop: bool) -> Outcome:
        """The same by DeepSpeed, whose last backward also updates. Collective."""
        losses: list[Tensor] = []
        means: list[float] = []
        problem = None
        for part, micro_batch in enumerate(_parts(batch, self._num_parts)):
            with self.accelerator.accumulate(self.model):
                loss = self._loss(micro_batch, step, part)
                losses.append(loss.detach())
                told = torch.stack([losses[-1], loss.new_tensor(float(stop))])
                collectives.mean_over_ranks([told])
                mean, stop_share = told.tolist()
                means.append(mean)
                stop = stop_share > 0
                problem = _problem(mean, 0.0)
                if problem is not None:
                    break
                self.accelerator.backward(loss)
        self._statistics.end_parts()
        collectives.mean_over_ranks(self._statistics.averaged)
        if problem is None and self.optimizer.step_was_skipped:  # type: ignore
            problem = "gradient norm is not finite"
        return Outcome(
            sum(means) / len(means), torch.stack(losses).mean(), problem, stop
        )

    def _loss(self, batch: Batch, step: int, part: int) -> Tensor:
        """[] mean over one part of this rank's share."""
        self._statistics.begin_part(part)
        self._seed_part(step, part)
        device = self.accelerator.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._autocast):
            clip_probs, _ = self._forward(batch.waveform, batch.num_samples)
        return psl_loss(clip_probs, batch.targets)

    def _seed_part(self, step: int, part: int) -> None:
        """Make dropout a function of (seed, step, part of the global batch).

        So a resume is exact, and 1 rank with 2 parts drops what 2 ranks drop.
        """
        number = self.accelerator.process_index * self._num_parts + part
        words = [self._seed, step, number]
        mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0]))


def _problem(loss: float, gradient_norm: float) -> str | None:
    """What is not finite; None if nothing."""
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(gradient_norm):
        return f"gradient norm is {gradient_norm}, not finite"
    return None


def _parts(batch: Batch, number: int) -> Iterator[Batch]:
    """``batch`` cut into ``number`` equal batches, in order."""
    for pcm, num_samples, targets in zip(
        batch.pcm.chunk(number),
        batch.num_samples.chunk(number),
        batch.targets.chunk(number),
        strict=True,
    ):
        yield Batch(pcm=pcm, num_samples=num_samples, targets=targets)
