"""Run and evaluation folders as files, with names that try to become markup."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from psl.evaluation.stored import StoredScores, write_scores

NAMES = (
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\"> 'quoted' \"twice\" $x^2$ & co",
    "Sound \u202eesrever\u202c \u0635\u0648\u062a",
)
"""Of three classes: markup, quotes and mathtext, a mark that turns text round."""
MIDS = ("/m/low", "/m/mid", "/m/high")


def make_run(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """A run of 40 steps that was validated twice."""
    folder.mkdir(parents=True)
    values = {"run_dir": str(folder), "epochs": 2, "seed": seed, **config}
    (folder / "config.yaml").write_text(json.dumps(values))  # which is YAML, too
    command = ["python", "-m", "psl.train", f"run_dir={folder}", f"seed={seed}", "a b"]
    facts = {"command": command, "version": "0.1.0", "torch": "2.13.0"}
    (folder / "run.json").write_text(json.dumps(facts))
    lines = [{"step": s, "epoch": 0, "loss": 1 / s} for s in range(1, 41)]
    lines += [{"step": s, "epoch": 0, "valid_mAP": s / 100} for s in (20, 40)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def make_evaluation(
    folder: Path,
    *,
    keys: list[str] | None = None,
    names: tuple[str, ...] = NAMES,
    ap: tuple[float, ...] = (0.9, 0.5, 0.25),
) -> Path:
    """An evaluation of 12 clips, or of those of ``keys``; clip i has class i % 3.

    Every clip of class 0 is scored 0.8 for class 2, too; nothing else is confused.
    """
    folder.mkdir(parents=True)
    keys = [f"clip{n}_0" for n in range(12)] if keys is None else keys
    targets = np.arange(len(keys))[:, None] % 3 == np.arange(3)
    scores = np.where(targets, 0.9, 0.1).astype(np.float32)
    scores[targets[:, 0], 2] = 0.95
    stored = StoredScores(np.array([k.encode() for k in keys]), MIDS, targets, scores)
    write_scores(folder, stored)
    summary = {
        "version": 2,
        "mAP": float(np.mean(ap)),
        "AUC": 0.75,
        "d_prime": 0.95,
        "num_clips": len(keys),
        "num_classes_with_positives": 3,
        "intervals": {"mAP": [0.4, 0.7], "AUC": None, "d_prime": [0.5, 1.5]},
        "labels": "data/eval",
        "sha256_of_clips": "0" * 64,
    }
    (folder / "metrics.json").write_text(json.dumps(summary))
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        columns = ("mid", "display_name", "num_positives", "ap", "ap_low", "ap_high")
        writer.writerow(("index", *columns))
        for c, (mid, name) in enumerate(zip(MIDS, names, strict=True)):
            writer.writerow((c, mid, name, 4, ap[c], ap[c] - 0.1, min(1, ap[c] + 0.1)))
    return folder
