"""Whether an export computes what the model computes, how large and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from psl.distributed.runtime import move_model
from psl.exporting.front_end import shortest_samples
from psl.weights.checkpoint import Checkpoint
from psl.weights.onnx_model import OnnxModel

TOLERANCE = 1e-4
"""Of a probability."""
SECONDS = (1.0, 2.37, 10.0)
"""Lengths that are compared."""
BATCHES = (1, 3)
SPEED_SECONDS, SPEED_RUNS = 10.0, 5


@dataclass(frozen=True)
class Check:
    """What was found."""

    largest: float
    """Difference of a probability of a clip or frame."""
    num_bytes: int
    seconds: float
    """That the file needs for 10 s of audio, on one thread."""
    torch_seconds: float
    """That PyTorch needs, on one thread."""


def describe(check: Check) -> str:
    """For people, in one line."""
    ratio = check.torch_seconds / check.seconds
    return (
        f"{check.num_bytes / 1e6:.2f} MB; differs from PyTorch by at most "
        f"{check.largest:.1g} ({len(SECONDS)} lengths, {len(BATCHES)} batch sizes); "
        f"10 s of audio in {1e3 * check.seconds:.1f} ms on one thread, PyTorch in "
        f"{1e3 * check.torch_seconds:.1f} ms ({ratio:.2g} times as fast)"
    )


def check_onnx(
    path: Path,
    checkpoint: Checkpoint,
    model: nn.Module,
    audio: Sequence[np.ndarray],
    *,
    name: str,
    exact: bool = True,
) -> Check:
    """Compare a file with ``model``; ValueError if they differ.

    ``exact`` false is for int8: then outputs must be probabilities of the right shape.
    """
    exported = OnnxModel(path)
    config: Any = checkpoint.model_config.front_end
    rate, shortest = config.sample_rate, shortest_samples(config)
    largest = 0.0
    for batch in BATCHES:
        for seconds in SECONDS:
            samples = max(shortest, round(seconds * rate))
            waveform = batch_of(audio, rate, batch, samples)
            with torch.no_grad():
                pairs = list(zip(model(waveform), exported(waveform), strict=True))
            difference = max(_difference(a, b, name) for a, b in pairs)
            if exact and not difference <= TOLERANCE:
                raise ValueError(
                    f"{name}: differs from PyTorch by {difference:.2g} for {batch} x "
                    f"{seconds:g} s, expected at most {TOLERANCE:g}; nothing was "
                    "written; report this with the model's config.yaml"
                )
            largest = max(largest, difference)
    waveform = batch_of(audio, rate, 1, round(SPEED_SECONDS * rate))
    mine, theirs = on_one_thread(path, model, waveform)
    return Check(largest, path.stat().st_size, mine, theirs)


def _difference(expected: Tensor, found: Tensor, name: str) -> float:
    if expected.shape != found.shape:
        raise ValueError(
            f"{name}: gives {list(found.shape)}, expected {list(expected.shape)}; "
            "nothing was written"
        )
    if not ((found >= -1e-6) & (found <= 1 + 1e-6)).all():
        raise ValueError(
            f"{name}: gives values outside 0 to 1; nothing was written; calibrate with "
            "more audio, or leave --int8 out"
        )
    return float((expected - found).abs().max())


def on_one_thread(path: Path, model: nn.Module, waveform: Tensor) -> tuple[float, ...]:
    """Seconds that the file and PyTorch need for ``waveform``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        exported = OnnxModel(path)  # its threads are torch's when it is opened
        model = move_model(model, torch.device("cpu"))  # as psl.load has it
        with torch.inference_mode():
            return _timed([lambda: exported(waveform), lambda: model(waveform)])
    finally:
        torch.set_num_threads(threads)


def _timed(calls: Sequence[Callable[[], Any]]) -> tuple[float, ...]:
    """The shortest of a few runs of each, in turns: other work lengthens some."""
    found: list[list[float]] = [[] for _ in calls]
    for number in range(SPEED_RUNS + 1):
        for call, seconds in zip(calls, found, strict=True):
            start = time.perf_counter()
            call()
            if number:
                seconds.append(time.perf_counter() - start)
    return tuple(min(seconds) for seconds in found)


def batch_of(
    audio: Sequence[np.ndarray], rate: int, batch: int, samples: int
) -> Tensor:
    """[batch, samples] float32 in [-1, 1], of recordings [N] or of made sound."""
    rows = [
        np.resize(audio[row % len(audio)], samples)
        if len(audio)
        else _made(rate, samples, row)
        for row in range(batch)
    ]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _made(rate: int, samples: int, seed: int) -> np.ndarray:
    """[samples] of tones that swell, a sweep, noise and silence, as from 16 bits."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / rate
    total = t[-1] + 1 / rate
    sound = (
        0.2 * np.sin(2 * np.pi * rng.uniform(200, 2000) * t) * np.sin(np.pi * t) ** 2
    )
    sound += 0.2 * np.sin(2 * np.pi * (100 * t + rate / 8 / total * t**2))
    # a recording is never so quiet between its events that float32 decides its features
    sound += rng.normal(0, 1, samples) * np.where(t % 1 < 0.7, 0.02, 0.001)
    sound[: samples // 8] = 0
    return np.round(sound * 32767) / 32768
