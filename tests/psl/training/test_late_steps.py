"""Steps whose outcome the host reads a step later, as on a GPU; and recorded ones."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from psl import train
from psl.data.batch import Batch
from psl.data.config import TrainAugmentConfig
from psl.data.spec_augment import install_masks
from psl.models.families import FAMILIES, build_model
from psl.training import run
from psl.training.averages import MovingAverage
from psl.training.config import OptimConfig
from psl.training.optim import build_optimizer, optimizer_tensors
from psl.training.step import Stepper
from psl.training.verdict import Read, Verdicts
from psl.weights.checkpoint import load_newest, load_optimizer
from tests.jobs import start, step_reached
from tests.learning import TINY_MODEL, losses, tiny_config
from tests.replaying import Replaying
from tests.steppers import make_stepper
from tests.tiny_models import TINY

NUM_CLASSES, NUM_SAMPLES, BAD_STEP = 3, 16000, 5


@pytest.fixture(scope="module", autouse=True)
def accelerator() -> Iterator[Accelerator]:
    """One process on the CPU."""
    accelerator = Accelerator(cpu=True)
    yield accelerator
    accelerator.free_memory()


def batch_of(step: int) -> Batch:
    """The batch of a step; that of ``BAD_STEP`` has targets that are not finite."""
    draw = torch.Generator().manual_seed(step)
    pcm = torch.randint(-9999, 9999, (4, NUM_SAMPLES), generator=draw)
    targets = torch.rand(4, NUM_CLASSES, generator=draw)
    if step == BAD_STEP:
        targets[1] = torch.nan
    num_samples = torch.full((4,), NUM_SAMPLES)
    num_samples[2] = 1000 * step
    return Batch(pcm.to(torch.int16), num_samples, targets)


def stepper(
    accelerator: Accelerator, *, masks: bool = False, **options: Any
) -> Stepper:
    """One with an average, over a model with dropout."""
    torch.manual_seed(0)
    model = build_model(num_classes=NUM_CLASSES, **{**TINY_MODEL, "dropout": 0.3})
    if masks:
        augment = TrainAugmentConfig(
            time_masks=1,
            time_mask_seconds=0.3,
            frequency_masks=2,
            frequency_mask_share=0.2,
        )
        front_end: Any = model.config.front_end  # type: ignore[union-attr]
        install_masks(model, augment, front_end, chunk_seconds=1.0)
    averaged = copy.deepcopy(model)
    config = OptimConfig(name="adamw", weight_decay=0.01, layer_decay=0.9)
    optimizer = build_optimizer(model, config, fused=True)
    options = {"accumulation_steps": 2, **options}
    step = make_stepper(accelerator, model, optimizer, **options)
    step.average = MovingAverage(averaged, model, 0.9)
    return step


def take_steps(step: Stepper, last: int = 8) -> list[tuple[int, float, str | None]]:
    """Make steps; what came of each."""
    outcomes = []
    step.model.train()
    for number in range(1, last + 1):
        rate = 1e-2 / number
        outcomes += step(batch_of(number), number, learning_rate=rate, stop=False)
    outcomes += step.settle()
    return [(o.step, o.loss, o.problem) for o in outcomes]


def state_of(step: Stepper) -> dict[str, Tensor]:
    """Weights, statistics and moments."""
    return {**step.model.state_dict(), **optimizer_tensors(step.optimizer)}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert sorted(ours) == sorted(theirs)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


VARIANTS: list[dict[str, Any]] = [
    {},
    {"accumulation_steps": 1, "clip_grad_norm": None},
    {"precision": "bf16", "masks": True},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_verdict_that_is_read_late_changes_no_bit(
    accelerator: Accelerator, options: dict[str, Any]
) -> None:
    """A run on a GPU would learn from a batch that was to be skipped, or not resume."""
    at_once, late = (stepper(accelerator, late=late, **options) for late in (0, 1))
    expected, found = take_steps(at_once), take_steps(late)
    assert [(n, problem) for n, _, problem in found] == [
        (n, "loss is nan" if n == BAD_STEP else None) for n in range(1, 9)
    ]
    assert [loss for n, loss, _ in found if n != BAD_STEP] == [
        loss for n, loss, _ in expected if n != BAD_STEP
    ]
    assert_same(state_of(at_once), state_of(late))
    assert at_once.average and late.average
    weights = at_once.average.model.state_dict()
    for name, value in late.average.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-6, atol=1e-7)


def test_a_late_step_whose_gradient_alone_is_not_finite_changes_nothing(
    accelerator: Accelerator,
) -> None:
    """A batch whose loss looks well would fill all weights with NaN."""
    step = stepper(accelerator, late=True)
    take_steps(step, 2)
    before = {name: tensor.clone() for name, tensor in state_of(step).items()}
    *_, last = step.model.parameters()
    last.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    step(batch_of(3), 3, learning_rate=0.1, stop=False)
    [outcome] = step.settle()
    assert outcome.loss < 1 and outcome.problem == "gradient norm is inf, not finite"
    assert_same(state_of(step), before)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_replayed_step_does_what_it_would_do_unrecorded(
    accelerator: Accelerator, options: dict[str, Any]
) -> None:
    """A graph would keep the learning rate, seed or batch of its recording."""
    recorder = Replaying()
    plain = stepper(accelerator, late=True, **options)
    recorded = stepper(accelerator, recorder=recorder, **options)
    assert str(take_steps(plain)) == str(take_steps(recorded))  # NaN is not NaN
    assert recorder.replayed >= 3 * 4  # at least 3 pieces in steps 5 to 8
    assert_same(state_of(plain), state_of(recorded))
    assert plain.average and recorded.average
    averages = plain.average.model, recorded.average.model
    assert_same(*(model.state_dict() for model in averages))


def test_a_recorded_step_reads_and_writes_the_same_memory_each_time(
    accelerator: Accelerator,
) -> None:
    """A graph would update weights that nobody reads any more."""
    step = stepper(accelerator, recorder=Replaying())
    take_steps(step, 4)

    def places() -> list[int]:
        assert step.average is not None
        tensors = [*state_of(step).values(), *step.average.model.state_dict().values()]
        rates = [group["lr"] for group in step.optimizer.param_groups]
        return [tensor.data_ptr() for tensor in [*tensors, *rates]]

    before = places()
    take_steps(step, 4)
    assert places() == before


def test_a_recorded_step_refuses_a_batch_of_another_shape(
    accelerator: Accelerator,
) -> None:
    """A graph would read past the end of the batch, or learn from half of it."""
    step = stepper(accelerator, recorder=Replaying(), accumulation_steps=1)
    step(batch_of(1), 1, learning_rate=0.1, stop=False)
    half = batch_of(2)
    half = Batch(half.pcm[:2], half.num_samples[:2], half.targets[:2])
    with pytest.raises(RuntimeError, match=r"\[2, 16000\].*\[4, 16000\].*cuda_graph"):
        step(half, 2, learning_rate=0.1, stop=False)


READS = (
    *("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__array__"),
    *("numpy", "cpu", "nonzero", "is_nonzero"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_step_asks_the_device_for_a_value(
    accelerator: Accelerator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU would stand still while the host waits, and then for the host."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=NUM_CLASSES, **TINY[name])
    optimizer = build_optimizer(model, OptimConfig(), fused=True)
    step = make_stepper(accelerator, model, optimizer, late=True)
    step.average = MovingAverage(copy.deepcopy(model), model, 0.9)
    read = Verdicts.take
    monkeypatch.setattr(Verdicts, "take", lambda *_, **__: [])
    step.model.train()
    step(batch_of(1), 1, learning_rate=0.1, stop=False)  # makes Adam's state
    with monkeypatch.context() as patched:
        for method in READS:
            patched.setattr(Tensor, method, _refuse)
        step(batch_of(2), 2, learning_rate=0.1, stop=False)
    assert [outcome.problem for outcome in read(step._verdicts)] == [None, None]


def _refuse(*args: Any) -> None:
    raise AssertionError("a step waits for the device")


class LateCopier:
    """Copies a tensor only when its copy is read, as a slow device may."""

    def __init__(self) -> None:
        self.num_read = 0

    def __call__(self, numbers: Tensor) -> Read:
        """Numbers of a step, on their way."""
        queued = numbers.clone()  # in the order of the device's queue

        def read() -> list[float]:
            self.num_read += 1
            return queued.tolist()

        return read


def test_the_verdict_of_a_step_is_read_when_the_next_one_is_queued() -> None:
    """Read before, the device has nothing to do; never read, NaN spreads."""
    copier = LateCopier()
    verdicts = Verdicts(copier)
    numbers = torch.tensor([0.5, 1.0, 0.0, 0.25])
    verdicts.put(1, numbers)
    assert verdicts.take(leave=1) == [] and copier.num_read == 0
    numbers.copy_(torch.tensor([1.5, torch.inf, 0.5, 2.0]))
    verdicts.put(2, numbers)
    [first] = verdicts.take(leave=1)
    assert (first.step, first.loss, first.own_loss) == (1, 0.5, 0.25)
    assert first.problem is None and not first.stop
    [second] = verdicts.take()
    assert second.problem == "gradient norm is inf, not finite" and second.stop
    assert verdicts.take() == []


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    "options", [[], ["accumulation_steps=2", "optim.ema_decay=0.9"]]
)
def test_late_runs_resume_bit_for_bit(
    tmp_path: Path, dataset: Path, ranks: int, options: list[str]
) -> None:
    """GPUs would be the one place where a resume is not exact."""
    words = ["global_batch_size=12", "save_every=2", *options]
    folders = {}
    for name, fault in (("whole", None), ("cut", "step=3,point=step,action=kill")):
        config = tiny_config(tmp_path / name, dataset, *words)
        if fault:
            job = start(tmp_path / name, config, ranks=ranks, fault=fault, late=True)
            assert job.wait()[0] == -signal.SIGKILL
        job = start(tmp_path / name, config, ranks=ranks, late=True)
        assert job.wait() == [0] * ranks, job.output
        folders[name] = tmp_path / name / "run"
    assert losses(folders["whole"]) == losses(folders["cut"])
    whole, cut = map(load_newest, folders.values())
    assert whole is not None and cut is not None
    assert_same(whole.weights, cut.weights)


def test_a_late_run_learns_as_one_that_knows_at_once(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step would be lost, doubled or counted for another."""
    fused = functools.partial(build_optimizer, fused=True)  # not as the default rounds
    monkeypatch.setattr(run, "build_optimizer", lambda *args, **_: fused(*args))
    for name in ("at_once", "late"):
        late = name == "late"
        monkeypatch.setattr(run, "is_read_late", lambda device, late=late: late)
        train.main(tiny_config(tmp_path / name, dataset))
    at_once, late_losses = (losses(tmp_path / n / "run") for n in ("at_once", "late"))
    assert list(late_losses) == list(range(1, 13))
    assert at_once == late_losses


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_late_run_skips_and_stops_at_the_step_that_was_bad(
    tmp_path: Path, dataset: Path, log_every: int
) -> None:
    """The message would name a batch that is innocent; weights would hold the NaN."""
    fault = "rank=1,step=2,point=step,action=nan"
    words = [f"log_every={log_every}", "epochs=1", "nonfinite=skip"]
    config = tiny_config(tmp_path, dataset, *words)
    job = start(tmp_path, config, ranks=2, fault=fault, late=True)
    assert job.wait() == [0, 0], job.output
    newest = load_newest(tmp_path / "run")
    assert newest is not None and newest.training.skipped_steps == 1
    assert newest.weights["features.0.1.num_batches_tracked"] == 5
    assert all(value.isfinite().all() for value in newest.weights.values())
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    skipped = [r for r in map(json.loads, records) if "skipped_steps" in r]
    assert [record["step"] for record in skipped] == [2]
    config = tiny_config(tmp_path / "stop", dataset, *words[:2], "optim.ema_decay=0.9")
    job = start(tmp_path / "stop", config, ranks=2, fault=fault, late=True)
    assert 1 in job.wait() and "step 2: loss is nan" in job.output
    assert "batch of" in job.output and "rank 1" in job.output


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_late_run_that_is_asked_to_stop_saves_and_resumes(
    tmp_path: Path, dataset: Path, log_every: int
) -> None:
    """A preempted job on GPUs would lose steps, or its ranks stop at different ones."""
    # without validations, which have a way of their own to stop
    rare = [f"log_every={log_every}", "epochs=99", "valid_every=594"]
    words = tiny_config(tmp_path, dataset, *rare)
    job = start(tmp_path, words, ranks=2, late=True)
    job.wait_until(lambda: step_reached(tmp_path / "run") >= 2)
    os.kill(job.ranks[1].pid or 0, signal.SIGTERM)
    assert job.wait() == [75, 75], job.output
    newest = load_newest(tmp_path / "run")
    assert newest is not None
    done = newest.training.epoch * 6 + newest.training.step_in_epoch
    assert 3 <= done < 594 and f"with a checkpoint at step {done};" in job.output
    assert load_optimizer(newest)["0.step"] == done


def test_an_ast_hears_whole_batches_without_a_mask_as_with_one(
    accelerator: Accelerator,
) -> None:
    """Faster attention would attend to something else."""
    config = {**TINY["ast"], "max_frames": 208, "dropout": 0.0}
    losses_of = {}
    for is_whole in (False, True):
        torch.manual_seed(0)
        model = build_model("ast", num_classes=NUM_CLASSES, **config)
        step = make_stepper(
            accelerator,
            model.train(),
            build_optimizer(model, OptimConfig()),
            clip_grad_norm=None,
            accumulation_steps=2,
            nonfinite="stop",
        )
        batch = dataclasses.replace(
            batch_of(1),
            num_samples=torch.full((4,), NUM_SAMPLES),
            is_whole=is_whole,
        )
        masks = mock.Mock(side_effect=model._mask)
        with mock.patch.object(model, "_mask", masks):
            outcomes = [step(batch, n, learning_rate=1e-3, stop=False) for n in (1, 2)]
        assert masks.called == (not is_whole)
        losses_of[is_whole] = [outcome.loss for [outcome] in outcomes]
    assert losses_of[True] == pytest.approx(losses_of[False], rel=1e-5)
