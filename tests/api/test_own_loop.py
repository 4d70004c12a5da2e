"""The adaptors for other training loops: exactly the trainer's examples and order."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

import psl
import shards
from psl.config import parse
from psl.data.mixup import Mixup
from psl.data.torch_datasets import ChunkDataset
from psl.data.torch_order import Visit
from psl.training.batches import batches
from psl.training.config import TrainConfig
from psl.training.datasets import open_data
from psl.training.schedule import Schedule
from psl.weights.checkpoint import TrainingState
from shards.errors import ShardError
from shards.format.index import open_index
from shards.format.label_codec import LabelForm
from tests.api.conftest import write_labels

BATCH, SEED = 8, 3
STEPS = 24 * 2 // BATCH
"""Steps of an epoch: 24 clips of two chunks."""

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "weak": ({}, {}, {}),
    "pseudo": ({"alpha": 0.5}, {}, {}),
    "balanced": ({}, {"balance": 1.0, "mix": [2.0]}, {}),
    "moved": ({}, {}, {"gain_db": 6.0, "roll_seconds": 0.25}),
    "mixed": ({}, {}, {"mixup_alpha": 1.0, "mixup_probability": 0.5}),
    "views": ({}, {}, {"gain_db": 3.0}),
}
"""Options of data that go to open_chunks, to order(), and those of augment."""


@pytest.fixture(scope="session")
def views(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of three views of each chunk."""
    folder = tmp_path_factory.mktemp("labels") / "views"
    index = open_index(dataset, kind="audio")
    return write_labels(folder, index, LabelForm(views=3))


@pytest.fixture(params=OPTIONS)
def case(
    request: pytest.FixtureRequest, dataset: Path, labels: Path, views: Path
) -> tuple[dict[str, Any], ChunkDataset, dict[str, Any]]:
    """The configuration of a run, its chunks, and the options of their order."""
    of_data, of_order, augment = OPTIONS[request.param]
    folder = {"weak": None, "views": views}.get(request.param, labels)
    config = {
        "run_dir": "unused",
        "data": {
            "audio": [str(dataset)],
            "labels": None if folder is None else [str(folder)],
            "valid": "train",
            "chunk_seconds": 1.0,
            **of_data,
            **of_order,
        },
        "augment": augment,
        "global_batch_size": BATCH,
        "seed": SEED,
        "loader": {"threads": 2},
    }
    chunks = psl.open_chunks(
        dataset,
        folder,
        chunk_seconds=1.0 if folder is None else None,
        augment=augment,
        seed=SEED,
        **of_data,
    )
    return config, chunks, of_order


def digest(waveform: Any, target: Any, num_samples: Any, keys: list[str]) -> str:
    """Hash of all that is in a batch."""
    parts = (waveform, target, num_samples)
    data = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    return hashlib.sha256(data + "|".join(keys).encode()).hexdigest()


def trainer_batches(
    values: dict[str, Any], *, rank: int, world_size: int, epochs: int = 2
) -> list[str]:
    """What psl.train itself feeds to its step, over whole epochs."""
    config = parse(TrainConfig, values)
    data, _, plan = open_data(config)
    mixup = Mixup.from_config(
        config.augment,
        seed=config.seed,
        global_batch_size=BATCH,
        share=plan.local_slice(rank, world_size),
    )
    run: Any = SimpleNamespace(
        data=data,
        plan=plan,
        config=config,
        mixup=mixup,
        online=None,
        attempt=SimpleNamespace(inject=lambda kind, step: None),
        accelerator=SimpleNamespace(
            process_index=rank, num_processes=world_size, device=torch.device("cpu")
        ),
        schedule=Schedule(config, plan.num_steps),
    )
    found = []
    for epoch in range(epochs):
        steps = plan.steps(epoch, rank=rank, world_size=world_size)
        rows = [[data.audio.index.key(int(row)) for row in rows] for rows, _ in steps]
        made = batches(run, TrainingState(epoch, 0, (), ""))
        for keys, batch in zip(rows, made, strict=True):
            found.append(digest(batch.waveform, batch.targets, batch.num_samples, keys))
    return found


