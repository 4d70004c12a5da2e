"""Logistic heads on embeddings, and how good they are by cross validation.

Owns the arithmetic: the fit, the folds, and the choice of the penalty. Each class has a
sigmoid of its own, as everywhere here: several sounds may be heard at once, and a
background is zero for all, which a softmax could say only with one more output.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from psl.models.embedding import Embedding, probabilities

PENALTIES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)
"""Of L2, from which cross validation chooses; for embeddings of variance 1 / D."""
MAX_FOLDS = 5
_MAX_STEPS = 200
_MIN_STD = 1e-4
"""Of a value that hardly moves, relative to the largest standard deviation."""


@dataclass(frozen=True)
class Head:
    """A last layer."""

    weight: Tensor
    """[C, D] float32."""
    bias: Tensor
    """[C] float32."""


@dataclass(frozen=True)
class Windows:
    """Windows of examples, and what they are."""

    embedding: Embedding
    """Of M windows."""
    example_of: Tensor
    """[M] int64 in 0 .. N - 1."""
    targets: Tensor
    """[N, C] in {0, 1}, of examples."""

    def take(self, examples: Tensor) -> Windows:
        """The windows of the examples that ``examples`` [N] bool marks.

        Examples keep their numbers, so those of others have no window.
        """
        rows = examples[self.example_of]
        num_frames = self.embedding.num_frames
        part = Embedding(
            self.embedding.frames[rows],
            None if num_frames is None else num_frames[rows],
        )
        return Windows(part, self.example_of[rows], self.targets)

    def scores(self, head: Head) -> Tensor:
        """[N, C], the mean probability over the windows of each example."""
        probs = probabilities(self.embedding, head.weight, head.bias)
        total = torch.zeros_like(self.targets).index_add_(0, self.example_of, probs)
        return total / self.sizes().clamp(min=1)[:, None]

    def sizes(self) -> Tensor:
        """[N] windows of each example."""
        return torch.bincount(self.example_of, minlength=len(self.targets))


@dataclass(frozen=True)
class Crossed:
    """What cross validation found."""

    scores: Tensor
    """[N, C] of each example by heads that were fitted without its recording."""
    held_out: Tensor
    """[N] bool, whether there is such a score."""
    penalty: float
    losses: dict[float, float]
    """Mean binary cross entropy of the held-out examples by penalty."""


def folds_of(labels: Sequence[int | None], groups: Sequence[str]) -> Tensor:
    """The fold [N] int64 of each example; -1 for those that are never held out.

    Examples of a group are in one fold. Groups are dealt to folds class by class, in an
    order that depends on nothing but their names. A class with one group alone is never
    held out: nothing would be left to learn it from.
    """
    of_label: dict[int | None, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        of_label.setdefault(label, set()).add(group)
    counts = [len(found) for label, found in of_label.items() if label is not None]
    num_folds = min(MAX_FOLDS, max(counts))
    fold: dict[str, int] = {}
    dealt = 0
    for label in sorted(of_label, key=lambda one: -1 if one is None else one):
        if len(of_label[label]) < 2 and label is not None:
            fold |= dict.fromkeys(of_label[label], -1)
            continue
        for group in sorted(of_label[label], key=_shuffled):
            if group not in fold:
                fold[group] = dealt % num_folds
                dealt += 1
    return torch.tensor([fold[group] for group in groups])


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def cross_validate(windows: Windows, folds: Tensor) -> Crossed | None:
    """Scores of held-out examples with the penalty that has the least loss.

    None if nothing can be held out.
    """
    held_out = folds >= 0
    numbers = folds[held_out].unique().tolist()
    if len(numbers) < 2:
        return None
    scaled = _Scaled(windows)
    scores = {p: torch.zeros_like(windows.targets) for p in PENALTIES}
    for fold in numbers:
        rest, part = windows.take(folds != fold), windows.take(folds == fold)
        head = None
        for penalty in PENALTIES:
            head = scaled.fit(rest, penalty, start=head)
            mine = folds == fold
            scores[penalty][mine] = part.scores(scaled.unscaled(head))[mine]
    losses = {
        p: float(
            nn.functional.binary_cross_entropy(
                found[held_out].clamp(1e-6, 1 - 1e-6), windows.targets[held_out]
            )
        )
        for p, found in scores.items()
    }
    best = min(PENALTIES, key=lambda p: losses[p])
    return Crossed(scores[best], held_out, best, losses)


def fit(windows: Windows, penalty: float) -> Head:
    """The head of all ``windows``; the same each time."""
    scaled, head = _Scaled(windows), None
    for step in [p for p in PENALTIES if p > penalty] + [penalty]:
        head = scaled.fit(windows, step, start=head)
    assert head is not None
    return scaled.unscaled(head)


class _Scaled:
    """Fits heads on embeddings of mean 0 and variance 1 / D."""

    def __init__(self, windows: Windows) -> None:
        clip = windows.embedding.clip
        std = clip.std(dim=0, correction=0)
        self._mean = clip.mean(dim=0)
        self._std = std.clamp(min=max(float(std.max()) * _MIN_STD, 1e-12))
        self._std = self._std * math.sqrt(clip.shape[1])

    def unscaled(self, head: Head) -> Head:
        """The same head for embeddings as they are."""
        weight = head.weight / self._std
        return Head(weight, head.bias - weight @ self._mean)

    def fit(self, windows: Windows, penalty: float, *, start: Head | None) -> Head:
        """Least mean loss per class plus ``penalty`` / 2 times the squared weights.

        Each example counts as one, whatever its number of windows. The loss is that of
        the mean embedding of a window, which makes it convex.
        """
        inputs = (windows.embedding.clip - self._mean) / self._std
        targets = windows.targets[windows.example_of]
        share = 1 / windows.sizes()[windows.example_of].float()
        share = (share / share.sum())[:, None]
        num_classes = targets.shape[1]
        if start is None:
            rate = (share * targets).sum(dim=0).clamp(1e-3, 1 - 1e-3)
            start = Head(inputs.new_zeros(num_classes, inputs.shape[1]), rate.logit())
        weight = start.weight.clone().requires_grad_()
        bias = start.bias.clone().requires_grad_()
        solver = optim.LBFGS(
            [weight, bias],
            max_iter=_MAX_STEPS,
            tolerance_grad=1e-5,
            tolerance_change=1e-7,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            solver.zero_grad()
            logits = inputs @ weight.T + bias
            each = nn.functional.binary_cross_entropy_with_logits(
                logits, targets, reduction="none"
            )
            total = (share * each).sum() + penalty / 2 * weight.square().sum()
            total.backward()
            return total

        solver.step(loss)
        return Head(weight.detach(), bias.detach())
