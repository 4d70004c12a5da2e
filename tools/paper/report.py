"""What a finished demonstration shows: a table next to the paper's, and three pictures.

Owns the choice of the example clip, and the drawing. Trains,
labels and measures nothing: it reads what psl.train, psl.label and psl.evaluate left.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psl.evaluation.comparing import compare
from psl.evaluation.stored import SCORES_NAME
from psl.features.config import LogMelConfig
from psl.features.log_mel import log_mel
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import INDEX_NAME, Index, open_index
from shards.format.join import check_join
from shards.system.exits import run_main
from shards.system.files import write_atomic
from tools.paper.numbers import TABLES, TEACHER
from tools.paper.results import Summary, summarise, with_dev
from tools.results.stored import measured_now, write_stored
from tools.results.systems import PAPER, systems_table
from tools.results.tables import markdown

_ROWS = TABLES["table2"].rows
SYSTEMS = {
    "baseline": (_ROWS["baseline"].title, _ROWS["baseline"].mean_ap, "#E69F00"),
    "psl_10s": (_ROWS["psl_10s"].title, _ROWS["psl_10s"].mean_ap, "#7CC0E8"),
    "psl_5s": (_ROWS["psl_5s"].title, _ROWS["psl_5s"].mean_ap, "#1F78B4"),
    "psl_2s": (_ROWS["psl_2s"].title, _ROWS["psl_2s"].mean_ap, "#0B2F66"),
    "teacher": ("Teacher", TEACHER, "#808080"),
}
"""Title, the paper's mAP in percent, colour."""

RESAMPLES = 1000
SHOWN_PROB = 0.2
"""A class without an event is shown in clip.png if the teacher gives it more."""
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "font.size": 11,
    "errorbar.capsize": 4,
    "grid.color": "#DDDDDD",
}
Event = tuple[float, float, int]
"""Start and end in the clip, s, and class index."""
Clip = tuple[np.ndarray, np.ndarray, list[Event]]
"""Chunk limits [K + 1], s, pseudo strong labels [K, C], and the true events."""


def require(path: Path) -> Path:
    """``path`` itself; ShardError naming it and what makes it if it is absent."""
    if not path.exists():
        raise ShardError(f"{path}: not found; run `make demo`, which makes it")
    return path


def run_folders(root: Path) -> dict[str, list[Path]]:
    """The run folders of each system, by seed; of one teacher."""
    found = [path for path in root.glob("seed*") if path.name[4:].isdecimal()]
    seeds = sorted(found, key=lambda path: int(path.name[4:])) or [root / "seed0"]
    runs = {name: [seed / name for seed in seeds] for name in SYSTEMS}
    runs["teacher"] = [root / "teacher"]
    return runs


def read_runs(root: Path, file: str) -> dict[str, list[str]]:
    """The text of ``file`` in each of these folders."""
    runs = run_folders(root)
    return {k: [require(r / file).read_text("utf-8") for r in runs[k]] for k in runs}


def table_markdown(summary: Summary, index: Index) -> str:
    """The paper's Table 2 next to ours, with what may be compared and what not."""
    num_seeds = len(summary["baseline"]["values"])
    spread = f"mean ± standard deviation of {num_seeds} seeds"
    lines = [
        "Two different data sets: compare the order and the gaps, not the heights.",
        "Paper: AudioSet, 527 classes, students trained on AudioSet-balanced.",
        f"Ours: the miniature set, {len(index.classes)} classes, {len(index)} "
        f"evaluation clips; {spread if num_seeds > 1 else 'one seed'} per student.",
        "",
        *markdown(systems_table(PAPER, lambda name: summary[name])),
    ]
    return "\n".join([*lines, "", "(1) According to its checkpoint's file name.", ""])


def differences_markdown(root: Path) -> str:
    """Each student against the one before, and whether that is more than noise.

    By the scores of the evaluations, with 95 % intervals; empty where they are gone.
    """
    groups = {
        name: [str(path) for path in sorted(root.glob(f"seed*/{name}/eval"))]
        for name in SYSTEMS
        if name != "teacher"
    }
    every = [Path(folder, SCORES_NAME) for of in groups.values() for folder in of]
    if not every or not all(path.exists() for path in every):
        return ""
    lines = ["", "Differences in mAP, points, with 95 % intervals:", ""]
    for low, high in itertools.pairwise(groups):
        pair = [groups[low], groups[high]]
        found = compare(pair, metric="mAP", num_resamples=RESAMPLES, seed=0)
        (d,) = found.differences()
        value, least, most = (100 * x for x in (d.value, d.low, d.high))
        verdict = "more" if d.is_more_than_noise else "no more"
        lines.append(
            f"- {SYSTEMS[high][0]} minus {SYSTEMS[low][0]}: {value:+.1f} "
            f"[{least:+.1f}, {most:+.1f}], {verdict} than noise"
        )
    of_seeds = len(groups["baseline"]) > 1
    if not of_seeds:
        lines.append("- Another seed moves each student by 1 to 2 points on top.")
    return "\n".join([*lines, ""])


