"""TensorBoard: scalars, hyperparameters, precision-recall curves, and some clips.

Owns the event files in the run folder.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from psl.data.validation import Validation
from shards.dataset.reader import MemberReader
from shards.format.classes import Classes
from shards.system.text import plain

MAX_TAGS = 8
"""Classes that the picture of a clip shows."""


@dataclass(frozen=True)
class Clip:
    """A validation clip to show."""

    place: int
    """Among the validation clips."""
    key: str
    samples: np.ndarray
    """[N] int16"""
    true: tuple[str, ...]
    """Names of its labels."""


class Board:
    """The event files of one start of a run."""

    def __init__(
        self, run_dir: str | Path, values: Mapping[str, Any], *, start: int
    ) -> None:
        """``values``: names and plain values of the configuration."""
        self._writer = SummaryWriter(
            str(Path(run_dir, "tensorboard")), purge_step=start + 1
        )
        shown = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in values.items()
        }
        files: Any = self._writer.file_writer
        for summary in hparams(shown, {"valid_mAP": 0.0})[:2]:
            files.add_summary(summary)

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def play(self, clips: Sequence[Clip], sample_rate: int) -> None:
        """Add the sound of clips."""
        for clip in clips:
            wave = torch.from_numpy(clip.samples.astype(np.float32) / 32768)
            name = f"clips/{plain(clip.key)}"
            self._writer.add_audio(name, wave[None], 0, sample_rate)

    def curves(
        self, step: int, classes: Mapping[str, tuple[np.ndarray, np.ndarray]]
    ) -> None:
        """Add curves of classes by name: targets [V] in {0, 1} and scores [V]."""
        for name, (targets, scores) in classes.items():
            self._writer.add_pr_curve(f"curves/{plain(name)}", targets, scores, step)

    def picture(
        self, step: int, clip: Clip, scores: Mapping[str, float], sample_rate: int
    ) -> None:
        """Add the spectrogram of a clip with its labels and ``scores`` by name."""
        figure = draw_clip(clip, scores, sample_rate)
        self._writer.add_figure(f"clips/{plain(clip.key)}", figure, step)

    def close(self) -> None:
        """Write the rest."""
        self._writer.close()


def has_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_clip(clip: Clip, scores: Mapping[str, float], sample_rate: int) -> Any:
    """A matplotlib figure: spectrogram above, the highest scores below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1)
    wave = clip.samples.astype(np.float32) / 32768
    wave = np.pad(wave, (0, max(0, 512 - len(wave))))
    noise = 1e-5 * np.random.default_rng(0).standard_normal(len(wave))
    above.specgram(wave + noise, NFFT=512, noverlap=256, Fs=sample_rate)
    above.set(xlabel="s", ylabel="Hz")
    above.set_title(_no_math(plain(clip.key)), fontsize=9)
    best = sorted(scores, key=lambda name: -scores[name])[:MAX_TAGS][::-1]
    colours = ["tab:green" if name in clip.true else "tab:gray" for name in best]
    names = [_no_math(plain(name, 30)) for name in best]
    below.barh(range(len(best)), [scores[name] for name in best], color=colours)
    below.set_yticks(range(len(best)), names, fontsize=8)
    below.set(xlim=(0, 1), xlabel="score; green: labelled")
    return figure


def _no_math(text: str) -> str:
    return text.replace("$", r"\$")


def class_indices(names: Sequence[str], classes: Classes) -> dict[str, int]:
    """Class index by display name, of ``names``, which are display names or mids.

    Raises ValueError suggesting the nearest.
    """
    found = {}
    for name in names:
        if name in classes.index_of:
            index = classes.index_of[name]
        elif classes.names.count(name) == 1:
            index = classes.names.index(name)
        else:
            known = [*classes.names, *classes.mids]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(
                f"board.curves: {name!r} is no class, or several; did you mean "
                f"{near[0]!r}?"
            )
        found[classes.names[index]] = index
    return found


def choose_clips(valid: Validation, number: int) -> list[Clip]:
    """``number`` validation clips, spread evenly over all of them."""
    places = np.unique(np.linspace(0, len(valid.rows) - 1, number).astype(int))
    index, reader = valid.index, MemberReader(valid.index)
    clips = []
    for place in places.tolist() if number else []:
        row = int(valid.rows[place])
        targets = index.table.weak_targets(np.array([row]), len(index.classes))[0]
        true = tuple(index.classes.names[label] for label in np.flatnonzero(targets))
        samples = reader.samples(row, 0, int(index.table.count[row]))
        key = bytes(index.table.key[row]).decode()
        clips.append(Clip(place, key, samples, true))
    return clips
