"""Steps of several kinds, in turn, in one process: what a step costs on a device.

Owns how kinds are timed and compared, and steps that are not the product's. Each round
runs every kind, in an order that changes; speeds are medians over rounds with their
range, ratios are taken within a round. tools/gpu/speed.py calls it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn, optim

from psl.distributed import runtime
from psl.distributed.arithmetic import choose_arithmetic
from psl.distributed.config import ArithmeticConfig
from psl.models.config import ModelConfig
from psl.models.families import build_from_config
from psl.training.config import OptimConfig
from psl.training.optim import build_optimizer, make_recordable
from psl.training.recording import CudaRecorder, Pieces

Kind = Callable[[], object]
"""Makes one step."""
Task = dict[str, Any]
"""What tools/gpu/speeds.py asks for: model, sizes, rounds, steps."""
Speeds = Mapping[str, Sequence[float]]
"""Chunks per second of each kind, by round."""
NUM_SAMPLES = 32000
"""Of a chunk: 2 s at 16 kHz."""


def in_turn(
    kinds: Mapping[str, Kind], *, rounds: int, steps: int, chunks: int
) -> dict[str, list[float]]:
    """Chunks per second of ``steps`` steps of each kind, in each of ``rounds``.

    A step is of ``chunks``. A round before the first is not counted.
    """
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = _seconds(kinds[name], steps)
            if number:
                speeds[name].append(chunks * steps / seconds)
    return speeds


def _seconds(step: Kind, number: int) -> float:
    wait_for_device()
    start = time.perf_counter()
    for _ in range(number):
        step()
    wait_for_device()
    return time.perf_counter() - start


def wait_for_device() -> None:
    """Until the GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Median and range."""
    low, high = min(values), max(values)
    return {"median": median(values), "low": low, "high": high, "unit": unit}


def speeds_of(found: Speeds) -> dict[str, Any]:
    """The speed of each kind."""
    return {name: spread(values, "chunks/s") for name, values in found.items()}


def ratio(found: Speeds, of: str, to: str) -> dict[str, Any]:
    """The speed of one kind over that of another, within a round."""
    pairs = zip(found[of], found[to], strict=True)
    return spread([one / other for one, other in pairs], "ratio")


class BareStep:
    """Model, loss, gradient and update, on a batch that is there; nothing else."""

    def __init__(
        self,
        config: ModelConfig,
        num_classes: int,
        batch_size: int,
        *,
        bf16: bool = False,
        channels_last: bool = True,
        mode: str | None = None,
    ) -> None:
        """``mode``: of torch.compile; None for a step that is not compiled."""
        self.device = runtime.local_device()
        model = build_from_config(config, num_classes)
        runtime.move_model(model, self.device, channels_last=channels_last).train()
        self.model, self._bf16 = model, bf16
        self._forward = torch.compile(model, mode=mode) if mode else model
        self.optimizer: optim.Optimizer = build_optimizer(
            model, OptimConfig(), fused=self.device.type == "cuda"
        )
        shape = (batch_size, NUM_SAMPLES)
        self._waveform = 0.1 * torch.randn(shape, device=self.device)
        self._lengths = torch.full((batch_size,), NUM_SAMPLES, device=self.device)
        self._targets = torch.rand(batch_size, num_classes, device=self.device)

    def __call__(self) -> Tensor:
        """One step; its loss, on the device."""
        self.optimizer.zero_grad()
        loss = self._loss(self._targets)[0]
        loss.backward()
        self.optimizer.step()
        return loss

    def _loss(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            probs = self._forward(self._waveform, self._lengths)[0]
        return nn.functional.binary_cross_entropy(probs, targets), probs

    def as_graph(self) -> Kind:
        """The whole step as one CUDA graph."""
        make_recordable(self.optimizer, self.device)
        self.optimizer.zero_grad(set_to_none=False)
        pieces = Pieces(CudaRecorder())

        def step() -> None:
            self.optimizer.zero_grad(set_to_none=False)
            self._loss(self._targets)[0].backward()
            self.optimizer.step()

        return lambda: pieces.run("step", step)

    def with_teacher_and_waits(self) -> Kind:
        """As the published code works: a teacher for each batch, and three waits."""
        teacher = copy.deepcopy(self.model).eval()

        def step() -> None:
            with torch.no_grad():
                targets = teacher(self._waveform, self._lengths)[0]
            self.optimizer.zero_grad()
            loss, probs = self._loss(targets)
            loss.backward()
            self.optimizer.step()
            for number in (loss, probs.max(), targets.mean()):
                number.item()

        return step


def under(arithmetic: ArithmeticConfig, step: Kind) -> Kind:
    """``step``, computed as ``arithmetic`` says."""

    def chosen() -> None:
        choose_arithmetic(arithmetic)
        step()

    return chosen


def first_seconds(step: Kind) -> float:
    """How long the first step takes, compilation included."""
    return round(_seconds(step, 1), 1)


def activity(step: Kind, steps: int) -> dict[str, Any]:
    """Kernels of a step, and the share of the time in which the GPU does none."""
    if not torch.cuda.is_available():
        return {"kernels": None, "idle_share": None, "why": "no GPU"}
    activities = [
        torch.profiler.ProfilerActivity.CPU,
        torch.profiler.ProfilerActivity.CUDA,
    ]
    with torch.profiler.profile(activities=activities) as profile:
        seconds = _seconds(step, steps)
    on_device = [
        event
        for event in profile.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6
    return {
        "kernels": round(len(on_device) / steps),
        "idle_share": round(max(0.0, 1 - busy / seconds), 4),
    }


def compare_bare(task: Task) -> dict[str, Any]:
    """The bare step by precision and layout."""
    kinds = {
        f"{precision} {layout}": bare_step(
            task, bf16=precision == "bf16", channels_last=layout == "NHWC"
        )
        for precision in task["precisions"]
        for layout in ("NCHW", "NHWC")
    }
    return speeds_of(_in_turn(kinds, task))


def compare_published(task: Task) -> dict[str, Any]:
    """The published way of working on a batch that is there, beside the bare step."""
    kinds = {
        "published": bare_step(task).with_teacher_and_waits(),
        "bare": bare_step(task),
    }
    found = _in_turn(kinds, task)
    gain = ratio(found, "bare", "published")
    return {**speeds_of(found), "bare / published": gain}


def compare_arithmetic(task: Task) -> dict[str, Any]:
    """The bare step under each choice of arithmetic, beside the default."""
    kinds = {
        name: under(arithmetic, bare_step(task))
        for name, arithmetic in {
            "default": ArithmeticConfig(),
            "deterministic=false": ArithmeticConfig(deterministic=False),
            "tf32=false": ArithmeticConfig(tf32=False),
        }.items()
    }
    found = _in_turn(kinds, task)
    ratios = {
        f"default / {other}": ratio(found, "default", other)
        for other in list(kinds)[1:]
    }
    return {**speeds_of(found), **ratios}


def compare_compiled(task: Task) -> dict[str, Any]:
    """The compiled step beside the step as it is, and how long it takes to compile."""
    kinds = {
        mode: bare_step(task, mode=mode) for mode in ("default", "reduce-overhead")
    }
    first = {f"first {n}, s": first_seconds(step) for n, step in kinds.items()}
    found = _in_turn({"eager": bare_step(task), **kinds}, task)
    ratios = {f"{mode} / eager": ratio(found, mode, "eager") for mode in kinds}
    return {**speeds_of(found), **ratios, **first}


def ratios_of(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Speeds of tools/bench/train.py, and ours over each of the others."""
    others = [name for name in speeds if name != "ours"]
    ratios = {f"ours / {other}": ratio(speeds, "ours", other) for other in others}
    return {**speeds_of(speeds), **ratios}


def bare_step(task: Task, **options: Any) -> BareStep:
    """The bare step that a task describes."""
    model: Any = TypeAdapter(ModelConfig).validate_python(task["model"])
    return BareStep(model, task["num_classes"], task["batch_size"], **options)


def _in_turn(kinds: dict[str, Any], task: Task) -> dict[str, list[float]]:
    return in_turn(
        kinds, rounds=task["rounds"], steps=task["steps"], chunks=task["batch_size"]
    )
