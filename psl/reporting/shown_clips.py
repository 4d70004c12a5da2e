"""The clips of a report: which label datasets and audio it can show, and what not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psl.data.pseudo_labels import PseudoLabels, read_labels
from psl.evaluation.stored import open_scores
from psl.reporting.clips import (
    NUM_CLASSES,
    NUM_SOUNDS,
    NUM_TIMELINES,
    said_of,
    sample_rows,
    sound,
    strongest,
    telling_clips,
    timeline,
)
from psl.reporting.facts import names_of, title_of
from psl.reporting.runs import Evaluation, Run
from shards.dataset.clips import AudioDataset
from shards.format.index import INDEX_NAME
from shards.system.text import plain

MAX_LABELS = 4
"""Label datasets whose timelines are shown."""


def labels_of(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Label datasets of the training that are here, and a line about each other one."""
    named: list[str] = []
    for run in runs:
        places = (run.config or {}).get("data.labels")
        named += [str(p) for p in places] if isinstance(places, list) else []
    named = list(dict.fromkeys(named))
    here = [place for place in named if Path(place, INDEX_NAME).exists()]
    lines = [
        f"labels {plain(place, 300)}: not here, so not shown over time; name their "
        "folder with --labels"
        for place in named
        if place not in here
    ]
    return here, lines


def clips_of(
    runs: Sequence[Run], labels: Sequence[str], audio: AudioDataset | None
) -> dict[str, Any]:
    """Timelines and sample clips, and lines about what is missing."""
    lines: list[str] = []
    here = list(labels)
    if not here:
        here, lines = labels_of(runs)
    if len(here) > MAX_LABELS:
        lines.append(f"timelines of the first {MAX_LABELS} of {len(here)} label sets")
    datasets = [(place, read_labels(place)) for place in here[:MAX_LABELS]]
    if not datasets and not lines:
        lines.append("no pseudo labels, so none over time; name some with --labels")
    if audio is None:
        lines.append("no sounds to play; name the dataset of the clips with --audio")
    return {
        "timelines": _timelines(datasets, audio, lines),
        "samples": [] if audio is None else _samples(runs, audio, lines),
        "missing": lines,
    }


def _timelines(
    datasets: Sequence[tuple[str, PseudoLabels]],
    audio: AudioDataset | None,
    lines: list[str],
) -> list[dict[str, Any]]:
    """Clips of the labels with the shortest chunks, and the same in the others."""
    if not datasets:
        return []
    first = min((labels for _, labels in datasets), key=_seconds_of_chunks)
    keys, same = set(first.keys), []
    for place, labels in datasets:
        if labels.classes.mids != first.classes.mids or keys.isdisjoint(labels.keys):
            lines.append(
                f"labels {plain(place, 300)}: of other clips or classes than "
                f"{plain(first.index.where, 300)}, so not shown over time"
            )
        else:
            same.append((place, labels))
            keys &= set(labels.keys)
    heard = set(audio.keys) & keys if audio is not None else keys
    found = []
    for key in telling_clips(first, heard or keys or None, most=NUM_TIMELINES):
        classes = strongest(first, key)
        strips = [timeline(plain(Path(p).name), d, key, classes) for p, d in same]
        clip = audio[key] if audio is not None and key in audio else None
        found.append(
            {
                "key": plain(key),
                "classes": [plain(first.classes.names[c]) for c in classes],
                "weak": None if clip is None else [plain(n) for n in clip.label_names],
                "sets": [strip for strip in strips if strip is not None],
                "sound": None if audio is None or clip is None else sound(audio, key),
            }
        )
    return found


def _seconds_of_chunks(labels: PseudoLabels) -> float:
    properties = labels.index.properties
    return float(properties.get("hop_samples") or properties.get("chunk_samples") or 0)


def _samples(
    runs: Sequence[Run], audio: AudioDataset, lines: list[str]
) -> list[dict[str, Any]]:
    """Clips of the first evaluation with scores, with what each evaluation says."""
    keys = set(audio.keys)
    scored = [
        (run, evaluation, evaluation.scores)
        for run in runs
        for evaluation in run.evaluations
        if evaluation.scores is not None and _has_any(evaluation.scores, keys)
    ]
    if not scored:
        lines.append(
            f"{plain(audio.index.where, 300)}: none of its clips was evaluated with "
            "stored scores, so no sample clips"
        )
        return []
    with open_scores(scored[0][2]) as stored:
        rows = sample_rows(stored, keys, most=NUM_SOUNDS)
        chosen = [stored.key[row].decode() for row in rows]
    said = [(run, e, said_of(scores, chosen)) for run, e, scores in scored]
    return [
        {
            "key": plain(key),
            "labels": [plain(name) for name in audio[key].label_names],
            "heard": [_heard(run, e, *of[key]) for run, e, of in said if key in of],
            "sound": sound(audio, key),
        }
        for key in chosen
    ]


def _has_any(scores: Path, keys: set[str]) -> bool:
    """Whether one of the clips is among ``keys``."""
    with open_scores(scores) as stored:
        return any(key.decode() in keys for key in stored.key.tolist())


def _heard(
    run: Run, evaluation: Evaluation, scores: np.ndarray, targets: np.ndarray
) -> dict[str, Any]:
    """The classes of the highest of ``scores`` [C], and whether each is labelled."""
    mids, names = evaluation.mids, names_of(evaluation)
    highest = (-scores).argsort(kind="stable")[:NUM_CLASSES].tolist()
    tags = [
        [plain(names[mids[c]]), round(float(scores[c]), 3), bool(targets[c])]
        for c in highest
    ]
    return {"title": plain(title_of(run, evaluation), 120), "tags": tags}