def digests(loader: Any) -> list[str]:
    """What one epoch of an adaptor gives."""
    return [
        digest(batch["waveform"], batch["target"], batch["num_samples"], batch["key"])
        for batch in loader
    ]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stream_gives_the_trainers_batches(
    case: tuple[dict[str, Any], ChunkDataset, dict[str, Any]], world_size: int
) -> None:
    """Else a student of one's own learns from other data than psl.train's."""
    config, chunks, of_order = case
    for rank in range(world_size):
        order = chunks.order(BATCH, rank=rank, world_size=world_size, **of_order)
        stream = chunks.stream(order)
        assert len(stream) == STEPS
        found = digests(stream) + digests(DataLoader(stream, batch_size=None))
        assert found == trainer_batches(config, rank=rank, world_size=world_size)
        assert len(set(found)) == 2 * STEPS


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_gives_them_too_with_any_number_of_workers(
    case: tuple[dict[str, Any], ChunkDataset, dict[str, Any]], workers: int
) -> None:
    """Else who wants worker processes gets other examples, or another order."""
    config, chunks, of_order = case
    if "mixup_alpha" in config["augment"]:
        with pytest.raises(ValueError, match="use stream"):
            chunks.sampler(chunks.order(BATCH))
        return
    for rank in range(2):
        sampler = chunks.sampler(
            chunks.order(BATCH, rank=rank, world_size=2, **of_order)
        )
        loader = DataLoader(chunks, batch_sampler=sampler, num_workers=workers)
        found = digests(loader) + digests(loader)
        assert found == trainer_batches(config, rank=rank, world_size=2)


