"""Pictures of real sound: one scene as teacher and student hear it, and the table.

Owns the choice of the scene, and the drawing. Labels and trains nothing.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import psl
from shards.dataset.reader import MemberReader
from shards.format.index import INDEX_NAME, Index, open_index
from tools.paper.real_job import CHUNKS, SYSTEMS, RealJob
from tools.paper.real_results import MEASURES, ORDER, Values, read_values
from tools.paper.report import Clip, draw_spectrogram, rank_clip, read_clips, save

SHADES = {10: "#9ECAE1", 5: "#4292C6", 2: "#08306B"}
"""Of the labels, by length of their chunks."""
STUDENT, TRUTH = "#D55E00", "#DDDDDD"
COLORS = {"clip": "#0072B2", "windows": "#56B4E9", "segments": "#009E73"}
"""Of the measures in the picture of the table."""
SHOWN = 4
"""Classes of a scene that are drawn at most."""


def draw_pictures(job: RealJob, folder: Path) -> None:
    """``real_table.png``, and ``real_scene.png`` once eval is labelled and PSL-2s made.

    The student is that of the lowest seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = read_values(job)
    save(folder / "real_table.png", draw_table, values)
    labels = [job.labels("eval", seconds) / INDEX_NAME for seconds in CHUNKS]
    if "psl_2s" not in values or not all(path.exists() for path in labels):
        return
    student = job.run_dir("psl_2s", min(map(int, values["psl_2s"])))
    save(folder / "real_scene.png", draw_scene, job, student)


def draw_table(figure: Figure, values: Values) -> None:
    """Bars of each measure, a group for each system."""
    axes, shown = figure.subplots(), [name for name in ORDER if name in values]
    x, width = np.arange(len(shown)), 0.8 / len(COLORS)
    for place, (measure, color) in enumerate(COLORS.items()):
        seeds = [[run[measure] for run in values[n].values()] for n in shown]
        spread = [stdev(found) if len(found) > 1 else 0.0 for found in seeds]
        bars = axes.bar(
            x + (place - (len(COLORS) - 1) / 2) * width,
            [fmean(found) for found in seeds],
            0.9 * width,
            yerr=spread,
            color=color,
            label=MEASURES[measure][0],
        )
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=9)
    axes.set_xticks(x, [SYSTEMS[name].title for name in shown])
    axes.set(ylabel="%", ylim=(0, 1.25 * axes.dataLim.y1))
    axes.grid(axis="y")
    axes.legend(loc="upper left", ncols=2, fontsize=9)
    axes.set_title("Scenes of real recordings that no student trained on")


def choose_scene(job: RealJob) -> tuple[int, dict[int, Clip]]:
    """The scene whose 2-s labels agree best with three sounds, and all its labels."""
    audio = open_index(job.shards("eval"), kind="audio")
    clips = {
        seconds: read_clips(
            audio,
            open_index(job.labels("eval", seconds), kind="labels"),
            job.data / "strong.csv",
        )
        for seconds in CHUNKS
    }
    ranks = [rank_clip(clip) for clip in clips[2]]
    best = ranks.index(max(ranks))
    return best, {seconds: clips[seconds][best] for seconds in CHUNKS}


def draw_scene(figure: Figure, job: RealJob, run_dir: Path) -> None:
    """Spectrogram, and for each class truth, labels of all lengths and the student."""
    audio = open_index(job.shards("eval"), kind="audio")
    row, clips = choose_scene(job)
    samples = MemberReader(audio).samples(row, 0, int(audio.table.count[row]))
    shown = list(dict.fromkeys(c for _, _, c in sorted(clips[2][2])))[:SHOWN]
    axes = figure.subplots(
        len(shown) + 1, 1, sharex=True, height_ratios=[1.6] + [1.0] * len(shown)
    )
    figure.set_figheight(2.6 + 1.35 * len(shown))
    draw_spectrogram(axes[0], samples, audio.properties["sample_rate"])
    axes[0].set_title(
        f"Evaluation scene {audio.key(row)}, the one of {len(audio)} whose 2-s labels "
        "match\nthe truth best; none of its recordings was in the training scenes"
    )
    times, curves = student_curves(run_dir, samples)
    for place, label in zip(axes[1:], shown, strict=True):
        draw_class(place, clips, label, times, curves)
        place.set_ylabel(_short_name(audio, label), fontsize=10)
    axes[-1].set_xlabel("time, s")
    figure.legend(
        *axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5
    )


def _short_name(audio: Index, label: int) -> str:
    return audio.classes.names[label].split(",")[0]


def student_curves(run_dir: Path, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the frames [T + 1], s, and the student's probabilities [T, C]."""
    torch.set_num_threads(1)
    tagger = psl.load(run_dir, device="cpu")
    waveform = (samples / np.float32(32768))[None]
    _, frames = tagger(waveform)
    seconds = tagger.frame_seconds or len(samples) / tagger.sample_rate
    limits = np.minimum(
        np.arange(frames.shape[1] + 1) * seconds, len(samples) / tagger.sample_rate
    )
    return limits, frames[0]


def draw_class(
    axes: Axes,
    clips: dict[int, Clip],
    label: int,
    times: np.ndarray,
    curves: np.ndarray,
) -> None:
    """One class over time: where it sounds, the teacher's labels, the student."""
    title = "true events"
    for start, end, c in clips[2][2]:
        if c == label:
            axes.axvspan(start, end, color=TRUTH, lw=0, label=title)
            title = "_"
    for seconds, (edges, probs, _) in clips.items():
        name, color = f"teacher, {seconds} s", SHADES[seconds]
        axes.stairs(
            probs[:, label], edges, baseline=None, color=color, lw=1.8, label=name
        )
    axes.stairs(
        curves[:, label],
        times,
        baseline=None,
        color=STUDENT,
        lw=1.4,
        label="PSL-2s student",
    )
    axes.set(ylim=(0, 1.02), yticks=(0, 1))
