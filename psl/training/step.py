"""One optimizer step: micro-batches, what the ranks exchange, the update.

Owns the arithmetic between a batch and new weights, and the guard before them: no rank
updates unless loss and gradient of all ranks are finite, and all hear of the same step
that one of them was asked to stop.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn, optim

from psl.data.batch import Batch
from psl.distributed import collectives, launch, runtime
from psl.distributed.exchange import Exchange
from psl.training.averages import MovingAverage
from psl.training.config import Nonfinite
from psl.training.loss import psl_loss
from psl.training.norm_statistics import NormStatistics
from psl.training.optim import make_recordable, set_learning_rate
from psl.training.recording import Pieces, Recorder
from psl.training.verdict import LOSS, NORM, STOP, Outcome, Verdicts, is_bad, problem_of


class Stepper:
    """Makes optimizer steps.

    Every rank has the same whole model, and gradients are averaged here (Exchange),
    together with the loss, BatchNorm statistics and the request to stop.
    (DistributedDataParallel would add gradients up in another order in its first step
    than in later ones, so that with 3 or more ranks a resumed run would differ.) Under
    DeepSpeed, model and optimizer are prepared by it, and it reduces the gradients.

    With ``late`` verdicts the host never waits for the step that it queues: whether
    loss and gradient are finite is decided on the device, and read with the next step.
    """

    average: MovingAverage | None = None
    """The moving average of the weights, which each update moves; None for none."""
    exchange: Exchange
    """What averages over the ranks; another one may take over between two steps."""

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
        bucket_mb: float | None = None,
        late: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        """``late`` needs a fused optimizer; with a ``recorder``, steps are replayed.

        ``bucket_mb`` is Exchange's, and not for a ``recorder``: buckets leave inside of
        what it records. None of the three is for DeepSpeed. BatchNorm's buffers become
        views (NormStatistics).
        """
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self._seed = seed
        self._is_deepspeed = runtime.is_deepspeed(accelerator)
        # DeepSpeed turns autocast off around its forward, and has its own
        self._autocast = precision == "bf16" and not self._is_deepspeed
        self._clip, self._num_parts = clip_grad_norm, accumulation_steps
        self._forward = torch.compile(model) if compile_model else model
        self._spares_lengths = getattr(model, "is_faster_on_whole_batches", False)
        self._parameters = list(model.parameters())
        self._statistics = NormStatistics(
            model, num_parts=accumulation_steps, can_undo=nonfinite == "skip"
        )
        self._is_late, self._verdicts = late or recorder is not None, Verdicts()
        self._pieces = Pieces(recorder)
        device = accelerator.device
        self._losses = torch.zeros(accumulation_steps, device=device)
        self._stop, self._bad = torch.zeros((2,), device=device).unbind()
        self._numbers = torch.zeros(4, device=device)
        self.exchange = Exchange(self._parameters, bucket_mb=bucket_mb)
        if self._is_late:
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        if recorder is not None:
            make_recordable(optimizer, device)

    def __call__(
        self, batch: Batch, step: int, *, learning_rate: float, stop: bool
    ) -> list[Outcome]:
        """Optimizer step number ``step`` (from 1) on this rank's share. Collective.

        What is known now of the steps so far: of this one, or with late verdicts of the
        one before. A loss or gradient that is not finite leaves weights, optimizer,
        average and (where the config says skip) BatchNorm statistics as they were.
        """
        set_learning_rate(self.optimizer, learning_rate)
        if self._is_deepspeed:
            return [self._by_deepspeed(batch, step, stop)]
        self._stop.fill_(float(stop))
        inputs = self._pieces.inputs(batch)
        for part, micro_batch in enumerate(_parts(inputs, self._num_parts)):
            self._seed_part(step, part)
            backward = functools.partial(self._backward, micro_batch, part)
            self._pieces.run(f"part {part}", backward)
        self._pieces.run("pack", self._pack)
        if not collectives.is_alone():
            self.exchange.reduce()
        if self._is_late and self.average:
            self.average.expect(step)
        update = self._update_unless_bad if self._is_late else self._weigh
        self._pieces.run("update", update)
        self._verdicts.put(step, self._numbers)
        if self._is_late:
            return self._verdicts.take(leave=1)
        outcomes = self._verdicts.take()
        self._update_if(outcomes[0].problem is None, step)
        return outcomes

    def settle(self) -> list[Outcome]:
        """What is not yet known of the steps so far; waits for them."""
        return self._verdicts.take()

    def _backward(self, batch: Batch, part: int) -> None:
        """Add one part's share to the gradient."""
        loss = self._loss(batch, part)
        if part == self._num_parts - 1:
            self.exchange.expect_last_part()
        (loss / self._num_parts).backward()
        self._losses[part].copy_(loss.detach())

    def _pack(self) -> None:
        """Make ready what the ranks exchange."""
        self._statistics.end_parts()
        self._numbers.copy_(self._losses.mean())
        self._numbers[STOP].copy_(self._stop)
        if not collectives.is_alone():
            self.exchange.pack(self._beside())

    def _beside(self) -> list[Tensor]:
        """What is averaged over the ranks beside gradients, in a fixed order."""
        return [*self._statistics.averaged, self._numbers[LOSS], self._numbers[STOP]]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]

    def _weigh(self) -> None:
        """Unpack, clip, and complete ``_numbers``."""
        if not collectives.is_alone():
            self.exchange.unpack(self._beside())
        self._numbers[NORM].copy_(self._clipped_norm())

    def _clipped_norm(self) -> Tensor:
        """[] norm of the gradient before clipping, which this does."""
        if self._clip is None:
            return nn.utils.get_total_norm(self._gradients())
        return nn.utils.clip_grad_norm_(self._parameters, self._clip)

    def _update_unless_bad(self) -> None:
        """The update, with the device's own verdict: nothing waits for the host."""
        self._weigh()
        self._bad.copy_(is_bad(self._numbers))
        self.optimizer.step()
        self._statistics.undo_if(self._bad)
        if self.average:
            self.average.update_unless(self._bad)
        self.optimizer.zero_grad()

    def _update_if(self, good: bool, step: int) -> None:
        """The update, after the host's verdict."""
        if good:
            self.optimizer.step()
            if self.average:
                self.average.update(step)
        else:
            self._statistics.undo()
        self.optimizer.zero_grad()

    def _by_deepspeed(self, batch: Batch, step: int, stop: bool) -> Outcome:
        """The whole step by DeepSpeed, whose last backward also updates. Collective."""
        losses: list[Tensor] = []
        means: list[float] = []
        problem = None
        for part, micro_batch in enumerate(_parts(batch, self._num_parts)):
            with self.accelerator.accumulate(self.model):
                self._seed_part(step, part)
                loss = self._loss(micro_batch, part)
                losses.append(loss.detach())
                told = torch.stack([losses[-1], loss.new_tensor(float(stop))])
                collectives.mean_over_ranks([told])
                mean, stop_share = told.tolist()
                means.append(mean)
                stop = stop_share > 0
                problem = problem_of(mean, 0.0)
                if problem is not None:
                    break
                self.accelerator.backward(loss)
        self._statistics.end_parts()
        collectives.mean_over_ranks(self._statistics.averaged)
        if problem is None and self.optimizer.step_was_skipped:  # type: ignore
            problem = "gradient norm is not finite"
        self._update_if(problem is None, step)
        own_loss = torch.stack(losses).mean().item()
        return Outcome(step, sum(means) / len(means), own_loss, problem, stop)

    def _loss(self, batch: Batch, part: int) -> Tensor:
        """[] mean over one part of this rank's share."""
        self._statistics.begin_part(part)
        device = self.accelerator.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._autocast):
            known = batch.is_whole and self._spares_lengths
            clip_probs, _ = self._forward(
                batch.waveform, None if known else batch.num_samples
            )
        return psl_loss(clip_probs, batch.targets)

    def _seed_part(self, step: int, part: int) -> None:
        """Make dropout a function of (seed, step, part of the global batch).

        So a resume is exact, and 1 rank with 2 parts drops what 2 ranks drop.
        """
        number = self.accelerator.process_index * self._num_parts + part
        words = [self._seed, step, number]
        mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)
        torch.manual_seed(int(mixed[0]))


def _parts(batch: Batch, number: int) -> Iterator[Batch]:
    """``batch`` cut into ``number`` equal batches, in order."""
    for pcm, num_samples, targets in zip(
        batch.pcm.chunk(number),
        batch.num_samples.chunk(number),
        batch.targets.chunk(number),
        strict=True,
    ):
        yield dataclasses.replace(
            batch, pcm=pcm, num_samples=num_samples, targets=targets
        )