def read_events(path: Path, classes: dict[str, int]) -> dict[str, list[Event]]:
    """True events by clip key; ShardError for a label that is not in ``classes``."""
    events = defaultdict(list)
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            key, label = row["segment_id"], row["label"]
            if label not in classes:
                raise ShardError(f"{path}: {key}: class {label!r} is not in the shards")
            start, end = (float(row[f"{w}_time_seconds"]) for w in ("start", "end"))
            events[key].append((start, end, classes[label]))
    return events


def read_clips(audio: Index, labels: Index, strong: Path) -> list[Clip]:
    """Every clip in order; ShardError if labels or events are not of this audio."""
    check_join(audio, labels)
    rate, reader = labels.properties["sample_rate"], MemberReader(labels)
    events = read_events(strong, audio.classes.index_of)
    chunking = Chunking(*(labels.properties[f"{w}_samples"] for w in ("chunk", "hop")))
    clips = []
    for row, num_samples in enumerate(audio.table.count.tolist()):
        probs = reader.labels(row).astype(np.float64)
        bounds = [chunking.bounds(k, num_samples) for k in range(len(probs))]
        edges = np.array([start for start, _ in bounds] + [bounds[-1][1]]) / rate
        clips.append((edges, probs, events.get(audio.key(row), [])))
    if not any(events for _, _, events in clips):
        raise ShardError(
            f"{strong}: no event of a clip of {audio.where}; build it again"
        )
    return clips


def rank_clip(clip: Clip) -> tuple[int, float]:
    """How instructive a clip is: (different sounds up to three, agreement).

    A sound in every chunk does not count, nor a parent class that sounds just when its
    child does. The agreement is the cosine similarity, in [0, 1], of the labels [K, C]
    with the shares of the chunks that the events fill.
    """
    edges, probs, events = clip
    shares, times = np.zeros_like(probs), defaultdict(list)
    for start, end, c in events:
        seconds = np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])
        shares[:, c] += np.maximum(seconds, 0.0) / np.diff(edges)
        times[c].append((start, end))
    sounds = {tuple(sorted(times[c])) for c in times if not shares[:, c].all()}
    shares = np.minimum(shares, 1.0)  # events of one class may overlap
    norm = float(np.linalg.norm(shares) * np.linalg.norm(probs))
    return min(len(sounds), 3), float((shares * probs).sum()) / norm if norm else 0.0


def draw_table(figure: Figure, summary: Summary, index: Index) -> None:
    """Bars of the paper's and the measured mAP side by side."""
    axes, x = figure.subplots(), np.arange(len(SYSTEMS))
    titles, paper, _ = zip(*SYSTEMS.values(), strict=True)
    ours, stds = ([summary[name][k] for name in SYSTEMS] for k in ("mean", "std"))
    label = f"Ours: miniature set, {len(index.classes)} classes"
    if (num_seeds := len(summary["baseline"]["values"])) > 1:
        label += f"; mean ± std of {num_seeds} seeds"
    for shift, heights, color, error, text in (
        (-0.2, paper, "#BBBBBB", None, "Paper: AudioSet, 527 classes"),
        (0.2, ours, "#0072B2", np.array(stds, float), label),
    ):
        bars = axes.bar(x + shift, heights, 0.38, color=color, yerr=error, label=text)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.legend(loc="upper left")
    axes.set_xticks(x, titles)
    axes.set(ylabel="mAP on evaluation clips, %", ylim=(0, 1.3 * max(*paper, *ours)))
    axes.grid(axis="y")
    axes.set_title("Weak and pseudo strong labels, two data sets: compare the order")


def draw_curves(figure: Figure, logs: dict[str, list[str]]) -> None:
    """Training loss and validation mAP by epoch, a line per metrics.jsonl."""
    panels = figure.subplots(1, 2)
    for axes, name, scale in zip(panels, ("loss", "valid_mAP"), (1, 100), strict=True):
        for system, (title, _, color) in SYSTEMS.items():
            style = "--" if system == "teacher" else "-"
            for seed, log in enumerate(logs[system]):
                values = defaultdict(list)
                for record in map(json.loads, log.splitlines()):
                    if name in record:
                        values[record["epoch"] + 1].append(scale * record[name])
                means = [fmean(of_epoch) for of_epoch in values.values()]
                label = f"_{seed}" if seed else title
                axes.plot(list(values), means, style, color=color, label=label, lw=1.8)
        axes.set_xlabel("epoch (every training chunk once)")
        axes.grid()
    panels[0].set_title("Training loss, on each system's own labels")
    panels[1].set(title="mAP on the validation clips, %", ylim=(0, None))
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(SYSTEMS))


