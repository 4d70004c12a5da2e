"""Loss, metrics, schedule and chunking, against independent values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from psl.data.batch import mix_targets
from psl.evaluation.metrics import NO_AUC, d_prime, evaluate_scores
from psl.training.config import OptimConfig
from psl.training.loss import psl_loss
from psl.training.optim import learning_rate
from shards.format.chunking import Chunking


def test_the_loss_of_one_half_against_anything_is_log_two() -> None:
    """A training curve could not be compared with anybody else's."""
    probs = torch.full((2, 3), 0.5)
    assert psl_loss(probs, torch.rand(2, 3)).item() == pytest.approx(math.log(2))


def test_the_loss_is_the_plain_formula_in_float64() -> None:
    """As above, for soft targets."""
    rng = np.random.default_rng(0)
    p, y = rng.uniform(0.01, 0.99, (4, 5)), rng.uniform(0, 1, (4, 5))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    loss = psl_loss(torch.from_numpy(p), torch.from_numpy(y)).item()
    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_loss_and_gradient_are_finite_for_extreme_logits(
    logit: float, target: float
) -> None:
    """One outlier would turn a month of training into NaN."""
    logits = torch.full((1, 1), logit, requires_grad=True)
    loss = psl_loss(logits.sigmoid(), torch.full((1, 1), target))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_logits_and_its_gradient_are_the_plain_formula_s(
    dtype: torch.dtype,
) -> None:
    """Autocast would train another model, or one of NaN.

    Logits as a last layer gives them under autocast, 4 frames; the decision mean, loss
    and gradient by hand in float64. d loss / d logit is (p - y) / (p (1 - p)) times
    s (1 - s) / frames, over all B x C, where s is the frame's probability.
    """
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (2, 4, 5))).to(dtype).requires_grad_()
    y = rng.uniform(0, 1, (2, 5))
    with torch.autocast("cpu", dtype):
        loss = psl_loss(logits.float().sigmoid().mean(dim=1), torch.from_numpy(y))
    loss.backward()
    s = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    p = s.mean(axis=1)
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    slope = ((p - y) / (p * (1 - p)))[:, None] * s * (1 - s) / 4 / 10
    assert logits.grad is not None
    np.testing.assert_allclose(
        logits.grad.double(), slope, rtol=2 * torch.finfo(dtype).eps, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_half_precision_logits_at_their_limits_have_finite_gradients(
    dtype: torch.dtype, target: float
) -> None:
    """One outlier would turn a month of training in bf16 into NaN."""
    largest = torch.finfo(dtype).max
    values = torch.tensor([[-largest, -90.0, -17.0, 17.0, 90.0, largest]], dtype=dtype)
    logits = values.requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = psl_loss(logits.float().sigmoid(), torch.full((1, 6), target))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_alpha_weighs_pseudo_against_weak_labels() -> None:
    """Table 3 of the paper (alpha 0.5) would be another experiment."""
    pseudo, weak = np.array([[0.2, 0.8]]), np.array([[1.0, 0.0]])
    assert mix_targets(pseudo, weak, 1.0).tolist() == pseudo.tolist()
    assert mix_targets(pseudo, weak, 0.0).tolist() == weak.tolist()
    mixed = mix_targets(pseudo, weak, 0.25)
    np.testing.assert_allclose(mixed, [[0.8, 0.2]])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 1000]))
