"""Class folders of tones, and tiny models to adapt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
CLASSES = {"low": 200.0, "mid": 900.0, "high": 4000.0}


def write_tone(path: Path, hertz: float, seed: int, *, seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time)
    soundfile.write(path, 0.3 * tone + 0.02 * rng.normal(size=len(time)), RATE)


def write_sounds(folder: Path, number: int = 6) -> Path:
    """``number`` tones of 1 s for each of three classes."""
    for label, (name, hertz) in enumerate(CLASSES.items()):
        for seed in range(number):
            write_tone(folder / name / f"{name}{seed}.wav", hertz, 100 * label + seed)
    return folder