def test_a_stream_resumes_in_the_middle_also_with_other_processes(
    case: tuple[dict[str, Any], ChunkDataset, dict[str, Any]],
) -> None:
    """Else an interrupted run of one's own sees some examples twice, some never."""
    config, chunks, of_order = case
    whole = trainer_batches(config, rank=1, world_size=2)
    for done in (1, STEPS - 1, STEPS, STEPS + 2):
        one = chunks.stream(chunks.order(BATCH, **of_order))
        epochs = iter(one), iter(one)
        for number in range(done):
            next(epochs[number // STEPS])
        state = pickle.loads(pickle.dumps(one.state_dict()))
        for epoch in epochs:
            epoch.close()  # type: ignore[attr-defined]
        two = chunks.stream(chunks.order(BATCH, rank=1, world_size=2, **of_order))
        two.load_state_dict(state)
        rest = digests(two) + (digests(two) if done < STEPS else [])
        assert rest == whole[done:]
        if not chunks.augment.mixup_alpha:
            sampler = chunks.sampler(two.order)
            sampler.load_state_dict(sampler.state_dict(done))
            loader = DataLoader(chunks, batch_sampler=sampler)
            assert digests(loader) == whole[done : (done // STEPS + 1) * STEPS]


def test_a_state_of_another_order_is_refused(dataset: Path, labels: Path) -> None:
    """Else a run continues on other examples than it began with, and says nothing."""
    chunks = psl.open_chunks(dataset, labels)
    state = chunks.stream(chunks.order(BATCH)).state_dict()
    others = [
        chunks.order(BATCH // 2),
        psl.open_chunks(dataset, labels, seed=1).order(BATCH),
        psl.open_chunks(dataset, labels, alpha=0.5).order(BATCH),
        psl.open_chunks(dataset, labels, augment={"gain_db": 1}).order(BATCH),
        psl.open_chunks(dataset, chunk_seconds=1).order(BATCH),
    ]
    for order in others:
        with pytest.raises(ValueError, match="open them as when the state was saved"):
            chunks.stream(order).load_state_dict(state)
    with pytest.raises(ValueError, match="order None"):
        chunks.stream(others[0]).load_state_dict({})


def test_chunks_by_number_are_all_chunks_as_they_are(
    dataset: Path, labels: Path
) -> None:
    """Else a map-style loop misses chunks, or sees augmented ones."""
    chunks = psl.open_chunks(dataset, labels, augment={"gain_db": 6}, seed=1)
    clips, stored = shards.open_dataset(dataset), psl.read_labels(labels)
    assert len(chunks) == 48 and chunks.sample_rate == 16000
    assert chunks.classes.mids == clips.classes.mids
    for number in (0, 1, 31, 47, -1):
        row, chunk = divmod(number % 48, 2)
        found = chunks[number]
        assert (found["key"], int(found["chunk"])) == (clips.keys[row], chunk)
        expected = clips.waveform(row)[chunk * 16000 : (chunk + 1) * 16000]
        np.testing.assert_array_equal(found["waveform"], expected)
        np.testing.assert_array_equal(found["target"], stored[row][chunk])
    for number in (48, -49):
        with pytest.raises(IndexError, match=f"no chunk {number} of 48"):
            chunks[number]
    seen = [key for batch in DataLoader(chunks, batch_size=7) for key in batch["key"]]
    assert seen == [key for key in clips.keys for _ in range(2)]
    visit = chunks[Visit(row=0, chunk=0, epoch=0, step=1)]
    assert not np.array_equal(visit["waveform"], chunks[0]["waveform"])
    again = pickle.loads(pickle.dumps(chunks))
    np.testing.assert_array_equal(again[5]["waveform"], chunks[5]["waveform"])


def test_options_that_would_do_nothing_are_refused(dataset: Path, labels: Path) -> None:
    """Else masks or a wrong length are asked for and silently left out."""
    for name in ("time_masks", "frequency_masks"):
        size = {"time_masks": "time_mask_seconds"}.get(name, "frequency_mask_share")
        with pytest.raises(ValueError, match=f"augment.{name}: not part of the ex"):
            psl.open_chunks(dataset, augment={name: 1, size: 0.1})
    with pytest.raises(ValueError, match="did you mean 'gain_db'"):
        psl.open_chunks(dataset, augment={"gain_dB": 1})
    with pytest.raises(ValueError, match="labels are for chunks of 1 s"):
        psl.open_chunks(dataset, labels, chunk_seconds=2)
    chunks = psl.open_chunks(dataset, labels)
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        chunks.order(BATCH, world_size=3)
    loader = DataLoader(chunks.stream(chunks.order(BATCH)), None, num_workers=1)
    with pytest.raises(RuntimeError, match="use num_workers=0"):
        next(iter(loader))


def test_clips_that_could_not_be_labelled_are_left_out_only_when_asked(
    dataset: Path, tmp_path: Path
) -> None:
    """Else a student learns that they hold no sound, or the order is another."""
    index = open_index(dataset, kind="audio")
    some = write_labels(tmp_path / "some", index, unlabelled=4)
    with pytest.raises(ValueError, match="have no labels"):
        psl.open_chunks(dataset, some)
    with pytest.raises(ValueError, match="do not have a label for each chunk"):
        shards.as_webdataset(dataset, some)
    chunks = psl.open_chunks(dataset, some, max_unlabelled=0.1)
    assert len(chunks) == 46
    assert [chunks[n]["key"] for n in (7, 8)] == [index.key(3), index.key(5)]


# webdataset


def wds_batches(pipeline: Any, size: int, **options: Any) -> list[str]:
    loader = DataLoader(pipeline, batch_size=size, **options)
    return [
        digest(b["waveform"], b["chunk_labels"], b["num_samples"], b["__key__"])
        for b in loader
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["weak", "pseudo"])
def test_a_webdataset_pipeline_gives_the_trainers_batches(
    dataset: Path, labels: Path, kind: str, workers: int
) -> None:
    """Else who trains with webdataset gets other chunks, labels or another order."""
    folder = labels if kind == "pseudo" else None
    config = {
        "run_dir": "unused",
        "data": {
            "audio": [str(dataset)],
            "labels": folder and [str(folder)],
            "valid": "train",
            "chunk_seconds": 1.0,
        },
        "global_batch_size": BATCH,
        "seed": SEED,
    }
    for world_size in (1, 2):
        for rank in range(world_size):
            found = []
            for epoch in range(2):
                pipeline = shards.as_webdataset(
                    dataset,
                    folder,
                    chunk_seconds=None if folder else 1.0,
                    global_batch_size=BATCH,
                    seed=SEED,
                    epoch=epoch,
                    rank=rank,
                    world_size=world_size,
                )
                assert isinstance(pipeline, webdataset.DataPipeline)
                found += wds_batches(pipeline, BATCH // world_size, num_workers=workers)
            assert found == trainer_batches(config, rank=rank, world_size=world_size)


def test_its_samples_work_with_webdatasets_own_stages(
    dataset: Path, labels: Path
) -> None:
    """Else the usual to_tuple, map and batched cannot follow."""
    pipeline = shards.as_webdataset(dataset, labels, global_batch_size=BATCH)
    sample = next(iter(pipeline))
    assert sample["waveform"].dtype == sample["chunk_labels"].dtype == np.float32
    assert Path(sample["__url__"]).parent == dataset
    stored = psl.read_labels(labels)[sample["__key__"]][sample["chunk"]]
    np.testing.assert_array_equal(sample["chunk_labels"], stored)
    clips = shards.open_dataset(dataset)
    row = clips[sample["__key__"]].row
    np.testing.assert_array_equal(sample["weak_labels"], clips.weak_labels([row])[0])
    composed = pipeline.compose(
        webdataset.to_tuple("waveform", "chunk_labels", "__key__"),
        webdataset.batched(BATCH),
    )
    waveforms, targets, keys = next(iter(composed))
    assert waveforms.shape == (BATCH, 16000) and targets.shape == (BATCH, 3)
    assert len(keys) == BATCH and keys[0] == sample["__key__"]
    assert sum(len(batch[2]) for batch in composed) == 48
    assert pickle.loads(pickle.dumps(pipeline)).pipeline is not None


def test_datasets_that_do_not_fit_are_refused_before_the_first_batch(
    dataset: Path, labels: Path, views: Path, tmp_path: Path
) -> None:
    """Else labels of other clips, or of chunks of another length, are learnt."""
    with pytest.raises(ValueError, match="labels of 3 views"):
        shards.as_webdataset(dataset, views)
    with pytest.raises(ValueError, match="chunks of 1 s, but chunk_seconds is 2"):
        shards.as_webdataset(dataset, labels, chunk_seconds=2)
    with pytest.raises(ShardError, match="holds audio, expected labels"):
        shards.as_webdataset(dataset, dataset)
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        shards.as_webdataset(dataset, labels, world_size=3)
