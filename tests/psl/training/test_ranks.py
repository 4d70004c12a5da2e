"""Runs of several ranks: exact resumes, parts of a batch, and clean ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from psl import label, train
from psl.training.norm_statistics import NormStatistics
from psl.weights.checkpoint import checkpoint_folder
from tests.jobs import start
from tests.learning import REPOSITORY, losses, state, tiny_config

BATCH = ("global_batch_size=12", "optim.learning_rate=1e-3")
"""4 steps in an epoch of 48 chunks; 1, 2, 3, 4 and 6 ranks can share it."""
EXTRAS = {
    "parts": ("accumulation_steps=2", "optim.ema_decay=0.9", "model.dropout=0.3"),
    "mixup": ("augment.mixup_alpha=0.5", "optim.clip_grad_norm=1", "model.dropout=0.3"),
}
"""Options whose state or random numbers a resume could lose."""


def done(folder: Path, words: list[str], ranks: int, **options: Any) -> None:
    """Run a job that is to succeed on all ranks."""
    job = start(folder, words, ranks=ranks, **options)
    assert job.wait() == [0] * ranks, job.output


def killed(folder: Path, words: list[str], ranks: int, step: int) -> None:
    """Run a job whose last rank is killed in ``step``."""
    fault = f"rank={ranks - 1},step={step},point=step,action=kill"
    job = start(folder, words, ranks=ranks, fault=fault)
    assert job.wait()[-1] == -signal.SIGKILL, job.output


def tensors(run: Path, step: int, file: str) -> dict[str, torch.Tensor]:
    """What a safetensors file of a checkpoint holds."""
    return load_file(checkpoint_folder(run, step) / f"{file}.safetensors")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(tiny_config(folder, dataset, "epochs=1"))
    return folder / "run"


@pytest.mark.parametrize(
    ("ranks", "extra"), [(3, "parts"), (3, "online"), (4, "mixup")]
)
def test_a_run_of_many_ranks_killed_twice_repeats_every_loss(
    tmp_path: Path, dataset: Path, teacher: Path, ranks: int, extra: str
) -> None:
    """A preempted job would end with another model than one that was left alone.

    With 3 ranks or more, the order in which gradients are added up shows: two numbers
    have but one sum. Every bit of weights, averages and optimizer is compared, too.
    """
    words = EXTRAS.get(extra, ("data.labels=online", f"data.teacher={teacher}"))
    words = (*BATCH, *words, "epochs=4", "save_every=3", "keep_best=1")
    whole = tiny_config(tmp_path / "whole", dataset, *words)
    done(tmp_path / "whole", whole, ranks)
    again = tiny_config(tmp_path / "again", dataset, *words)
    for step in (6, 11):
        killed(tmp_path / "again", again, ranks, step)
    done(tmp_path / "again", again, ranks)
    expected, found = (losses(tmp_path / name / "run") for name in ("whole", "again"))
    assert list(expected) == list(range(1, 17))
    assert found == expected
    folder = checkpoint_folder(tmp_path / "whole" / "run", 16)
    for file in (path.stem for path in folder.glob("*.safetensors")):
        before = tensors(tmp_path / "whole" / "run", 16, file)
        after = tensors(tmp_path / "again" / "run", 16, file)
        assert all(torch.equal(before[name], after[name]) for name in before), file


def test_a_run_moves_from_3_ranks_to_1_to_4_and_keeps_its_losses(
    tmp_path: Path, dataset: Path
) -> None:
    """A requeued job gets whatever GPUs are free; its batches would not be the same.

    BatchNorm uses running statistics, as parts of other sizes have other ones of their
    own: then all that may differ is the order of sums.
    """
    words = [*BATCH, "epochs=4", "save_every=2", "model.dropout=0"]
    whole = tiny_config(tmp_path / "whole", dataset, *words)
    done(tmp_path / "whole", whole, 3, fixed_statistics=True)
    moved = tiny_config(tmp_path / "moved", dataset, *words)
    for ranks, step in ((3, 6), (1, 11)):
        fault = f"rank=0,step={step},point=step,action=kill"
        job = start(
            tmp_path / "moved", moved, ranks=ranks, fault=fault, fixed_statistics=True
        )
        assert job.wait()[0] == -signal.SIGKILL, job.output
    done(tmp_path / "moved", moved, 4, fixed_statistics=True)
    expected, found = (losses(tmp_path / name / "run") for name in ("whole", "moved"))
    assert list(expected) == list(range(1, 17)) and expected[1] != expected[16]
    assert found == pytest.approx(expected, rel=2e-5)


def in_parts(folder: Path, dataset: Path, ranks: int, parts: int, *words: str) -> Path:
    """A finished run of 12 steps whose ranks take their share in ``parts`` parts."""
    words = (*BATCH, "epochs=3", "model.dropout=0.3", "optim.ema_decay=0.5", *words)
    folder = folder / f"{ranks}x{parts}"
    config = tiny_config(folder, dataset, *words, f"accumulation_steps={parts}")
    done(folder, config, ranks)
    return folder / "run"


def test_losses_and_validation_are_those_of_two_ranks_in_two_parts_on_one(
    tmp_path: Path, dataset: Path
) -> None:
    """The best checkpoint would be another one with 1 GPU and 2 parts than with 2 GPUs.

    To the bit, as two numbers have but one sum. Dropout is on: parts of the global
    batch draw the same, on whatever rank they are.
    """
    one, two = (in_parts(tmp_path, dataset, *way) for way in ((1, 2), (2, 1)))
    assert losses(two) == losses(one)
    assert mean_aps(two) == mean_aps(one)
    for file in ("model", "trained"):
        first, second = (tensors(run, 12, file) for run in (one, two))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["features.0.1.num_batches_tracked"] == 12


def test_losses_and_statistics_of_four_parts_are_close_on_any_ranks(
    tmp_path: Path, dataset: Path
) -> None:
    """A sum over more parts might count one twice, or divide by the wrong number.

    The order of sums differs, and Adam's first steps amplify that tenfold a step,
    unless they are as small as here.
    """
    small = "optim.learning_rate=1e-6"
    one, two = (in_parts(tmp_path, dataset, *way, small) for way in ((1, 4), (2, 2)))
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    first, second = (tensors(run, 12, "trained") for run in (one, two))
    for name in (name for name in first if "running" in name):
        assert torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-4), name


def mean_aps(run: Path) -> list[float]:
    """The mAP of each validation."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [r["valid_mAP"] for r in records if "valid_mAP" in r]


