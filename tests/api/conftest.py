"""Label datasets and a run folder for the tests of the public API, made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from psl.models.families import ModelConfig, build_from_config
from psl.models.mobilenetv2 import MobileNetV2Config
from psl.weights.checkpoint import TrainingState, save_checkpoint
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.label_codec import DENSE, LabelForm, encode_labels
from tests.conftest import MIDS, RATE

CLASSES = Classes(MIDS, tuple(f"Tone {mid[3:]}" for mid in MIDS))
CHUNK = RATE
"""Samples of a chunk of the labels below; each clip of 2 s has two."""


def probs_of(row: int, *, views: int = 1) -> np.ndarray:
    """Probabilities [views * 2, 3] of a clip's chunks, in 64ths: exact in float16."""
    generator = np.random.default_rng((row, views))
    return generator.integers(0, 65, (views * 2, len(MIDS))) / 64


def write_labels(
    folder: Path,
    audio: Index,
    form: LabelForm = DENSE,
    *,
    unlabelled: int | None = None,
) -> Path:
    """Labels of every second of every clip; none of row ``unlabelled``."""
    views = {"augment_seed": 5, "gain_db": 6.0} if form.views > 1 else {}
    builder = DatasetBuilder(
        folder=folder,
        kind="labels",
        classes=audio.classes,
        properties={
            "sample_rate": RATE,
            "chunk_samples": CHUNK,
            "hop_samples": CHUNK,
            **form.properties,
            **views,
        },
        provenance={"audio_fingerprint": audio.fingerprint},
    )
    builder.begin()
    names, start = [], 0
    for number, shard in enumerate(audio.shards):
        rows = []
        for row in range(start, start + shard.num_clips):
            probs = probs_of(row, views=form.views)
            if form.views > 1:
                probs = probs.reshape(form.views, 2, -1)
            if row == unlabelled:
                probs = probs[..., :0, :]
            num_chunks = probs.shape[-2]
            data = encode_labels(probs, form)
            rows.append(Row(audio.key(row), "npy", data, num_chunks))
        names.append(f"{number:06d}.tar")
        builder.add(names[-1], rows)
        start += shard.num_clips
    builder.publish(names)
    return folder


@pytest.fixture(scope="session")
def labels(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense labels of ``dataset``, probs_of() each row; not to be changed."""
    folder = tmp_path_factory.mktemp("labels") / "labels_1s"
    return write_labels(folder, open_index(dataset, kind="audio"))


def save_run(
    run_dir: Path, config: ModelConfig, *, classes: Classes = CLASSES, step: int = 4
) -> Path:
    """A run folder with one checkpoint of a model that tells waveforms apart.

    Its BatchNorm statistics are those of noise: with fresh ones, all outputs are alike.
    """
    torch.manual_seed(1)
    model = build_from_config(config, len(classes))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    loud, quiet = torch.rand(2, 2, RATE) * 2 - 1
    with torch.no_grad():
        model(torch.cat([loud, quiet / 100, quiet * torch.linspace(0, 1, RATE)]))
    save_checkpoint(
        run_dir / "checkpoints" / f"step_{step:08d}",
        model=model,
        optimizer={},
        model_config=config,
        classes=classes,
        training=TrainingState(1, 0, ((step, 0.5),), "plan"),
    )
    return run_dir


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny model with frames of 0.16 s; not to be changed."""
    config = MobileNetV2Config(width=0.25, last_channels=32, time_stride=16)
    return save_run(tmp_path_factory.mktemp("runs") / "student", config)
