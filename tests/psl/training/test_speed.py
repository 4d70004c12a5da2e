"""What a run says of its speed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from psl import status as status_command
from psl.distributed.peaks import peak_tflops
from psl.job import status
from psl.job.status import read_status
from psl.models.cost import cost_of
from psl.training.speed import Meter, Work
from tests import jobs
from tests.learning import tiny_config


class _Clock:
    """Shows what it is set to, s."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def _batches(clock: _Clock, waits: list[float]) -> Iterator[int]:
    for number, wait in enumerate(waits):
        clock.pass_(wait)
        yield number


def test_every_second_of_a_start_is_in_one_share() -> None:
    """A user would buy disks for time that validation took."""
    clock, reduced = _Clock(), _Clock()
    meter = Meter(
        Work(chunks=8, flops=6e9, peak_flops=24e9),
        useful_seconds=40.0,
        wall_seconds=lambda: clock.now + 100.0,
        reduced_seconds=reduced,
        clock=clock,
    )
    clock.pass_(10)  # opening
    with meter.at("step"):
        for number in meter.fetch(_batches(clock, [1.0, 0.5, 0.5])):
            clock.pass_(2)
            reduced.pass_(0.25)
            meter.step_done(updated=number != 1)
        with meter.at("checkpoint"):
            clock.pass_(3)
    # 3 steps of 2 s and 2 s of waiting; one of them updated nothing
    assert meter.read() == {
        "chunks_per_second": 2 * 8 / 8.0,
        "gflops_per_second": 2 * 6 / 8.0,
        "mfu": 2 * 6 / 8.0 / 24,
        "wait_share": 2 / 8.0,
        "communication_share": 0.75 / 8.0,
        "validation_share": 0.0,
        "checkpoint_share": 3 / 21.0,
        "goodput": (40 + 3 + 2.5) / 121.0,
    }
    with meter.at("validation"):
        clock.pass_(9)
        with meter.at("checkpoint"):  # a stop while it validates
            clock.pass_(3)
    speed = meter.whole_start()
    assert speed.validation_share == 9 / 33
    assert speed.checkpoint_share == 6 / 33
    assert speed.chunks_per_second == 2.0
    assert meter.read()["chunks_per_second"] == 0.0, "no step since the last reading"


def test_flops_are_those_of_the_formulas_also_for_depthwise_convolutions() -> None:
    """The counter of torch gives a depthwise layer of 6 channels 6 times too many."""
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Flatten(),
        nn.Linear(6 * 5 * 7, 11, bias=False),
    )
    cost = cost_of(model, torch.zeros(2, 4, 5, 7))
    first = 2 * 5 * 7 * 6 * 4 * 9
    depthwise = 2 * 5 * 7 * 6 * 9
    linear = 2 * 6 * 5 * 7 * 11
    # the input of the first layer needs no gradient: 2 passes instead of 3
    assert cost.flops_per_chunk == 2 * first + 3 * depthwise + 3 * linear
    assert cost.num_parameters == 6 * 4 * 9 + 6 * 9 + 6 * 5 * 7 * 11
    # kept: the inputs of the second and third layer; the first is the batch itself
    assert cost.activation_bytes_per_chunk == 2 * 4 * 6 * 5 * 7
    assert cost.buffer_bytes == 0


def test_the_backward_pass_of_a_transposed_convolution_is_two_forward_passes() -> None:
    """An MFU above 1 would make every other figure of the run doubtful."""
    model = nn.Sequential(
        nn.Conv1d(1, 4, 1, bias=False), nn.ConvTranspose1d(4, 6, 3, bias=False)
    )
    cost = cost_of(model, torch.zeros(2, 1, 5))
    assert cost.flops_per_chunk == 2 * (2 * 5 * 4) + 3 * (2 * 5 * 4 * 6 * 3)


