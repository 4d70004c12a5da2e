"""What is copied to a GPU, where and when; a device that copies late stands for it."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from psl import evaluate, label, train
from psl.data import batch_memory
from psl.data.batch import Batch, Group, prepared_by, to_device
from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.training import batches
from psl.training.online import OnlineTeacher
from tests.late_device import LateDevice
from tests.learning import losses, teacher_config, tiny_config

CPU, GPU = torch.device("cpu"), torch.device("cuda")
UNREADABLE = torch.device("meta")
"""A device from which nothing can be copied back: trying to is an error."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, dataset))
    return folder / "run"


def device_behind(monkeypatch: pytest.MonkeyPatch) -> LateDevice:
    """What all jobs copy their batches to from now on; three copies behind."""
    late = LateDevice(lag=3, shows_early=True)
    monkeypatch.setattr(batch_memory, "copier_for", lambda _: late)
    return late


def assert_kept_until_copied(late: LateDevice, shapes: Mapping[Any, int]) -> None:
    """``shapes`` of all copies, and how many; none was of another batch."""
    late.finish(3)
    assert Counter(late.copied) == shapes
    assert late.num_wrong == late.num_lost == 0
    gc.collect()
    assert late.num_alive == 0


def test_labels_are_scored_from_memory_that_reading_threads_write_to(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU would wait for a copy within the host, or score other chunks."""
    words = [f"teacher={teacher}", f"audio={dataset}", "chunk_seconds=1"]
    words += ["batch_size=3", "fill=repeat", "fill_seconds=2"]
    label.main([*words, f"out={tmp_path / 'plain'}"])
    late = device_behind(monkeypatch)
    label.main([*words, f"out={tmp_path / 'late'}"])
    # 24 clips of 2 s in 3 shards: 16 chunks each, 5 batches of 3 and one of 1
    assert_kept_until_copied(late, {(3, 32000): 15, (1, 32000): 3})
    assert late.threads and all(name.startswith("label read") for name in late.threads)
    names = [f"{number:06d}.tar" for number in range(3)]
    late_bytes, plain_bytes = (
        [(tmp_path / folder / name).read_bytes() for name in names]
        for folder in ("late", "plain")
    )
    assert late_bytes == plain_bytes


def test_clips_are_scored_from_memory_that_loader_threads_write_to(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation would keep the GPU waiting, batch by batch."""
    words = [f"checkpoint={teacher}", f"audio={dataset}", "batch_size=2"]
    evaluate.main([*words, f"out={tmp_path / 'plain'}"])
    late = device_behind(monkeypatch)
    evaluate.main([*words, f"out={tmp_path / 'late'}"])
    assert_kept_until_copied(late, {(2, 32000): 12})
    assert late.threads and "MainThread" not in late.threads
    found, expected = (
        json.loads((tmp_path / folder / "metrics.json").read_text())["mAP"]
        for folder in ("late", "plain")
    )
    assert found == expected


def test_a_run_has_the_same_losses_from_a_device_that_copies_late(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students would be trained on samples of one clip and targets of another."""
    labels = tmp_path / "labels"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={labels}"]
    label.main([*words, "chunk_seconds=1"])
    words = [f"data.labels=[{labels}]", "data.alpha=0.5", "loader.threads=3"]
    train.main(tiny_config(tmp_path / "plain", dataset, *words))
    late = device_behind(monkeypatch)
    train.main(tiny_config(tmp_path / "late", dataset, *words))
    # 2 epochs of 6 steps of 8 chunks of 3 classes, each validated on 24 clips
    shapes = {(8, 16000): 12, (8, 3): 12, (24, 32000): 2}
    assert_kept_until_copied(late, shapes)
    assert losses(tmp_path / "late/run") == losses(tmp_path / "plain/run")


def test_what_is_pinned_already_is_not_copied_again_on_its_way_to_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy that threads save would be made all the same, or be waited for."""
    done: list[tuple[str, Any]] = []

    def pin(tensor: Tensor) -> Tensor:
        done.append(("pin", None))
        return tensor

    def move(tensor: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
        done.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", move)
    to_device(np.zeros(3, np.int16), GPU)
    assert done == [("pin", None), ("cuda", True)]
    done.clear()
    to_device(np.zeros(3, np.int16), CPU)
    assert done == [("cpu", False)]


def test_what_a_teacher_prepared_is_put_as_a_whole() -> None:
    """A feature left behind would be copied by the thread that scores."""
    inputs = {"a": torch.ones(2, 3), "b": torch.ones(2)}
    prepared = [None, [Group(torch.tensor([1, 0]), inputs, whole=True)]]
    found = prepared_by(prepared, lambda tensor: tensor.to(UNREADABLE))
    assert found[0] is None and found[1] is not None
    (group,) = found[1]
    tensors = [group.positions, *group.inputs.values()]
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 3
    assert group.inputs.keys() == {"a", "b"} and group.whole


class Features:
    """A teacher's model with features of its own, made of the samples on the host."""

    has_features = True

    def prepare(self, waveform: Tensor, lengths: Tensor) -> list[list[Group] | None]:
        """As psl/teachers/member.py; fails where reading back would wait for a GPU."""
        heard = waveform.cpu() * lengths.cpu()[:, None]
        places = torch.arange(len(heard))
        return [[Group(places, {"features": heard}, whole=True)]]


def run_of(make: Callable[..., Batch], device: torch.device) -> Any:
    """As much of a run as batches() asks for, with one step."""
    chosen = (np.array([0, 1]), np.array([0, 0]))
    return SimpleNamespace(
        accelerator=SimpleNamespace(device=device, process_index=0, num_processes=1),
        attempt=SimpleNamespace(inject=lambda *_: None),
        config=SimpleNamespace(seed=0, loader=LoaderConfig(threads=1)),
        data=SimpleNamespace(
            steps=lambda *_, **__: [chosen],
            choose_views=lambda *_, **__: None,
            batch=make,
            memory=BatchMemory(),
        ),
        mixup=None,
        online=OnlineTeacher(SimpleNamespace(model=Features()), alpha=1.0),  # type: ignore[arg-type]
        plan=None,
        schedule=SimpleNamespace(steps_done=lambda state: 0),
    )


def test_an_online_teacher_prepares_before_the_batch_goes_to_the_gpu() -> None:
    """Loader threads would wait for all steps that are queued there, at every batch."""

    def make(rows: Any, chunks: Any, device: torch.device, *_: Any) -> Batch:
        return Batch(
            pcm=to_device(np.full((2, 4), 16384, np.int16), device),
            num_samples=to_device(np.array([4, 2]), device),
            targets=to_device(np.zeros((2, 3), np.float32), device),
        )

    state: Any = SimpleNamespace(epoch=0, step_in_epoch=0)
    (batch,) = batches.batches(run_of(make, UNREADABLE), state)
    assert batch.prepared is not None and batch.prepared[0] is not None
    features = batch.prepared[0][0].inputs["features"]
    tensors = (batch.pcm, batch.num_samples, batch.targets, features)
    assert {tensor.device for tensor in tensors} == {UNREADABLE}
    (batch,) = batches.batches(run_of(make, CPU), state)
    assert batch.prepared is not None and batch.prepared[0] is not None
    assert batch.prepared[0][0].inputs["features"][:, 0].tolist() == [2.0, 1.0]


def test_a_batch_on_another_device_is_known_to_be_whole_there() -> None:
    """A student with an online teacher would ask its GPU, and have slower attention."""
    batch = Batch(
        torch.zeros(2, 4, dtype=torch.int16),
        torch.full((2,), 4),
        torch.zeros(2, 3),
        is_whole=True,
        prepared=[None],
    )
    there = batch.put(lambda tensor: tensor.to(UNREADABLE))
    assert there.is_whole and there.prepared == [None]
    assert {there.pcm.device, there.num_samples.device, there.targets.device} == {
        UNREADABLE
    }
