"""When what happens in a run, counted in optimizer steps from 1.

Owns the totals and the questions about them that training asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from psl.training.config import TrainConfig
from psl.training.optim import learning_rate
from psl.weights.checkpoint import TrainingState, best_steps


@dataclass(frozen=True)
class Schedule:
    """The steps of a run."""

    config: TrainConfig
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    def steps_done(self, state: TrainingState) -> int:
        """Steps of the whole run up to ``state``."""
        return state.epoch * self.steps_per_epoch + state.step_in_epoch

    def learning_rate(self, step: int) -> float:
        """The learning rate of ``step``, before the factors of layers."""
        return learning_rate(self.config.optim, step - 1, self.total_steps)

    def is_validated_after(self, step: int) -> bool:
        """Whether ``step`` is followed by a validation."""
        every = self.config.valid_every or self.steps_per_epoch
        return step % every == 0 or step == self.total_steps

    def pauses_after(self, step: int) -> bool:
        """Whether an epoch ends with ``step``, or a validation follows it."""
        return step % self.steps_per_epoch == 0 or self.is_validated_after(step)

    def is_recorded_after(self, step: int) -> bool:
        """Whether the losses since the last record are recorded after ``step``."""
        return step % self.config.log_every == 0 or self.pauses_after(step)

    def is_settled_after(self, step: int) -> bool:
        """Whether what came of ``step`` must be known before the next one."""
        return self.is_recorded_after(step) or self.is_saved_after(step)

    def is_saved_after(self, step: int) -> bool:
        """Whether ``step`` is followed by a checkpoint, apart from those of pauses."""
        every = self.config.save_every
        if every is None or self.pauses_after(step):
            return False
        return step % every == 0

    def is_validation_due(self, state: TrainingState) -> bool:
        """Whether a validation comes next."""
        step = self.steps_done(state)
        last = state.history[-1][0] if state.history else 0
        return step > last and self.is_validated_after(step)

    def is_over(self, state: TrainingState) -> bool:
        """Whether all epochs are done, or patience is exhausted."""
        if state.epoch >= self.config.epochs:
            return True
        patience = self.config.patience
        if patience is None or not state.history:
            return False
        best = best_steps(state.history, 1)[0]
        return sum(step > best for step, _ in state.history) >= patience