@pytest.mark.parametrize(
    ("name", "bf16", "peak"),
    [
        ("NVIDIA H200", True, 989.4),
        ("NVIDIA H100 80GB HBM3", False, 494.7),
        ("NVIDIA H100 PCIe", True, 756.5),
        ("NVIDIA A100-SXM4-40GB", True, 312.0),
        ("NVIDIA A10", False, 62.5),
        ("NVIDIA L4", True, 121.0),
        ("NVIDIA L40S", True, 362.05),
        ("NVIDIA A100X", True, None),
        ("NVIDIA GeForce RTX 4090", True, None),
        ("Tesla T4", False, None),
    ],
)
def test_a_peak_is_known_or_left_out(name: str, bf16: bool, peak: float | None) -> None:
    """An MFU over a guessed peak looks like any other."""
    assert peak_tflops(name, bf16=bf16) == peak


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(status.time, "time", lambda: 1e9 + seconds)


def test_steps_that_a_restart_makes_again_count_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that is killed every hour would look as good as one that never is."""
    speed = status.Speed(9.0, None, None, 0.0, 0.0, 0.0, 0.0, 0.9)
    _at(monkeypatch, 0)
    run = status.started(None, 0)
    _at(monkeypatch, 100)
    run = status.with_step(run, 10, 1, useful_seconds=80.0, speed=speed)
    _at(monkeypatch, 150)
    run = status.with_speed(run, speed)  # 5 more steps, then kill -9
    settled = status.settled_speed(run)
    assert settled is not None and settled.goodput == 80 / 150
    _at(monkeypatch, 200)
    run = status.started(run, 10)
    assert (run.first_start, run.useful_seconds) == (1e9, 80.0)
    _at(monkeypatch, 300)
    run = status.with_step(run, 20, 2, useful_seconds=160.0, speed=speed)
    _at(monkeypatch, 320)
    run = status.ended(run, "done", "")
    assert run.speed is not None and run.speed.goodput == 160 / 320
    _at(monkeypatch, 5000)  # the user has it made longer: the night between is no loss
    longer = status.started(run, 20)
    assert longer.first_start == 1e9 + 5000 - 320
    # and without its newest checkpoint half of its steps are made again
    assert status.started(run, 10).useful_seconds == 80.0


def test_a_run_that_was_killed_says_what_is_left_of_its_time(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A goodput that forgets kill -9 is of no use on the machines that need it."""
    words = tiny_config(tmp_path, dataset, "peak_tflops=0.5", "save_every=3")
    run_dir = tmp_path / "run"
    fault = "step=5,point=step,action=kill"
    job = jobs.start(tmp_path, words, fault=fault)
    assert job.wait() == [-9]
    killed = read_status(run_dir)
    assert killed is not None and killed.step == 3 and killed.first_start is not None
    assert 0 < killed.useful_seconds < killed.wall_seconds
    assert jobs.start(tmp_path, words).wait() == [0]
    done = read_status(run_dir)
    assert done is not None and done.first_start == killed.first_start
    assert done.useful_seconds > killed.useful_seconds
    assert done.wall_seconds > killed.wall_seconds
    assert done.speed is not None
    assert done.speed.goodput == done.useful_seconds / done.wall_seconds
    rate = done.speed.gflops_per_second
    assert rate is not None and done.speed.mfu == pytest.approx(rate / 500)
    with pytest.raises(SystemExit) as exit_:
        status_command.main([str(run_dir)])
    assert exit_.value.code == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("done\tat step ")
    assert f"goodput {done.speed.goodput:.1%}" in second and "MFU" in second
    with pytest.raises(SystemExit):
        status_command.main([str(run_dir), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "done" and told["speed"]["mfu"] == done.speed.mfu
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    losses = [record for record in records if "loss" in record]
    assert all(0 <= record["goodput"] < 1 for record in losses)
    assert all(record["communication_share"] == 0 for record in losses), "one process"


def test_ranks_that_share_a_step_see_the_time_of_their_all_reduce(
    tmp_path: Path, dataset: Path
) -> None:
    """Two processes whose communication share is 0 look like a perfect network."""
    words = tiny_config(tmp_path, dataset, "epochs=1")
    assert jobs.start(tmp_path, words, ranks=2).wait() == [0, 0]
    found = read_status(tmp_path / "run")
    assert found is not None and found.speed is not None
    assert 0 < found.speed.communication_share < 1
    assert found.speed.mfu is None, "nobody said what this CPU can do"
