"""Score a dataset's whole clips with a checkpoint and measure.

Owns exactly-once scoring at any world size, and the files of an evaluation.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from psl.checkpoint import Checkpoint, load_checkpoint
from psl.config import STRICT, from_command_line
from psl.data.batch import to_device, to_waveform
from psl.data.checks import check_fits, check_has_labels, check_rate
from psl.data.loader import LoaderConfig, fetch_ahead, open_cache
from psl.distributed import collectives, launch, runtime
from psl.metrics import Metrics, evaluate_scores
from psl.shared_classes import InClassesOfAudio, share_classes
from shards.classes import Classes
from shards.cli import run_main
from shards.files import write_atomic
from shards.index import Index, open_index
from shards.plan import visit_batches
from shards.reader import MemberReader

MIN_SECONDS = 0.5
"""Shorter clips are padded to this, so that every model has a frame to look at."""


@dataclass(frozen=True, config=STRICT)
class EvaluateConfig:
    """What to evaluate on what."""

    checkpoint: str
    """A run folder (the average of its checkpoints if it has one, else the best one) or
    a checkpoint folder."""
    audio: str
    """Audio dataset with the true labels."""
    out: str
    """Folder for metrics.json and per_class.csv."""
    classes: Literal["same", "shared"] = "same"
    """same refuses audio of other classes than the checkpoint's; shared measures those
    that both have, matched by mid, and leaves out the others."""
    batch_size: int = Field(default=32, gt=0)
    """Clips scored at a time by each process."""
    loader: LoaderConfig = LoaderConfig()


def score_clips(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
) -> np.ndarray:
    """Probabilities [len(rows), C] float32 of clips, on every rank. Collective.

    Of all clips, if there are no ``rows``. ``model`` must be in evaluation mode and the
    same on all ranks. ``before_batch`` is called equally often on all ranks, so that it
    may be collective. Raises RuntimeError unless every clip was scored exactly once.
    """
    reader, device = MemberReader(index, open_cache(loader)), accelerator.device
    rows = np.arange(len(index)) if rows is None else rows
    counts = index.table.count[rows]

    def fetch(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = int(counts[places[0]])
        shortest = round(MIN_SECONDS * index.properties["sample_rate"])
        pcm = np.zeros((len(places), max(length, shortest)), np.int16)
        for position, place in enumerate(places):
            pcm[position, :length] = reader.samples(int(rows[place]), 0, length)
        return places, pcm

    # a last column counts how often each clip was scored
    scores = torch.zeros(len(rows), len(index.classes) + 1, device=device)
    batches = visit_batches(
        counts,
        batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    num_batches = len(visit_batches(counts, batch_size, rank=0, world_size=1))
    with torch.inference_mode():
        for number, (places, pcm) in enumerate(fetch_ahead(fetch, batches, loader)):
            before_batch(number)
            lengths = torch.as_tensor(counts[places], device=device)
            clip_probs, _ = model(to_waveform(to_device(pcm, device)), lengths)
            where = torch.from_numpy(places).to(device)
            scores[where, :-1] = clip_probs
            scores[where, -1] += 1
    for number in range(len(batches), -(-num_batches // accelerator.num_processes)):
        before_batch(number)
    result = collectives.sum_over_ranks(scores).cpu().numpy()
    if not (result[:, -1] == 1).all():
        place = int(np.flatnonzero(result[:, -1] != 1)[0])
        clip = index.place(int(rows[place]))
        raise RuntimeError(f"{clip} was scored {result[place, -1]:g} times")
    return result[:, :-1]


def measure(
    model: nn.Module,
    index: Index,
    accelerator: Accelerator,
    *,
    batch_size: int,
    loader: LoaderConfig,
    rows: np.ndarray | None = None,
    before_batch: Callable[[int], None] = lambda number: None,
) -> Metrics:
    """Metrics of ``model`` over all clips of ``index``, or ``rows``. Collective.

    ``before_batch`` is that of ``score_clips``.
    """
    rows = np.arange(len(index)) if rows is None else rows
    scores = score_clips(
        model,
        index,
        accelerator,
        batch_size=batch_size,
        loader=loader,
        rows=rows,
        before_batch=before_batch,
    )
    return evaluate_scores(index.table.weak_targets(rows, len(index.classes)), scores)


def check_checkpoint_fits(index: Index, checkpoint: Checkpoint) -> None:
    """ValueError unless ``checkpoint`` can be used on the audio of ``index``."""
    check_fits(
        index,
        sample_rate=checkpoint.model_config.front_end.sample_rate,
        classes=checkpoint.classes,
        what=str(checkpoint.folder),
    )


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
            print(f"{what}: {len(shared.classes)} classes in common: {names}")
        print(json.dumps(metrics.summary()))
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.evaluate``."""
    config = from_command_line(
        EvaluateConfig,
        argv,
        command="python -m psl.evaluate",
        purpose="mAP, AUC, d', recall at 0.2 and AP per class of a checkpoint.",
        example="python -m psl.evaluate checkpoint=runs/student audio=data/eval "
        "out=runs/student/eval",
    )
    accelerator = launch.start()
    evaluate(config, accelerator)
    launch.finish(accelerator)


if __name__ == "__main__":
    run_main(main)
