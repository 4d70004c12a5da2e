"""A picture of one clip: probabilities over time, found events and true ones.

Owns the drawing. matplotlib is in the extra ``report``; without it there is no picture.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np

from psl.detection.events import Events, ScoredClip
from shards.format.classes import Classes
from shards.system.extras import pip_install
from shards.system.files import write_atomic
from shards.system.text import plain

MAX_CLASSES = 6
"""Classes drawn: those with true or found events, then the most probable."""
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#808080"
_log = logging.getLogger(__name__)


def draw_clip(path: Path, clip: ScoredClip, found: Events, classes: Classes) -> None:
    """Write the PNG ``path``; say so and do nothing where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _log.warning("no picture: matplotlib is missing; %s", pip_install("report"))
        return
    shown = _shown(clip, found)
    figure = Figure(figsize=(9, 1 + 1.1 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, label in zip(rows, shown, strict=True):
        edges, scores = clip.edges, clip.scores[:, label]
        axes.stairs(scores, edges, color=BLUE, label="probability")
        for events, low, color, name in (
            (clip.truth, -0.14, GREY, "true"),
            (found, -0.28, ORANGE, "found"),
        ):
            own = events.of_class(label)
            spans = list(zip(own.onset, own.offset - own.onset, strict=True))
            axes.broken_barh(spans, (low, 0.1), color=color, label=name)
        axes.set(ylim=(-0.32, 1.02), xlim=(edges[0], edges[-1]), yticks=[0, 0.5, 1])
        axes.set_title(plain(classes.names[label])[:40], loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1].set_xlabel("time, s")
    handles, names = rows[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def _shown(clip: ScoredClip, found: Events) -> list[int]:
    """Class indices, ascending."""
    first = np.unique(np.concatenate([clip.truth.label, found.label])).tolist()
    likely = np.argsort(-clip.scores.max(axis=0), kind="stable").tolist()
    ordered = first + [label for label in likely if label not in first]
    return sorted(ordered[:MAX_CLASSES])
