"""Mixtures: of what, how much of each, with whom; and what training makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from psl import train
from psl.data.batch import Batch
from psl.data.mixup import Mixup, mix
from tests import jobs
from tests.learning import losses, tiny_config

WHOLE = slice(0, 64)


def mixup(*, share: slice = WHOLE, **changes: float) -> Mixup:
    options = {"alpha": 1.0, "probability": 1.0, **changes}
    return Mixup(seed=3, global_batch_size=64, share=share, **options)


def batch_of_three() -> Batch:
    """Chunks of 4, 2 and 3 samples."""
    pcm = [[100, -100, 32767, 5], [40, 20, 0, 0], [-32768, 7, 9, 0]]
    return Batch(
        pcm=torch.tensor(pcm, dtype=torch.int16),
        num_samples=torch.tensor([4, 2, 3]),
        targets=torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.25, 1.0]]),
    )


def test_a_mixture_is_the_weighted_sum_of_samples_and_of_targets() -> None:
    """Else the student is asked for something else than it hears."""
    shares = np.array([0.75, 0.5, 1.0], np.float32)
    mixed = mix(batch_of_three(), shares, np.array([1, 2, 0]))
    assert mixed.pcm.dtype == torch.int16
    assert mixed.pcm.tolist() == [
        [85, -70, 24575, 4],  # 0.75 x 100 + 0.25 x 40, ..., 3.75 rounded
        [-16364, 14, 4, 0],  # halves go to the even number
        [-32768, 7, 9, 0],
    ]
    assert mixed.num_samples.tolist() == [4, 3, 3]  # the longer of two that are mixed
    expected = [[0.75, 0.125], [0.125, 0.75], [0.25, 1.0]]
    torch.testing.assert_close(mixed.targets, torch.tensor(expected))


def test_shares_are_those_of_the_beta_distribution() -> None:
    """Else mixup_alpha is not the published knob. Var of Beta(a, a): 1 / (8 a + 4)."""
    for alpha in (0.3, 1.0, 4.0):
        steps = [mixup(alpha=alpha).draw(step)[0] for step in range(1, 101)]
        shares = np.concatenate(steps)
        assert shares.dtype == np.float32 and shares.min() >= 0 and shares.max() <= 1
        assert shares.mean() == pytest.approx(0.5, abs=0.02)
        assert shares.var() == pytest.approx(1 / (8 * alpha + 4), rel=0.06)


def test_only_the_said_part_of_the_examples_is_mixed() -> None:
    """Else mixup_probability is connected to nothing."""
    shares = np.concatenate(
        [mixup(probability=0.25).draw(step)[0] for step in range(1, 101)]
    )
    assert np.mean(shares < 1) == pytest.approx(0.25, abs=0.03)


def test_nobody_is_mixed_with_itself_and_everybody_once() -> None:
    """Else mixtures are none, or some examples are heard more than others."""
    for size in (2, 3, 64):
        for step in range(1, 30):
            _, partners = mixup(share=slice(0, size)).draw(step)
            assert sorted(partners) == list(range(size))
            assert (partners != np.arange(size)).all()
    all_partners = {tuple(mixup().draw(step)[1]) for step in range(1, 30)}
    assert len(all_partners) == 29


def test_shares_do_not_depend_on_how_many_processes_share_the_batch() -> None:
    """Else a run on more GPUs mixes more, or less. Partners stay within a rank."""
    whole, _ = mixup().draw(7)
    parts = [mixup(share=slice(at, at + 16)).draw(7) for at in range(0, 64, 16)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), whole)
    assert len({tuple(partners) for _, partners in parts}) == 4
    assert len(set(whole)) == 64 and not np.array_equal(whole, mixup().draw(8)[0])
    other = Mixup(1.0, 1.0, seed=4, global_batch_size=64, share=WHOLE).draw(7)
    assert not np.array_equal(whole, other[0])


def test_each_batch_is_mixed_by_the_number_of_its_step() -> None:
    """Else a resumed run mixes other examples than it was going to."""
    three = Mixup(1.0, 1.0, seed=0, global_batch_size=3, share=slice(0, 3))
    whole = [three.mix(batch_of_three(), step) for step in range(1, 6)]
    rest = [three.mix(batch_of_three(), step) for step in (4, 5)]
    for expected, found in zip(whole[3:], rest, strict=True):
        assert torch.equal(expected.pcm, found.pcm)
        assert torch.equal(expected.targets, found.targets)
    assert len({batch.pcm.numpy().tobytes() for batch in whole}) == 5


def test_mixup_changes_the_losses_and_parts_of_a_batch_do_not_change_mixtures(
    tmp_path: Path, dataset: Path
) -> None:
    """Else the knob is dead, or gradient accumulation is another experiment.

    With BatchNorm fixed, the loss of a whole batch is the mean of that of its parts.
    """
    found = []
    mixed = ["augment.mixup_alpha=1"]
    for number, words in enumerate(
        ([], mixed, [*mixed, "accumulation_steps=4"], [*mixed, "seed=1"])
    ):
        folder = tmp_path / str(number)
        config = tiny_config(folder, dataset, "epochs=1", *words)
        job = jobs.start(folder, config, fixed_statistics=True)
        assert job.wait() == [0], job.output
        found.append(losses(folder / "run"))
    plain, whole, parts, other_seed = found
    assert all(abs(plain[step] - whole[step]) > 1e-4 for step in plain)
    assert parts[1] == pytest.approx(whole[1], rel=1e-5)
    assert parts == pytest.approx(whole, rel=1e-3)
    assert other_seed[1] != whole[1]


def test_a_process_with_one_example_has_nobody_to_mix_it_with(
    tmp_path: Path, dataset: Path
) -> None:
    """Else mixup is on in the config, and does nothing."""
    words = ["augment.mixup_alpha=1", "global_batch_size=1"]
    with pytest.raises(ValueError, match="each has 1 of global_batch_size 1; raise"):
        train.main(tiny_config(tmp_path, dataset, *words))
    assert not (tmp_path / "run" / "config.yaml").exists()