def test_a_step_moves_running_statistics_by_the_mean_of_its_parts() -> None:
    """Evaluation would go by the last part of each batch alone, or by all in turn.

    Parts [0, 2] and [4, 10]: means 1 and 7, unbiased variances 2 and 18, so that from
    0 and 1 with momentum 0.5 the step goes to 0.5 * 4 and 0.5 * 1 + 0.5 * 10.
    """
    norm = nn.BatchNorm1d(1, momentum=0.5)
    statistics = NormStatistics(norm, num_parts=2, can_undo=False)
    for part, values in enumerate(([0.0, 2.0], [4.0, 10.0])):
        statistics.begin_part(part)
        norm(torch.tensor(values).unsqueeze(1))
    statistics.end_parts()
    found = {name: buffer.item() for name, buffer in norm.named_buffers()}
    assert found == {"running_mean": 2.0, "running_var": 5.5, "num_batches_tracked": 1}
    statistics.undo()
    found = {name: buffer.item() for name, buffer in norm.named_buffers()}
    assert found == {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}


RECIPES = {
    "table2": ("table2/base", "table2/baseline"),
    "table3": ("table2/base", "table3/base", "table3/psl_2s"),
    "table4": ("table2/base", "table4/base", "table4/psl_5s"),
}


@pytest.fixture(scope="module")
def labels(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, teacher: Path
) -> Path:
    """The teacher's labels of every second; not to be changed."""
    out = tmp_path_factory.mktemp("labels") / "1s"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={out}"]
    label.main([*words, "chunk_seconds=1"])
    return out


@pytest.mark.parametrize(
    ("table", "ranks"), [("table2", 2), ("table2", 3), ("table3", 3), ("table4", 2)]
)
def test_an_undisturbed_run_of_a_recipe_ends_with_status_0(
    tmp_path: Path, dataset: Path, labels: Path, table: str, ranks: int
) -> None:
    """Every run of the paper's recipes, which average checkpoints, would end as failed:
    one rank would look for a checkpoint that another has yet to write.
    """
    words = [str(REPOSITORY / f"configs/{file}.yaml") for file in RECIPES[table]]
    words += tiny_config(tmp_path, dataset, *BATCH, "epochs=4", "valid_every=4")
    words += [] if table == "table2" else [f"data.labels=[{labels}]"]
    job = start(tmp_path, words, ranks=ranks)
    assert job.wait() == [0] * ranks, job.output
    assert state(tmp_path / "run") == "done"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["average"]["steps"]) == 4
