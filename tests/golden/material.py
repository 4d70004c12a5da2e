"""The data set and the teacher of the golden runs, the same bits on any machine.

Everything is made of integers from SHAKE-256 and of single IEEE operations: no sine, no
random number generator of a library, whose last bit may depend on CPU or version.
"""

from __future__ import annotations

import hashlib
import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from psl import build_model

RATE = 16000
NUM_CLIPS, CLIP_SAMPLES = 24, 2 * RATE
MIDS = ("/m/low", "/m/mid", "/m/high")
PERIODS = (53, 13, 4)
"""Samples per period of the tone of each class: about 300, 1200 and 4000 Hz."""
AMPLITUDE, NOISE = 6000, 300


@dataclass(frozen=True)
class Source:
    """A folder of WAV files, its segments and its classes, before packing."""

    audio: Path
    segments: Path
    class_labels: Path


def write_source(folder: Path) -> Source:
    """24 clips of 2 s; clip i has the classes i % 3 and i % 2."""
    source = Source(folder / "audio", folder / "segments.csv", folder / "classes.csv")
    source.audio.mkdir(parents=True)
    rows = ["# Segments"]
    for number in range(NUM_CLIPS):
        classes = sorted({number % 3, number % 2})
        _write_wav(source.audio / f"clip{number}.wav", _samples(number, classes))
        mids = ",".join(MIDS[c] for c in classes)
        rows.append(f'clip{number}, 0.000, {CLIP_SAMPLES / RATE:.3f}, "{mids}"')
    source.segments.write_text("\n".join(rows) + "\n")
    lines = [f"{number},{mid},Tone {mid[3:]}" for number, mid in enumerate(MIDS)]
    source.class_labels.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    return source


def _samples(number: int, classes: list[int]) -> np.ndarray:
    """Clip [CLIP_SAMPLES] int16: one triangle wave per class, over noise.

    The tones last for the first three quarters, so that the chunks of a clip differ.
    """
    time = np.arange(CLIP_SAMPLES)
    samples = _integers(f"noise {number}", CLIP_SAMPLES) * NOISE // 32768
    for period in (PERIODS[c] for c in classes):
        phase = (time + number) % period
        triangle = np.abs(4 * phase - 2 * period) - period  # in [-period, period]
        tone = triangle * AMPLITUDE // period
        samples += np.where(time < CLIP_SAMPLES * 3 // 4, tone, 0)
    return samples.astype("<i2")


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(samples.tobytes())


def write_teacher(path: Path) -> Path:
    """A file with upstream's names whose weights are spread as He et al. 2015 say."""
    weights = build_model(num_classes=len(MIDS)).state_dict()
    teacher = {}
    for name, tensor in weights.items():
        if name.startswith("front_end."):  # tables that every model computes anew
            continue
        if tensor.dim() < 2:  # norms and biases
            is_one = name.endswith(("weight", "running_var"))
            teacher[name] = torch.full_like(tensor, 1 if is_one else 0)
            continue
        bound = math.sqrt(6 / tensor[0].numel())
        values = _integers(name, tensor.numel()).astype(np.float32) / np.float32(32768)
        values *= np.float32(bound)
        teacher[name] = torch.from_numpy(values).reshape(tensor.shape)
    torch.save(teacher, path)
    return path


def _integers(name: str, number: int) -> np.ndarray:
    """[number] int64, even over [-32768, 32767], always the same for a name."""
    data = hashlib.shake_256(name.encode()).digest(2 * number)
    return np.frombuffer(data, "<i2").astype(np.int64)