def test_metrics_agree_with_scikit_learn_also_when_scores_tie(
    seed: int, levels: int
) -> None:
    """The commonest complaint of the field: mAP that does not match."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((40, 6)) < 0.3).astype(np.float32)
    targets[0], targets[1] = 1, 0
    scores = rng.integers(0, levels, (40, 6)) / levels
    metrics = evaluate_scores(targets, scores)
    ap = average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(metrics.ap, ap, atol=1e-12)
    assert metrics.mean_ap == pytest.approx(ap.mean())
    auc = roc_auc_score(targets, scores, average="macro")
    assert metrics.mean_auc == pytest.approx(auc)
    recall = recall_score(targets, scores >= 0.2, average="macro")
    assert metrics.recall == pytest.approx(recall)


def test_classes_without_a_positive_clip_stay_out_of_the_means() -> None:
    """MAP on a small set would count classes that nobody can find."""
    targets = np.array([[1, 0], [0, 0], [0, 0]], np.float32)
    scores = np.array([[0.9, 0.5], [0.1, 0.5], [0.3, 0.5]])
    metrics = evaluate_scores(targets, scores)
    assert (metrics.mean_ap, metrics.num_classes_with_positives) == (1.0, 1)
    assert np.isnan(metrics.ap[1]) and metrics.num_positives.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("targets", "undefined"),
    [
        ([[1], [1]], {"AUC": NO_AUC, "d_prime": NO_AUC}),
        ([[1], [0]], {"d_prime": "infinite, since AUC is 1"}),
        ([[0], [1]], {"d_prime": "infinite, since AUC is 0"}),
    ],
)
def test_what_is_undefined_is_null_in_strict_json_and_says_why(
    targets: list[list[int]], undefined: dict[str, str]
) -> None:
    """NaN and Infinity are no JSON: other languages' parsers would refuse the file."""
    metrics = evaluate_scores(np.array(targets), np.array([[0.9], [0.1]]))
    values = json.loads(json.dumps(metrics.summary(), allow_nan=False))
    assert values["undefined"] == undefined
    for name in ("mAP", "AUC", "d_prime", "recall_at_0.2"):
        assert (values[name] is None) == (name in undefined), name


def test_scores_that_are_not_finite_are_refused() -> None:
    """A broken model would get a number."""
    with pytest.raises(ValueError, match="clip 1, class 0 is not finite"):
        evaluate_scores(np.ones((2, 1)), np.array([[0.5], [np.nan]]))


@pytest.mark.parametrize(
    ("auc", "expected"), [(0.5, 0.0), (0.9, 1.8124), (0.975, 2.7718)]
)
def test_d_prime_is_that_of_a_table_of_the_normal_distribution(
    auc: float, expected: float
) -> None:
    """D' could not be compared with the literature. Phi^-1(0.975) = 1.95996."""
    assert d_prime(auc) == pytest.approx(expected, abs=1e-4)


def test_the_learning_rate_rises_holds_or_falls_as_written() -> None:
    """A schedule that depended on anything but the step would not resume."""
    cosine = OptimConfig(learning_rate=1.0, warmup_steps=4, schedule="cosine")
    rates = [learning_rate(cosine, step, 12) for step in (0, 1, 3, 4, 8, 12)]
    assert rates == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.5, 0.0])
    constant = OptimConfig(learning_rate=0.1)
    assert {learning_rate(constant, step, 9) for step in range(9)} == {0.1}


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(1, 1), (19, 1), (20, 1), (29, 1), (30, 2), (40, 2), (49, 2), (50, 3), (200, 10)],
)
def test_a_clip_has_as_many_chunks_as_the_rule_says(
    num_samples: int, expected: int
) -> None:
    """Labels would not match their audio. Chunks of 20 samples, half a chunk is 10."""
    assert Chunking(20, 20).num_chunks(np.array([num_samples])).tolist() == [expected]


def test_chunks_cover_the_clip_in_order_and_never_leave_it() -> None:
    """A label would be trained on another part of the clip."""
    chunking = Chunking.from_seconds(2.0, 10)
    assert [chunking.bounds(k, 53) for k in range(3)] == [(0, 20), (20, 40), (40, 53)]
    assert chunking.bounds(0, 7) == (0, 7)


def test_chunks_may_overlap() -> None:
    """Hops shorter than a chunk are part of the rule; 100 samples, 20 every 10."""
    assert Chunking(20, 10).num_chunks(np.array([100, 20, 25])).tolist() == [9, 1, 1]
