"""One optimizer step: micro-batches, what the ranks agree on, the update.

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
from psl.training.optim import set_learning_rate


@dataclass(frozen=True)
class Outcome:
    """What came of a step; the same on all ranks but for ``loss``."""

    loss: Tensor
    """[] mean over this rank's share of the global batch, on the device."""
    problem: str | None
    """Why nothing was updated; None if all was well."""
    stop: bool
    """Whether any rank was asked to stop."""


class Stepper:
    """Makes optimizer steps with a prepared model and optimizer."""

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
        # DeepSpeed turns autocast off around its forward, and has its own (psl/distributed/zero.py)
        split = runtime.is_deepspeed(accelerator)
        self._autocast = precision == "bf16" and not split
        self._clip, self._num_parts = clip_grad_norm, accumulation_steps
        # around DDP, which then splits the graph so that communication overlaps
        self._forward = torch.compile(model) if compile_model else model
        statistics = norm_statistics(model) if nonfinite == "skip" else []
        self._statistics = statistics

    def __call__(
        self, batch: Batch, step: int, *, learning_rate: float, stop: bool
    ) -> Outcome:
        """Optimizer step number ``step`` (from 1) on this rank's share. Collective.

        A loss or gradient that is not finite leaves weights, optimizer and (where the
        config says skip) BatchNorm statistics as they were.
        """
        set_learning_rate(self.optimizer, learning_rate)
        before = [buffer.clone() for buffer in self._statistics]
        deepspeed = runtime.is_deepspeed(self.accelerator)
        losses: list[Tensor] = []
        problem, any_stop = None, stop
        for part, micro_batch in enumerate(_parts(batch, self._num_parts)):
            self._seed_part(step, part)
            with self.accelerator.accumulate(self.model):
                loss = self._loss(micro_batch)
                losses.append(loss.detach())
                if deepspeed:  # its backward also updates
                    problem, any_stop = self._agree(losses[-1], None, any_stop)
                    if problem is not None:
                        break
                self.accelerator.backward(loss)
        mean_loss = torch.stack(losses).mean()
        if not deepspeed:
            problem, any_stop = self._agree(mean_loss, self._gradient_norm(), stop)
        elif problem is None and self.optimizer.step_was_skipped:  # type: ignore
            problem = "gradient norm is not finite"
        if problem is None:
            self.optimizer.step()
        else:
            for buffer, value in zip(self._statistics, before, strict=True):
                buffer.copy_(value)
        self.optimizer.zero_grad()
        return Outcome(mean_loss, problem, any_stop)

    def _loss(self, batch: Batch) -> Tensor:
        device = self.accelerator.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._autocast):
            clip_probs, _ = self._forward(batch.waveform, batch.num_samples)
        return psl_loss(clip_probs, batch.targets)

    def _seed_part(self, step: int, part: int) -> None:
        """Make dropout a function of (seed, step, rank, part): resume is exact."""
        words = [self._seed, step, self.accelerator.process_index]
        words += [part] if part else []  # one part draws what the whole always drew
        mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0]))

    def _gradient_norm(self) -> Tensor:
        """[] norm of the gradient of all ranks, before clipping, which this does."""
        parameters = list(self.model.parameters())
        if self._clip is not None:
            return self.accelerator.clip_grad_norm_(parameters, self._clip)
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _agree(
        self, loss: Tensor, norm: Tensor | None, stop: bool
    ) -> tuple[str | None, bool]:
        """What is not finite on any rank, and whether any is to stop. Collective.

        The one place where the host waits for the device in each step: the update
        must not be queued before the answer is known.
        """
        flag = loss.new_tensor(float(stop))
        values = torch.stack([loss, flag if norm is None else norm.to(loss), flag])
        loss_sum, norm_sum, stops = collectives.sum_over_ranks(values).tolist()
        problem = None
        if not math.isfinite(loss_sum):
            problem = f"loss is {loss_sum}"
        elif not math.isfinite(norm_sum):
            problem = f"gradient norm is {norm_sum}, not finite"
        return problem, stops > 0


def norm_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass of a BatchNorm changes."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [b for n, b in model.named_buffers() if n.split(".")[-1] in names]


def _parts(batch: Batch, number: int) -> Iterator[Batch]:
    """``batch`` cut into ``number`` equal batches, in order."""
    for pcm, num_samples, targets in zip(
        batch.pcm.chunk(number),
        batch.num_samples.chunk(number),
        batch.targets.chunk(number),
        strict=True,
    ):
        yield Batch(pcm=pcm, num_samples=num_samples, targets=targets)
