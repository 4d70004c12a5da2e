"""Trackers: TensorBoard's extras, and others that work, raise or hang."""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from psl import train
from psl.training import trackers
from tests.learning import tiny_config


class FakeWandb(types.ModuleType):
    """What accelerate calls of wandb: init, config.update, log, finish."""

    def __init__(self, *, fail_at: int | None = None, hang: bool = False) -> None:
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace(name="wandb")  # type: ignore[assignment]
        self.begun: list[dict[str, Any]] = []
        self.settings: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.num_finished = 0
        self.fail_at, self.hang = fail_at, hang
        self.released = threading.Event()
        self.config = types.SimpleNamespace(
            update=lambda values, **_: self.settings.append(values)
        )

    def init(self, **settings: Any) -> FakeWandb:
        self.begun.append(settings)
        return self

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        if self.hang:
            self.released.wait(60)
        if self.fail_at is not None and len(self.logged) >= self.fail_at:
            raise ConnectionError("the server\nis gone")
        assert step is not None
        self.logged.append((step, values))

    def finish(self) -> None:
        self.num_finished += 1


def install(monkeypatch: pytest.MonkeyPatch, module: FakeWandb) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def steps_of(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_another_tracker_gets_every_record_and_a_resumed_run_continues_there(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each restart on a preemptible machine would be a new run on the page."""
    fake = install(monkeypatch, FakeWandb())
    words = ("tracker=[tensorboard, wandb]", "tracker_project=mine")
    train.main(tiny_config(tmp_path, dataset, "epochs=1", *words))
    run = tmp_path / "run"
    assert [step for step, _ in fake.logged] == steps_of(run)
    assert "valid_mAP" in fake.logged[-1][1]
    assert fake.begun[0]["project"] == "mine" and fake.num_finished == 1
    assert fake.settings[0]["optim.learning_rate"] == 6e-3
    train.main(tiny_config(tmp_path, dataset, "epochs=2", *words))
    assert fake.begun[1]["id"] == fake.begun[0]["id"]
    assert fake.begun[1]["resume"] == "allow"
    assert [step for step, _ in fake.logged] == steps_of(run)
    assert len(fake.settings) == 1


def test_a_tracker_that_dies_is_left_with_one_warning(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A week of training would end because a web page is down."""
    install(monkeypatch, FakeWandb(fail_at=2))
    words = tiny_config(tmp_path, dataset, "epochs=1", "tracker=[wandb]")
    with caplog.at_level("WARNING"):
        train.main(words)
    told = [r.getMessage() for r in caplog.records if "tracker wandb" in r.getMessage()]
    assert len(told) == 1 and "the server" in told[0] and "\n" not in told[0]
    assert (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_hangs_holds_up_no_step(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A firewall that swallows packets would hold a GPU for hours."""
    fake = install(monkeypatch, FakeWandb(hang=True))
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    words = tiny_config(tmp_path, dataset, "epochs=1", "tracker=[wandb]")
    with caplog.at_level("WARNING"):
        train.main(words)
    fake.released.set()
    assert (tmp_path / "run" / "result.json").exists()
    assert "has not finished in 0.2 s" in caplog.text


def test_tensorboard_that_cannot_write_stops_nothing(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of that name, or a full disk, would end the run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("")
    with caplog.at_level("WARNING"):
        train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    assert "tracker tensorboard failed" in caplog.text
    assert (tmp_path / "run" / "result.json").exists()


def test_tensorboard_has_curves_pictures_sound_and_hyperparameters(
    dataset: Path, tmp_path: Path
) -> None:
    """People could not see or hear what the numbers are about."""
    pytest.importorskip("matplotlib")
    words = ("epochs=1", "board.curves=[Tone low, /m/mid]", "board.clips=2")
    train.main(tiny_config(tmp_path, dataset, *words))
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert len(tags["images"]) == 2 and len(tags["audio"]) == 2
    sound = board.Audio(tags["audio"][0])[0]
    assert (sound.sample_rate, sound.length_frames) == (16000.0, 32000)
    curves = {"curves/Tone low", "curves/Tone mid"}
    assert curves <= set(tags["tensors"])
    plugin = board.PluginTagToContent("hparams")
    assert "_hparams_/experiment" in plugin
    assert b"optim.learning_rate" in plugin["_hparams_/experiment"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tracker=[wandbb]", "'tensorboard', 'wandb', 'mlflow' or 'trackio'"),
        ("tracker=[mlflow]", "mlflow is not installed; pip install mlflow"),
        ("board.curves=[Tone hig]", "did you mean 'Tone high'"),
        ("board.clips=-1", "board.clips"),
    ],
)
def test_a_tracker_or_class_that_there_is_not_is_said_before_training(
    word: str,
    message: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A typo would show after hours, or never."""
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        train.main(tiny_config(tmp_path, dataset, word))
    assert not (tmp_path / "run" / "checkpoints").exists()
