"""loader.transcode: the batches are the same, and each clip is decoded once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from psl.config import parse
from psl.data import loader as psl_loader
from psl.data.config import LoaderConfig
from psl.data.examples import TrainingData
from psl.data.loader import fetch_ahead
from psl.detection.config import EventsConfig
from psl.evaluation.config import EvaluateConfig
from tests.conftest import Run, write_source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """24 clips of 2 s as FLAC in 3 shards, not to be changed."""
    folder = tmp_path_factory.mktemp("flac")
    source = write_source(folder / "source", num_clips=24)
    words = [*source.pack_arguments(folder / "packed"), "--codec", "flac"]
    result = run("shards.pack", *words)
    assert result.returncode == 0, result.stderr
    return folder / "packed"


def opened(folder: Path, **loader: object) -> TrainingData:
    config = parse(LoaderConfig, {"threads": 2, **loader}, where="loader")
    return TrainingData.open(
        [str(folder)], None, chunk_seconds=0.5, alpha=1.0, loader=config
    )


def epoch_of(data: TrainingData, epoch: int) -> list[bytes]:
    """Samples and targets of each batch, by way of training's own order."""
    plan = data.plan(8, seed=3)
    steps = data.steps(plan, epoch, start=0, rank=0, world_size=1)
    batches = fetch_ahead(lambda step: data.batch(*step, CPU), steps, data.loader)
    return [b.pcm.numpy().tobytes() + b.targets.numpy().tobytes() for b in batches]


def wait_for_copies(data: TrainingData) -> None:
    """Until the threads of an unfinished epoch have made a copy of each shard."""
    steps = data.steps(data.plan(8, seed=3), 0, start=0, rank=0, world_size=1)
    copies, deadline = data.audio.copies, time.monotonic() + 120
    assert copies is not None
    for _ in steps:
        while not all(map(copies.is_there, range(3))):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_training_sees_the_same_batches_and_decodes_no_clip_twice(
    flac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses would depend on a cache, or the second epoch be as slow as the first."""
    plain = opened(flac)
    expected = [epoch_of(plain, epoch) for epoch in (0, 1)]
    data = opened(flac, transcode="wav", cache=str(tmp_path / "cache"))
    assert epoch_of(data, 0) == expected[0]
    wait_for_copies(data)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded although there is a copy")

    monkeypatch.setattr("shards.audio.members.decode", refuse)
    assert epoch_of(data, 1) == expected[1]
    again = opened(flac, transcode="wav", cache=str(tmp_path / "cache"))
    wait_for_copies(again)
    assert epoch_of(again, 1) == expected[1]


def test_what_does_not_fit_is_said_with_the_size_that_would(
    flac: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user would wonder why the second epoch is no faster."""
    psl_loader.open_cache.cache_clear()
    one_shard = 8 * 2 * 32000 + 32
    limit = {"cache_gb": 1.5 * one_shard / 1e9, "cache": str(tmp_path / "cache")}
    data = opened(flac, transcode="wav", **limit)
    assert "2 of 3 shards do not fit in the cache decoded" in caplog.text
    assert f"all need {3 * one_shard / 1e9:.3g} GB" in caplog.text
    assert epoch_of(data, 0) == epoch_of(opened(flac), 0)


def test_wav_shards_have_no_copies(dataset: Path, tmp_path: Path) -> None:
    """The disk would hold everything twice for nothing."""
    data = opened(dataset, transcode="wav", cache=str(tmp_path / "cache"))
    assert data.audio.copies is None


def test_jobs_that_read_each_clip_once_refuse_to_keep_them() -> None:
    """A setting would do nothing, or fill a disk for nothing."""
    audio = {"audio": "a", "checkpoint": "c", "loader": {"transcode": "wav"}}
    with pytest.raises(Exception, match="an evaluation reads each once"):
        parse(EvaluateConfig, {**audio, "out": "o"}, where="evaluate")
    with pytest.raises(Exception, match="detecting events reads each once"):
        parse(EventsConfig, {**audio, "out": "o"}, where="events")


def test_copies_get_done_where_an_epoch_takes_less_than_a_copy(
    flac: Path, tmp_path: Path
) -> None:
    """A small dataset would be decoded in every epoch, and copied only in part."""
    data = opened(flac, transcode="wav", cache=str(tmp_path / "cache"))
    assert data.audio.copies is not None
    deadline = time.monotonic() + 120
    while not all(map(data.audio.copies.is_there, range(3))):
        steps = data.steps(data.plan(8, seed=3), 0, start=0, rank=0, world_size=1)
        next(steps)
        time.sleep(0.02)
        del steps  # the epoch is over
        assert time.monotonic() < deadline
