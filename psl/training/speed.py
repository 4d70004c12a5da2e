"""How fast a run is, and where its time goes.

Owns the clock of a start, and what is made of it: chunks per second, shares of the
time, arithmetic per second and goodput. psl/training/log.py writes them down.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

import torch

from psl.distributed.peaks import peak_tflops
from psl.distributed.reduce_time import reduce_time
from psl.job.status import Speed
from psl.models.cost import step_cost
from psl.training.config import TrainConfig

Place = Literal["other", "step", "data", "validation", "checkpoint"]
Item = TypeVar("Item")
Words = ParamSpec("Words")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """What one process does in a step."""

    chunks: int
    """Of the global batch: of all processes."""
    flops: float | None = None
    """Of this process; None if they were not counted."""
    peak_flops: float | None = None
    """That its device can do in a second; None if unknown."""


@dataclass(frozen=True)
class _Reading:
    """The clock at one time, s since its start."""

    steps: int
    stepping: float
    """Time of steps, with waiting for data and for other ranks."""
    data: float
    communication: float


class Meter:
    """The time of one start. It is always at one place, and all of it is counted."""

    def __init__(
        self,
        work: Work,
        *,
        useful_seconds: float = 0.0,
        wall_seconds: Callable[[], float | None] = lambda: None,
        reduced_seconds: Callable[[], float] = lambda: reduce_time.seconds,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``useful_seconds``: of the steps that earlier starts left in a checkpoint.

        ``wall_seconds``: since the first start of the run; None if unknown.
        ``reduced_seconds``: spent in all-reduces by this process.
        """
        self._work, self._clock = work, clock
        self._wall_seconds, self._reduced = wall_seconds, reduced_seconds
        self._place: Place = "other"
        self._since = self._began = clock()
        self._seconds: dict[Place, float] = {}
        self._steps, self._reduced_before = 0, reduced_seconds()
        self._step_began = 0.0
        self.useful_seconds = useful_seconds
        """Of steps that made an update and were not lost, over all starts."""
        self._first = self._last = self._read()

    @contextlib.contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Count the time inside for ``place``."""
        before = self._go(place)
        try:
            yield
        finally:
            self._go(before)

    def _go(self, place: Place) -> Place:
        now, before = self._clock(), self._place
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._place, self._since = place, now
        return before

    def fetch(self, source: Iterator[Item]) -> Iterator[Item]:
        """``source``, with the time until each item counted as waiting for data."""
        while True:
            with self.at("data"):
                found = next(source, None)
            if found is None:
                return
            yield found

    def step_done(self, *, updated: bool) -> None:
        """A step is over; its time was useful if it ``updated`` the weights."""
        stepping = self._read().stepping
        if updated:
            self._steps += 1
            self.useful_seconds += stepping - self._step_began
        self._step_began = stepping

    def read(self) -> dict[str, float]:
        """Values since the last reading, as metrics.jsonl has them."""
        before, self._last = self._last, self._read()
        speed = asdict(self._speed(before, self._last))
        return {name: value for name, value in speed.items() if value is not None}

    def whole_start(self) -> Speed:
        """The same of the whole start up to now."""
        return self._speed(self._first, self._read())

    def _read(self) -> _Reading:
        self._go(self._place)
        data = self._seconds.get("data", 0.0)
        return _Reading(
            steps=self._steps,
            stepping=self._seconds.get("step", 0.0) + data,
            data=data,
            communication=self._reduced() - self._reduced_before,
        )

    def _speed(self, before: _Reading, now: _Reading) -> Speed:
        steps, work = now.steps - before.steps, self._work
        stepping = now.stepping - before.stepping
        whole, wall = self._clock() - self._began, self._wall_seconds()
        flops = _share(steps * work.flops, stepping) if work.flops is not None else None
        return Speed(
            chunks_per_second=_share(steps * work.chunks, stepping),
            gflops_per_second=None if flops is None else flops / 1e9,
            mfu=flops / work.peak_flops if flops and work.peak_flops else None,
            wait_share=_share(now.data - before.data, stepping),
            communication_share=_share(
                now.communication - before.communication, stepping
            ),
            validation_share=_share(self._seconds.get("validation", 0.0), whole),
            checkpoint_share=_share(self._seconds.get("checkpoint", 0.0), whole),
            goodput=_share(self.useful_seconds, wall) if wall else None,
        )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


class _Metered(Protocol):
    @property
    def meter(self) -> Meter: ...


Run = TypeVar("Run", bound=_Metered)


def timed(
    place: Place,
) -> Callable[
    [Callable[Concatenate[Run, Words], Result]],
    Callable[Concatenate[Run, Words], Result],
]:
    """Count the time of a function of a run for ``place``."""

    def decorate(
        function: Callable[Concatenate[Run, Words], Result],
    ) -> Callable[Concatenate[Run, Words], Result]:
        @functools.wraps(function)
        def wrapped(run: Run, *args: Words.args, **kwargs: Words.kwargs) -> Result:
            with run.meter.at(place):
                return function(run, *args, **kwargs)

        return wrapped

    return decorate


def work_of(
    config: TrainConfig,
    num_classes: int,
    sample_rate: int,
    *,
    num_processes: int,
    device: torch.device,
) -> Work:
    """What a process of the run does in a step, without an online teacher's part.

    Counted on ``device``, that of the process.
    """
    num_samples = round(config.data.chunk_seconds * sample_rate)
    cost = step_cost(config.model, num_classes, num_samples, device)
    peak = config.peak_tflops
    bf16 = config.precision == "bf16"
    if peak is None and device.type == "cuda" and (bf16 or config.arithmetic.tf32):
        name = torch.cuda.get_device_name(device)
        peak = peak_tflops(name, bf16=bf16)
    return Work(
        chunks=config.chunks_per_step,
        flops=cost.flops_per_chunk * config.chunks_per_step / num_processes,
        peak_flops=None if peak is None else 1e12 * peak,
    )
