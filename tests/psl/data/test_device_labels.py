"""Labels that are kept on the device give the batches that those in shards give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import psl
import shards
from psl import label, train
from psl.data.examples import TrainingData
from shards.errors import ShardError
from tests.learning import losses, teacher_config, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, dataset))
    return folder / "run"


def labelled(folder: Path, dataset: Path, teacher: Path, *words: str) -> Path:
    """The teacher's labels of every second."""
    out = folder / "labels"
    label.main([f"teacher={teacher}", f"audio={dataset}", f"out={out}", *words])
    return out


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("words", [[], ["top_k=2"], ["views=3", "augment.gain_db=6"]])
def test_a_batch_has_the_same_bits_from_either_place(
    tmp_path: Path, dataset: Path, teacher: Path, words: list[str], alpha: float
) -> None:
    """A student would learn other targets for being on a GPU."""
    labels = labelled(tmp_path, dataset, teacher, "chunk_seconds=1", *words)
    data = TrainingData.open(
        [str(dataset)], [str(labels)], chunk_seconds=1, alpha=alpha
    )
    kept = data.with_labels_on(CPU)
    assert kept.device_labels is not None
    draw = np.random.default_rng(0)
    rows, chunks = draw.integers(0, 24, 64), draw.integers(0, 2, 64)
    views = data.choose_views(rows, chunks, seed=0, epoch=1)
    expected = data.batch(rows, chunks, CPU, views)
    found = kept.batch(rows, chunks, CPU, views)
    assert torch.equal(found.targets, expected.targets)
    assert found.targets.dtype == torch.float32
    assert torch.equal(found.pcm, expected.pcm)


def test_a_run_has_the_same_losses_with_labels_on_its_device(
    tmp_path: Path, dataset: Path, teacher: Path
) -> None:
    """A resumed run that switches would go another way."""
    labels = labelled(tmp_path, dataset, teacher, "chunk_seconds=1")
    for name in ("false", "true"):
        words = [f"data.labels=[{labels}]", f"data.labels_on_device={name}"]
        train.main(tiny_config(tmp_path / name, dataset, *words, "epochs=1"))
    assert losses(tmp_path / "true/run") == losses(tmp_path / "false/run")


def test_labels_that_cannot_be_there_are_refused(
    tmp_path: Path, dataset: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would end in step 1 for want of memory, or quietly without the option."""
    words = ["data.labels_on_device=true"]
    with pytest.raises(ValueError, match="no effect without stored labels"):
        train.main(tiny_config(tmp_path / "weak", dataset, *words))
    labels = labelled(tmp_path, dataset, teacher, "chunk_seconds=1")
    data = TrainingData.open([str(dataset)], [str(labels)], chunk_seconds=1, alpha=1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 1000))
    with pytest.raises(ValueError, match=r"2\.88e-07 GB, and cuda has 5e-07 GB free"):
        data.with_labels_on(torch.device("cuda"))


def test_a_damaged_label_is_named_before_the_first_step(
    tmp_path: Path, dataset: Path
) -> None:
    """Else it would end the run when its clip is due, hours later."""
    given = {key: np.full((2, 3), 0.5) for key in shards.open_dataset(dataset).keys}
    psl.write_labels(tmp_path / "own", dataset, given, chunk_seconds=1)
    shard = min((tmp_path / "own").glob("*.tar"))
    content = bytearray(shard.read_bytes())
    half = np.full(1, 0.5, np.float16).tobytes()
    place = content.index(half * 6)
    content[place : place + 2] = np.full(1, 3.0, np.float16).tobytes()
    shard.write_bytes(content)
    data = TrainingData.open(
        [str(dataset)], [str(tmp_path / "own")], chunk_seconds=1, alpha=1
    )
    with pytest.raises(ShardError, match=r"clip\d+_0"):
        data.with_labels_on(CPU)
