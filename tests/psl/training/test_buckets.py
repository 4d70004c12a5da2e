"""Gradients that are shared in buckets while the backward pass goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from psl import train
from psl.command_line import from_command_line
from psl.data.batch import Batch
from psl.models.families import build_model
from psl.train import COMMAND
from psl.training.config import OptimConfig, TrainConfig
from psl.training.optim import build_optimizer
from psl.training.rehearsal import rehearse
from psl.training.step import Stepper
from psl.training.verdict import Verdicts
from psl.weights.checkpoint import checkpoint_folder
from tests.fake_group import FakeGroup
from tests.jobs import start
from tests.learning import TINY_MODEL, losses, tiny_config
from tests.replaying import Replaying
from tests.steppers import make_stepper

BUCKETS = "bucket_mb=0.05"
"""13 of the tiny model's 0.54 MB."""


@pytest.fixture(scope="module")
def accelerator() -> Iterator[Accelerator]:
    """One process on the CPU."""
    accelerator = Accelerator(cpu=True)
    yield accelerator
    accelerator.free_memory()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(tiny_config(folder, dataset, "epochs=1"))
    return folder / "run"


def stepper(accelerator: Accelerator, **options: Any) -> Stepper:
    """One whose verdicts are late, over a tiny model."""
    torch.manual_seed(0)
    model = build_model(num_classes=3, **TINY_MODEL).train()
    optimizer = build_optimizer(model, OptimConfig(), fused=True)
    options = {"accumulation_steps": 2, "late": True, **options}
    return make_stepper(accelerator, model, optimizer, **options)


def batch_of(step: int) -> Batch:
    """The batch of a step."""
    draw = torch.Generator().manual_seed(step)
    pcm = torch.randint(-9999, 9999, (4, 16000), generator=draw)
    targets = torch.rand(4, 3, generator=draw)
    return Batch(pcm.to(torch.int16), torch.full((4,), 16000), targets)


def take_steps(step: Stepper, last: int) -> dict[str, Tensor]:
    """The weights and statistics after ``last`` steps."""
    for number in range(1, last + 1):
        step(batch_of(number), number, learning_rate=1e-2, stop=False)
    assert all(outcome.problem is None for outcome in step.settle())
    return step.model.state_dict()


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert sorted(ours) == sorted(theirs)
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("other", ["buckets", "recorded"])
def test_steps_of_two_ranks_are_those_of_one_all_reduce(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """A layer's gradient would be lost, or sent before it is whole; in a recorded step,
    what is sent would be that of the step that was recorded.
    """
    group = FakeGroup(monkeypatch)
    expected = take_steps(stepper(accelerator), 7)
    assert sum("leave" in event for event in group.events) == 7
    group.events.clear()
    options: dict[str, Any] = {"bucket_mb": 0.05}
    if other == "recorded":
        options = {"recorder": Replaying()}
    assert_same(take_steps(stepper(accelerator, **options), 7), expected)
    times = 13 if other == "buckets" else 1
    assert sum("leave" in event for event in group.events) == 7 * times


def test_a_step_in_buckets_asks_the_device_for_nothing(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU would stand still while the host waits, at every bucket."""
    FakeGroup(monkeypatch)
    step = stepper(accelerator, bucket_mb=0.05)
    monkeypatch.setattr(Verdicts, "take", lambda *_, **__: [])
    step(batch_of(1), 1, learning_rate=0.1, stop=False)  # makes Adam's state
    for method in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(Tensor, method, _refuse)
    step(batch_of(2), 2, learning_rate=0.1, stop=False)


def _refuse(*args: Any) -> None:
    raise AssertionError("a step waits for the device")


def trained(run: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {
        f"{path.stem} {name}": tensor
        for path in checkpoint_folder(run, step).glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def test_two_ranks_learn_in_buckets_what_they_learn_without(
    tmp_path: Path, dataset: Path, teacher: Path
) -> None:
    """To the bit, as two numbers have but one sum; a bad batch is skipped by both."""
    words = ["epochs=1", "nonfinite=skip", "accumulation_steps=2"]
    words += ["augment.mixup_alpha=0.5", "optim.ema_decay=0.9", "model.dropout=0.3"]
    words += ["data.labels=online", f"data.teacher={teacher}"]
    fault = "rank=1,step=3,point=step,action=nan"
    jobs = {}
    for name, more in (("flat", []), ("buckets", [BUCKETS])):
        config = tiny_config(tmp_path / name, dataset, *words, *more)
        jobs[name] = start(tmp_path / name, config, ranks=2, fault=fault)
        assert jobs[name].wait() == [0, 0], jobs[name].output
    runs = [tmp_path / name / "run" for name in jobs]
    assert list(losses(runs[1])) == [1, 2, 4, 5, 6]
    assert losses(runs[1]) == losses(runs[0])
    assert_same(*(trained(run, 6) for run in runs))


def test_three_ranks_in_buckets_resume_bit_for_bit(
    tmp_path: Path, dataset: Path
) -> None:
    """Buckets of another size in a start's first step add up in another order: with 3
    ranks a preempted job would end with another model than one that was left alone.
    """
    words = ["global_batch_size=12", "save_every=2", "optim.learning_rate=1e-3"]
    words += ["accumulation_steps=2", "optim.ema_decay=0.9", BUCKETS]
    for name, fault in (("whole", None), ("cut", "step=4,point=step,action=kill")):
        config = tiny_config(tmp_path / name, dataset, *words)
        if fault:
            job = start(tmp_path / name, config, ranks=3, fault=fault, late=True)
            assert job.wait()[0] == -signal.SIGKILL, job.output
        job = start(tmp_path / name, config, ranks=3, late=True)
        assert job.wait() == [0, 0, 0], job.output
    whole, cut = (tmp_path / name / "run" for name in ("whole", "cut"))
    assert list(losses(whole)) == list(range(1, 9))
    assert losses(cut) == losses(whole)
    assert_same(trained(cut, 8), trained(whole, 8))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("action=nan", "step 2: loss is nan, nothing was updated; batch of rank 1: "),
        ("action=stop", "gives no sign of life in step 2:"),
        ("action=kill", "error: rank 1 (process "),
    ],
)
def test_a_rank_with_a_problem_is_named_as_without_buckets(
    tmp_path: Path, dataset: Path, fault: str, message: str
) -> None:
    """Others would wait for its buckets forever, and nobody would know for whom."""
    words = tiny_config(tmp_path, dataset, BUCKETS, "attempt.timeout_seconds=8")
    fault = f"rank=1,step=2,point=step,{fault}"
    job = start(tmp_path, words, ranks=2, fault=fault)
    rank = job.ranks[0]
    rank.join(60)
    assert rank.exitcode == 1, job.output
    job.wait_until(lambda: "error: " in job.output, 30)
    job.kill()
    assert job.output.count("error: ") == 1
    assert message in job.output and "rank 1" in job.output


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["strategy=zero2"], "bucket_mb: DeepSpeed shares the gradients in its own"),
        (["cuda_graph=true"], "bucket_mb: with cuda_graph the backward pass is"),
    ],
)
def test_buckets_are_refused_where_they_cannot_leave(
    tmp_path: Path, dataset: Path, words: list[str], refusal: str
) -> None:
    """A run would claim to overlap and not do it, or fail when it records its step."""
    words = tiny_config(tmp_path, dataset, BUCKETS, *words)
    config = from_command_line(TrainConfig, words, COMMAND)
    with pytest.raises(ValueError, match=refusal):
        rehearse(config, 2, device="cuda")
