"""The pictures of a label report. The only module of psl that needs matplotlib.

Owns the drawing; all numbers come from the report, and a clip's labels from its study.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from psl.label_report.clip import ClipView
from shards.system.files import write_atomic
from shards.system.text import plain

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#808080"
MAX_TITLE = 40
"""Characters of a class name; a longer one would leave no room for its labels."""
MAX_CLASSES = 24
"""Classes in the picture of a clip; those with the highest labels."""
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "font.size": 11,
    "grid.color": "#DDDDDD",
}


def save(path: Path, draw: Callable[..., None], *facts: Any) -> None:
    """Let ``draw`` fill a figure and write it as the PNG ``path``, 900 pixels wide."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        draw(figure, *facts)
        figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def draw_calibration(figure: Figure, report: dict[str, Any]) -> None:
    """Share of true labels over the label, and how many labels there are."""
    bins = [b for b in report["calibration"]["bins"] if b["count"]]
    curve, counts = figure.subplots(1, 2)
    curve.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfect")
    labels = [b["mean_label"] for b in bins]
    shares = [b["share_true"] for b in bins]
    curve.plot(labels, shares, "o-", color=BLUE, label="pseudo labels")
    error = report["calibration"]["expected_error_above_first_bin"]
    if error is not None:
        first = report["calibration"]["bins"][0]["to"]
        curve.set_title(f"Calibration (error above {first:g}: {error:.3f})")
    curve.set(xlabel="label", ylabel="share of chunks with a true event")
    curve.set(xlim=(0, 1), ylim=(0, 1))
    curve.legend(loc="upper left")
    curve.grid()
    places = [(b["from"] + b["to"]) / 2 for b in bins]
    width = bins[0]["to"] - bins[0]["from"] if bins else 0.1
    counts.bar(places, [b["count"] for b in bins], 0.9 * width, color=BLUE)
    counts.set(xlabel="label", yscale="log", xlim=(0, 1))
    counts.set_title("Labels (chunk and class) in each bin")
    counts.grid(axis="y")


def draw_recovery(figure: Figure, report: dict[str, Any]) -> None:
    """Recall and precision of the missing weak labels over the threshold."""
    found, axes = report["recovery"], figure.subplots()
    thresholds = [point["threshold"] for point in found["curve"]]
    for name, color in (("recall", BLUE), ("precision", ORANGE), ("f1", "#009E73")):
        values = [np.nan if p[name] is None else p[name] for p in found["curve"]]
        label = "F1" if name == "f1" else name
        axes.plot(thresholds, values, "o-", ms=4, color=color, label=label)
    if (chance := found["precision_by_chance"]) is not None:
        axes.axhline(chance, color=ORANGE, lw=1, ls="--", label="precision by chance")
    axes.axvline(report["threshold"], color=GREY, lw=1)
    axes.set(xlabel="threshold on the highest chunk", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"Recovering missing weak labels: {found['missing']:,} of "
        f"{found['true_pairs']:,} true (clip, class) pairs have none"
    )
    axes.legend(ncols=2)
    axes.grid()


def shown_classes(view: ClipView) -> list[int]:
    """Classes to draw: by their first event, then weak ones, then by highest label.

    Others than these have no label that reaches the threshold.
    """
    events = sorted(view.events or [])
    highest = view.probs.max(axis=0)
    likely = np.flatnonzero(highest >= np.float16(view.threshold))
    by_label = sorted(likely.tolist(), key=lambda c: -highest[c])
    order = list(dict.fromkeys([*(c for _, _, c in events), *view.weak, *by_label]))
    kept = sorted(order, key=lambda c: -highest[c])[:MAX_CLASSES]
    return [c for c in order if c in kept]


def draw_clip(figure: Figure, view: ClipView) -> None:
    """A strip of labels per class, true events outlined, weak labels marked."""
    shown, axes = shown_classes(view), figure.subplots()
    figure.set_figheight(0.5 * len(shown) + 2.2)
    strips = view.probs[:, shown].T.astype(np.float64)
    lines = np.arange(len(shown) + 1)
    few = len(view.probs) <= 12
    mesh = axes.pcolormesh(view.edges, lines, strips, cmap="Blues", vmin=0, vmax=1)
    if few:
        mesh.set(edgecolor="white", linewidth=3)
    for (row, k), label in np.ndenumerate(strips if few else np.empty((0, 0))):
        color = "black" if label < 0.6 else "white"
        x = view.edges[k : k + 2].mean()
        axes.text(x, row + 0.88, f"{label:.2f}", color=color, ha="center", fontsize=9)
    _draw_events(axes, view, shown)
    titles = [_title(view, c) for c in shown]
    axes.set_yticks(lines[:-1] + 0.5, titles, parse_math=False)  # $ is a dollar
    for tick, c in zip(axes.get_yticklabels(), shown, strict=True):
        if is_missing(view, c):
            tick.set_color(ORANGE)
    axes.invert_yaxis()
    axes.set_xlabel("time, s")
    figure.colorbar(mesh, label="pseudo label", pad=0.01)
    legend = "\u25cf weak label \u25cb none"
    if view.events is not None:
        legend += "; outlined: true events; orange: no weak label"
    axes.set_title(
        f"{view.key} ({view.why}),\n"
        f"labels of {view.chunk_seconds:g}-s chunks. {legend}",
        fontsize=11,
        parse_math=False,
    )


def is_missing(view: ClipView, c: int) -> bool:
    """Whether class ``c`` has a true event in the clip, but no weak label."""
    return c not in view.weak and any(label == c for _, _, label in view.events or [])


def _title(view: ClipView, c: int) -> str:
    name = plain(view.names[c].split(",")[0], MAX_TITLE)
    return f"{name} {chr(0x25CF if c in view.weak else 0x25CB)}"


def _draw_events(axes: Axes, view: ClipView, shown: list[int]) -> None:
    for start, end, c in view.events or []:
        if c in shown:
            span, height = [(start, end - start)], (shown.index(c) + 0.12, 0.42)
            axes.broken_barh(span, height, fc="none", ec=ORANGE, lw=2.5)
