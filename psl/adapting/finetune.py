"""All layers of an adapted model, trained on the same sounds by psl.train's own loop.

Owns the settings of that run; the sounds become a dataset next to it first.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from psl.adapting.embedded import Embedded
from psl.adapting.sounds import Example
from psl.data.config import LoaderConfig
from psl.training.config import DataConfig, OptimConfig, TrainConfig
from psl.training.loop import run_training
from psl.weights.checkpoint import load_checkpoint
from shards.errors import naming
from shards.format.classes import Classes
from shards.format.schema import make_key
from shards.packing.job import PackSettings, pack
from shards.packing.names import parse_stem
from shards.packing.sources.listing import Clip, Listing
from shards.system.files import sha256_of

_log = logging.getLogger(__name__)

SOUNDS_NAME = "sounds"
"""The folder of the dataset in that of the run."""
EPOCHS = 30
LEARNING_RATE = 1e-4
PATIENCE = 8
_BATCH_SIZE = 32
"""Windows a step; fewer where the sounds have not twice as many."""
_MIN_HELD_OUT = 5
"""Recordings of each class, from which a fifth is held out to choose the checkpoint."""


def finetune_run(
    start: Path,
    out: Path,
    embedded: Embedded,
    *,
    classes: Classes,
    seconds: float,
    epochs: int,
) -> None:
    """Train the model at ``start`` on ``embedded.examples`` into the run ``out``."""
    config = load_checkpoint(start).model_config
    listing = _listing(embedded.examples)
    settings = PackSettings(sample_rate=config.front_end.sample_rate)
    data = out / SOUNDS_NAME
    _log.info("%s", pack(listing, classes=classes, out=data, settings=settings))
    can_hold_out = _least_recordings(embedded.examples) >= _MIN_HELD_OUT
    if not can_hold_out:
        _log.warning(
            "a class has fewer than %d recordings: none is held out, and the mAP of "
            "the run is that of its own training data",
            _MIN_HELD_OUT,
        )
    run_training(
        TrainConfig(
            run_dir=str(out),
            data=DataConfig(
                audio=[str(data)],
                valid="held_out" if can_hold_out else "train",
                held_out_share=0.2,
                chunk_seconds=seconds,
            ),
            model=config,
            start=str(start),
            optim=OptimConfig(learning_rate=LEARNING_RATE),
            loader=LoaderConfig(),
            epochs=epochs,
            global_batch_size=min(_BATCH_SIZE, max(2, len(embedded.example_of) // 2)),
            patience=PATIENCE if can_hold_out else None,
        )
    )


def _least_recordings(examples: tuple[Example, ...]) -> int:
    groups = {(e.label, e.group) for e in examples if e.label is not None}
    return min(Counter(label for label, _ in groups).values())


def _listing(examples: tuple[Example, ...]) -> Listing:
    clips = [_clip(example) for example in examples]
    names = "\n".join(example.where for example in examples)
    return Listing(
        where="own sounds",
        clips=clips,
        missing=[],
        provenance={"files_sha256": sha256_of(names.encode("utf-8", "replace"))},
        load=_load,
        describe=lambda clip: str(clip.place[0]),
    )


def _clip(example: Example) -> Clip:
    start = example.start
    if start is None:
        _, start = parse_stem(Path(example.path).stem)
    labels = () if example.label is None else (example.label,)
    with naming(example.path):
        key = make_key(example.group, start)
    place = (example.path, example.start, example.end)
    return Clip(key, example.group, start, labels, place)


def _load(clip: Clip, sample_rate: int) -> np.ndarray:
    path, start, end = clip.place
    return Example(path, None, "", start, end).load(sample_rate)
