"""The files of scenes of real recordings: audio, weak labels and true events.

Owns their forms, AudioSet's, and which labels are forgotten. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.mini.recordings import SPLITS
from tools.mini.scenes import Scene, Sound

VERSION = 1
FORGET_PROB = 0.4


def draw_forgotten(sounds: Sequence[Sound], seed: int) -> set[str]:
    """Names of the recordings whose labels nobody wrote down: each with p = 0.4."""
    draws = np.random.default_rng([seed, len(SPLITS)]).random(len(sounds))
    return {s.name for s, draw in zip(sounds, draws, strict=True) if draw < FORGET_PROB}


def weak_labels(
    scene: Scene, mids: dict[str, tuple[str, ...]], forgotten: set[str]
) -> list[str]:
    """The scene's mids without those of forgotten recordings; of one if of none else.

    ``mids`` are those of each recording. Which one stays is the first in the scene, so
    that every scene has a label, as AudioSet's clips have.
    """
    kept = [name for name in scene.sources if name not in forgotten]
    return sorted({mid for name in kept or scene.sources[:1] for mid in mids[name]})


def segments_csv(rows: dict[str, list[str]]) -> str:
    """AudioSet's segment format: comment lines, then id, start, end, "mids"."""
    lines = [
        f"# Segments csv created by tools.mini.real version {VERSION}",
        f"# num_ytids={len(rows)}, num_segs={len(rows)}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    lines += [
        f'{clip}, 0.000, 10.000, "{",".join(mids)}"' for clip, mids in rows.items()
    ]
    return "\n".join([*lines, ""])


def strong_csv(events: dict[str, Scene]) -> str:
    """AudioSet-strong's form: key, start, end, mid, separated by tabs."""
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    for clip, scene in events.items():
        lines += [f"{clip}_0\t{a:.3f}\t{b:.3f}\t{mid}" for a, b, mid in scene.events]
    return "\n".join([*lines, ""])