def draw_spectrogram(axes: Axes, samples: np.ndarray, rate: int) -> None:
    """Log-mel of int16 ``samples`` over time, white 80 dB below its loudest value."""
    front_end = log_mel(LogMelConfig(sample_rate=rate, n_fft=1024, top_db=80.0))
    waveform = torch.from_numpy(samples / np.float32(32768))[None]
    bands, box = front_end(waveform)[0, 0].numpy(), (0, len(samples) / rate, 0, 1)
    axes.imshow(bands, origin="lower", aspect="auto", cmap="Greys", extent=box)
    ticks_hz = [250, 1000, 4000]
    mel = np.log10(1 + np.array([*ticks_hz, rate / 2]) / 700)  # HTK's, as in torchaudio
    axes.set_yticks(mel[:-1] / mel[-1], [f"{hz} Hz" for hz in ticks_hz])


def draw_strips(axes: Axes, clip: Clip, names: Sequence[str]) -> None:
    """A strip of labels per class, true events outlined over it."""
    edges, probs, events = clip
    present = list(dict.fromkeys(c for _, _, c in sorted(events)))
    likely = np.flatnonzero(probs.max(axis=0) > SHOWN_PROB).tolist()
    shown = present + [c for c in likely if c not in present]
    rows, strips = np.arange(len(shown) + 1), probs[:, shown].T
    axes.pcolormesh(edges, rows, strips, cmap="Blues", vmin=0, vmax=1, ec="white", lw=3)
    for (row, k), prob in np.ndenumerate(strips):
        x, color = edges[k : k + 2].mean(), "black" if prob < 0.6 else "white"
        axes.text(x, row + 0.88, f"{prob:.2f}", color=color, ha="center")
    for start, end, c in events:
        span, height = [(start, end - start)], (shown.index(c) + 0.12, 0.42)
        axes.broken_barh(span, height, fc="none", ec="#D55E00", lw=2.5)
    marks = {c: "" if c in present else " (no event)" for c in shown}
    titles = [names[c].split(",")[0] + mark for c, mark in marks.items()]
    axes.set_yticks(rows[:-1] + 0.5, titles)
    axes.invert_yaxis()


def draw_clip(figure: Figure, clips: list[Clip], audio: Index) -> None:
    """The clip with the greatest rank_clip, the first of equals."""
    ranks = [rank_clip(clip) for clip in clips]
    best, typical = ranks.index(max(ranks)), median(agreement for _, agreement in ranks)
    samples = MemberReader(audio).samples(best, 0, int(audio.table.count[best]))
    top, bottom = figure.subplots(2, 1, sharex=True)
    draw_spectrogram(top, samples, audio.properties["sample_rate"])
    draw_strips(bottom, clips[best], audio.classes.names)
    heights = (2.4, 0.55 * len(bottom.get_yticks()))  # inches
    top.get_gridspec().set_height_ratios(heights)
    figure.set_figheight(sum(heights) + 1.6)
    top.set_title(
        f"Log-mel spectrogram of evaluation clip {audio.key(best)},\n"
        f"best match of labels and events with {ranks[best][0]} sounds "
        f"(cosine {ranks[best][1]:.2f}; median clip {typical:.2f})"
    )
    bottom.set_title(
        "Pseudo strong labels: the teacher's probability in each chunk of "
        f"{clips[best][0][1]:g} s.\nOutlined: the true events, which it never saw"
    )
    bottom.set_xlabel("time, s")


def save(path: Path, draw: Callable[..., None], *facts: Any) -> None:
    """Let ``draw`` fill a figure and write it as ``path``, 900 pixels wide."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        draw(figure, *facts)
        figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.paper.report``: reads all, then writes."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.paper.report",
        description="Tabulate and draw what a finished demonstration shows.",
        epilog="example: python -m tools.paper.report runs/demo --data data/mini-quick",
    )
    parser.add_argument("root", type=Path, help="folder of the runs")
    parser.add_argument("--data", type=Path, required=True, help="the mini AudioSet")
    arguments = parser.parse_args(argv)
    root, data = arguments.root, arguments.data
    summary = summarise(read_runs(root, "eval/metrics.json"))
    summary = with_dev(summary, run_folders(root))
    logs, pseudo = read_runs(root, "metrics.jsonl"), root / "labels_eval_2s"
    audio = open_index(require(data / "shards/eval" / INDEX_NAME).parent, kind="audio")
    labels = open_index(require(pseudo / INDEX_NAME).parent, kind="labels")
    clips = read_clips(audio, labels, require(data / "strong.csv"))
    means = {name: summary[name]["mean"] for name in ("teacher", *SYSTEMS)}
    table = table_markdown(summary, audio) + differences_markdown(root)
    write_stored(root / "table_seeds.json", measured_now(systems=summary))
    write_atomic(root / "table.json", json.dumps(means, indent=1) + "\n")
    write_atomic(root / "report" / "table.md", table)
    save(root / "report" / "table.png", draw_table, summary, audio)
    save(root / "report" / "curves.png", draw_curves, logs)
    save(root / "report" / "clip.png", draw_clip, clips, audio)
    print(table)


if __name__ == "__main__":
    run_main(main)
