"""What test_segments_on_disk.py runs as a process: prints peaks of memory."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from psl import report
from psl.data.config import LoaderConfig
from psl.evaluation import metrics, score_tables, scoring, to_main
from psl.evaluation.labels import Labels
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.stored import open_scores, write_table
from psl.reporting.clips import sample_rows
from tools.bench.memory import peak_bytes
from tools.bench.segments import measured

NUM_CLASSES = 500
FEW, MANY = 2_000, 40_000
"""Rows; the scores of the many take 80 MB."""


class Clips:
    """What a validation asks of an index and its table; clip n has class n % C."""

    def __init__(self, num_clips: int) -> None:
        self.classes, self.table = range(NUM_CLASSES), self
        self.label_rows = np.arange(num_clips)
        self.label = self.label_rows % NUM_CLASSES

    def __len__(self) -> int:
        return len(self.label)


def visit(model: Any, index: Clips, accelerator: Any, **given: Any) -> None:
    """Random scores, a batch at a time, instead of those of a model."""
    for places in np.array_split(np.arange(len(index)), len(index) // 100):
        given["on_scores"](places, torch.rand(len(places), NUM_CLASSES))


def segments(folder: Path, num_rows: int) -> None:
    """Score segments and measure them."""
    measured(num_rows // 10, NUM_CLASSES, str(folder))


def validation(folder: Path, num_rows: int) -> None:
    """Validate, as training does."""
    index: Any = Clips(num_rows)
    scoring.evaluate_model(
        nn.Identity(),
        index,
        Accelerator(cpu=True),
        folder=folder,
        loader=LoaderConfig(),
    )


def page(folder: Path, num_rows: int) -> None:
    """Make a report of an evaluation, and choose clips of it."""
    out, clip = folder / f"eval{num_rows}", np.arange(num_rows)
    out.mkdir()
    key = np.char.encode(np.char.mod("%06d", clip))
    labels = Labels.of_pairs(
        clip, clip % NUM_CLASSES, num_clips=num_rows, num_classes=NUM_CLASSES
    )
    with ScoreFile(out, num_clips=num_rows, num_classes=NUM_CLASSES) as file:
        visit(
            None, Clips(num_rows), None, on_scores=lambda n, s: file.write(n, s.numpy())
        )
        file.seal()
        write_table(out, key, [f"/m/{c}" for c in range(NUM_CLASSES)], labels, file)
    summary = {"mAP": 0.5, "AUC": 0.5, "d_prime": 0.0}
    (out / "metrics.json").write_text(json.dumps(summary))
    with contextlib.redirect_stdout(io.StringIO()):
        report.main([str(out), "--json"])
    with open_scores(out) as stored:
        assert sample_rows(stored, {"000000", "000001"}, most=6)


def main() -> None:
    """Do all with few rows, then with many; by how much each raised the peak, bytes."""
    torch.set_num_threads(1)
    folder, works = Path(sys.argv[1]), (segments, validation, page)
    score_tables.BLOCK_SCORES, metrics._PAIR_VALUES = 1 << 18, 1 << 16
    to_main._SENT_ROWS = 512
    scoring.visit_clips = visit  # type: ignore[assignment]
    scoring.VALIDATION_BYTES = 0
    for work in works:
        work(folder, FEW)
    before, found = peak_bytes(), {}
    for work in works:
        work(folder, MANY)
        found[work.__name__] = peak_bytes() - before
    print(json.dumps(found))


if __name__ == "__main__":
    main()
