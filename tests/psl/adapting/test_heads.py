"""Heads are logistic regression, and cross validation keeps recordings together."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from psl.adapting.heads import Windows, cross_validate, fit, folds_of
from psl.models.embedding import Embedding


def made(num_examples: int = 60, size: int = 8) -> Windows:
    """One window each, of two classes that overlap, and background."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(num_examples) % 3
    inputs = torch.randn(num_examples, 1, size, generator=generator)
    inputs[:, 0, 0] += 2.0 * (label == 0)
    inputs[:, 0, 1] += 2.0 * (label == 1)
    targets = torch.stack([label == 0, label == 1], dim=1).float()
    return Windows(Embedding(inputs, None), torch.arange(num_examples), targets)


def test_a_head_is_that_of_scikit_learn() -> None:
    """A fit that stops early or regularises wrongly looks fine and costs precision."""
    windows, penalty = made(), 0.003
    head = fit(windows, penalty)

    inputs = windows.embedding.frames[:, 0].double().numpy()
    size = inputs.shape[1]
    scaled = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0) / np.sqrt(size)
    for label in range(2):
        target = windows.targets[:, label].numpy()
        theirs = LogisticRegression(C=1 / (penalty * len(target)), tol=1e-8)
        theirs.fit(scaled, target)
        expected = theirs.predict_proba(scaled)[:, 1]
        found = windows.scores(head)[:, label].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_example_counts_once_whatever_its_windows() -> None:
    """One long recording would outvote all others of its class."""
    once = made()
    rows = torch.cat([torch.zeros(9, dtype=torch.int64), torch.arange(60)])
    often = Windows(Embedding(once.embedding.frames[rows], None), rows, once.targets)
    assert often.sizes()[0] == 10
    one, other = often.scores(fit(often, 0.01)), often.scores(fit(once, 0.01))
    assert (one - other).abs().max() < 0.05


def test_recordings_stay_together_and_single_ones_are_never_held_out() -> None:
    """Parts of one recording on both sides make cross validation look perfect."""
    labels = [0, 0, 0, 0, 1, 1, 1, 2, None, None]
    groups = ["a", "a", "b", "c", "a", "d", "e", "f", "g", "h"]
    folds = folds_of(labels, groups).tolist()
    assert folds[0] == folds[1] == folds[4]
    assert folds[7] == -1
    assert len({folds[0], folds[2], folds[3]}) == 3
    assert all(fold >= 0 for fold in folds[:7] + folds[8:])


def test_nothing_to_hold_out_is_no_result() -> None:
    """One example of each class would be measured on itself."""
    windows = made(3)
    folds = folds_of([0, 1, None], ["a", "b", "c"])
    assert cross_validate(windows, folds) is None


def test_cross_validation_is_not_measured_on_what_it_learnt() -> None:
    """Random embeddings with random labels must not look recognisable."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(80, 1, 200, generator=generator)
    targets = (torch.rand(80, 1, generator=generator) < 0.5).float()
    windows = Windows(Embedding(inputs, None), torch.arange(80), targets)
    labels = [0 if t else None for t in targets[:, 0].tolist()]
    crossed = cross_validate(windows, folds_of(labels, [str(i) for i in range(80)]))
    assert crossed is not None
    positive = crossed.scores[targets > 0].mean()
    negative = crossed.scores[targets == 0].mean()
    assert abs(float(positive - negative)) < 0.1
