"""How psds_cases.json got its expected values: by sed_scores_eval, the reference.

    python -m venv oracle && oracle/bin/pip install 'setuptools<81' wheel cython \
        'pandas<3' 'numpy<2.4' scipy
    oracle/bin/pip install --no-build-isolation sed_scores_eval==0.0.4
    oracle/bin/python tests/psl/detection/psds_oracle.py

It needs older packages than the project, so CI compares with what it said: 20 random
sets of clips, with events of several classes at a time, equal scores, events on edges
of frames and clips without events. sed_scores_eval takes neither a class without events
nor events of a class that touch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CASES = Path(__file__).with_name("psds_cases.json")
SETTINGS: dict[str, dict[str, float]] = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_st": 1.0},
    "psds2": {
        "dtc_threshold": 0.1,
        "gtc_threshold": 0.1,
        "cttc_threshold": 0.3,
        "alpha_ct": 0.5,
        "alpha_st": 1.0,
    },
}


def make_cases() -> list[dict[str, Any]]:
    """20 sets of clips, the same each time."""
    rng = np.random.default_rng(2026)
    return [make_case(rng, number) for number in range(20)]


def make_case(rng: np.random.Generator, number: int) -> dict[str, Any]:
    num_classes = int(rng.integers(2, 5))
    clips = [
        make_clip(rng, number, clip, num_classes) for clip in range(rng.integers(4, 9))
    ]
    for label in range(num_classes):
        if not any(event[0] == label for clip in clips for event in clip["truth"]):
            clip = clips[label % len(clips)]
            clip["truth"].append([label, 0.0, round(clip["edges"][-1] / 2, 4)])
    return {"num_classes": num_classes, "clips": clips}


def make_clip(
    rng: np.random.Generator, number: int, place: int, num_classes: int
) -> dict[str, Any]:
    num_frames = int(rng.integers(12, 33))
    step = float(rng.choice([0.64, 2.5, 4.0, 5.0]))
    edges = np.round(np.arange(num_frames + 1) * step, 6)
    scores = rng.random((num_frames, num_classes)) ** 3
    truth: list[list[float]] = []
    for _ in range(int(rng.integers(0, 7))):
        label = int(rng.integers(0, num_classes))
        onset = float(rng.uniform(0, edges[-1] * 0.8))
        offset = float(rng.uniform(onset + step / 2, edges[-1]))
        if number % 3 == 0 and truth:
            onset, offset = truth[-1][1], min(edges[-1], truth[-1][2] + 0.1)
        if number % 6 == 5:
            onset = float(edges[int(onset / step)])
            offset = float(edges[min(num_frames, int(offset / step) + 1)])
        if any(label == m and onset <= d and c <= offset for m, c, d in truth):
            continue
        truth.append([label, round(onset, 4), round(offset, 4)])
        for frame in range(num_frames):
            shared = min(edges[frame + 1], offset) - max(edges[frame], onset)
            if rng.random() < 0.9 and shared > step * rng.choice([0.1, 0.5]):
                scores[frame, label] = min(1, scores[frame, label] + 0.6)
    if number % 4 == 1:
        scores = np.round(scores, 1)
    if number % 4 == 2 and place % 3 == 0:
        scores = np.full((num_frames, num_classes), 0.5)
    return {
        "scores": np.round(scores, 3).tolist(),
        "edges": edges.tolist(),
        "truth": truth,
    }


def main() -> None:
    """Write the cases with what sed_scores_eval says of them."""
    from sed_scores_eval.base_modules.scores import create_score_dataframe  # type: ignore[import-not-found]
    from sed_scores_eval.intersection_based import psds  # type: ignore[import-not-found]

    cases = make_cases()
    for case in cases:
        names = [f"c{label}" for label in range(case["num_classes"])]
        scores, truth, seconds = {}, {}, {}
        for place, clip in enumerate(case["clips"]):
            key, edges = str(place), np.array(clip["edges"])
            scores[key] = create_score_dataframe(
                np.array(clip["scores"]), timestamps=edges, event_classes=names
            )
            truth[key] = [(a, b, names[int(label)]) for label, a, b in clip["truth"]]
            seconds[key] = float(edges[-1])
        for name, settings in SETTINGS.items():
            value, per_class, *_ = psds(
                scores, truth, seconds, max_efpr=100.0, unit_of_time="hour", **settings
            )
            case[name] = round(float(value), 12)
            case[f"{name}_classes"] = [round(float(per_class[n]), 12) for n in names]
    CASES.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
