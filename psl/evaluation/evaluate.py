"""Score a dataset's whole clips with a checkpoint and measure.

Owns exactly-once scoring at any world size, and the files of an evaluation.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from psl.data.checks import check_has_labels, check_rate
from psl.distributed import launch, runtime
from psl.evaluation.config import EvaluateConfig
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.scoring import score_clips
from psl.evaluation.shared_classes import InClassesOfAudio, share_classes
from psl.weights.checkpoint import check_checkpoint_fits, load_checkpoint
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.system.files import write_atomic

_log = logging.getLogger(__name__)


def write_results(out: str | Path, metrics: Metrics, classes: Classes) -> None:
    """metrics.json with the scalars, per_class.csv with AP by class, best first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "mid", "display_name", "num_positives", "ap"])
    for c in np.argsort(-np.nan_to_num(metrics.ap, nan=-1.0), kind="stable"):
        ap = "" if np.isnan(metrics.ap[c]) else f"{metrics.ap[c]:.6f}"
        name = classes.names[c]
        writer.writerow([c, classes.mids[c], name, metrics.num_positives[c], ap])
    write_atomic(Path(out, "per_class.csv"), buffer.getvalue())
    summary = json.dumps(metrics.summary(), indent=1)
    write_atomic(Path(out, "metrics.json"), summary + "\n")


def evaluate(config: EvaluateConfig, accelerator: Accelerator) -> Metrics:
    """Evaluate a checkpoint and write the results. Collective."""
    index = open_index(config.audio, kind="audio")
    checkpoint = load_checkpoint(config.checkpoint)
    check_has_labels(index, "evaluate against")
    if config.classes == "same":
        check_checkpoint_fits(index, checkpoint)
    else:
        rate = checkpoint.model_config.front_end.sample_rate
        check_rate(index, sample_rate=rate, what=str(checkpoint.folder))
    what = f"{checkpoint.folder} on {index.where}"
    shared = share_classes(index.classes, checkpoint.classes, what=what)
    scores = score_clips(
        runtime.place(
            InClassesOfAudio(checkpoint.build_model(), shared, len(index.classes)),
            accelerator.device,
        ).eval(),
        index,
        accelerator,
        batch_size=config.batch_size,
        loader=config.loader,
    )[:, shared.of_audio]
    rows = np.arange(len(index))
    targets = index.table.weak_targets(rows, len(index.classes))[:, shared.of_audio]
    metrics = evaluate_scores(targets, scores)
    if accelerator.is_main_process:
        write_results(config.out, metrics, shared.classes)
        if len(shared.classes) < len(index.classes):
            names = ", ".join(shared.classes.names)
            _log.info("%s: %d classes in common: %s", what, len(shared.classes), names)
        print(json.dumps(metrics.summary()))
    return metrics


def run_evaluation(config: EvaluateConfig) -> None:
    """Join the job and evaluate. Collective."""
    accelerator = launch.start()
    evaluate(config, accelerator)
    launch.finish(accelerator)
