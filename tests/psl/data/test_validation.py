"""What a run is validated on, and when."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import average_precision_score

from psl import train
from psl.config import parse
from psl.config_values import read_words
from psl.data.examples import TrainingData
from psl.data.validation import Validation, held_out, open_validation, recording
from psl.training.average_run import average_run
from psl.training.config import AverageConfig, TrainConfig
from psl.training.datasets import open_data
from psl.weights.checkpoint import TrainingState, load_checkpoint, load_newest
from shards.dataset.reader import MemberReader
from shards.format.index import Index, open_index
from tests.jobs import start
from tests.learning import losses, tiny_config, torchrun

EVERY = ("valid_every=4", "epochs=3", "model.dropout=0.3", "average_best=2")


def trained(run: Path) -> TrainingState:
    """Where a run stands."""
    newest = load_newest(run)
    assert newest is not None
    return newest.training


def test_too_few_held_out_clips_are_named(
    dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint is chosen by the AP of one clip, and nobody knows."""
    audio = open_index(dataset, kind="audio")
    with caplog.at_level("WARNING"):
        rows = open_validation("held_out", 0.2, audio).rows
    message = caplog.text
    assert f"held out: {len(rows)} clips, fewer than 5 of 3 classes (Tone" in message
    caplog.clear()
    with caplog.at_level("WARNING"):
        open_validation(str(dataset), 0.2, audio)
    assert not caplog.text


def test_ancestors_count_in_training_in_validation_and_in_an_average(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An average would be measured by other labels than its checkpoints."""
    ontology = tmp_path / "o.json"
    entries = [("/m/high", ["/m/low"]), ("/m/low", []), ("/m/mid", [])]
    ontology.write_text(json.dumps([{"id": i, "child_ids": c} for i, c in entries]))
    words = tiny_config(tmp_path, dataset, f"data.ontology={ontology}", "epochs=1")
    train.main(words)
    data, valid, _ = open_data(parse(TrainConfig, read_words(words, TrainConfig)))
    averaged: list[Index] = []

    def stop(*_: object, valid: Validation, **__: object) -> None:
        averaged.append(valid.index)
        raise KeyboardInterrupt

    monkeypatch.setattr("psl.training.average_run.average_best", stop)
    with pytest.raises(KeyboardInterrupt):
        average_run(AverageConfig(run=str(tmp_path / "run")), Accelerator(cpu=True))
    expected = open_index(dataset, kind="audio").table.weak_targets(np.arange(24), 3)
    expected[expected[:, 0] == 1, 2] = 1
    for index in (data.audio.index, valid.index, *averaged):
        found = index.table.weak_targets(np.arange(24), 3)
        np.testing.assert_array_equal(found, expected)


def test_what_is_held_out_is_never_trained_on(dataset: Path) -> None:
    """Checkpoints would be chosen by clips that they have learnt by heart."""
    audio = open_index(dataset, kind="audio")
    valid = open_validation("held_out", 0.3, audio)
    assert 0 < len(valid.rows) < 24
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    plan = data.plan(4, seed=0, held_out=valid.rows)
    seen = {
        int(row) for epoch in range(9) for rows, _ in plan.steps(epoch) for row in rows
    }
    assert seen == set(range(24)) - set(valid.rows.tolist())


def test_a_run_is_validated_on_the_held_out_clips_alone(
    tmp_path: Path, dataset: Path
) -> None:
    """The option would do nothing, or nobody could tell later what was measured.

    The mAP is scikit-learn's, of the held-out clips scored one by one.
    """
    words = ["data.valid=held_out", "data.held_out_share=0.3", "epochs=3"]
    train.main(tiny_config(tmp_path, dataset, *words, "global_batch_size=4"))
    audio = open_index(dataset, kind="audio")
    rows = np.flatnonzero(held_out(audio, 0.3))
    said = json.loads((tmp_path / "run/result.json").read_text())
    assert said["validated_on"] == f"held out: {len(rows)} of 24 training clips"
    model, reader = load_checkpoint(tmp_path / "run").build_model(), MemberReader(audio)
    pcm = [reader.samples(row, 0, 32000) for row in rows.tolist()]
    waveforms = [torch.from_numpy(samples / 32768).float() for samples in pcm]
    with torch.no_grad():
        scores = torch.cat([model(wave.unsqueeze(0))[0] for wave in waveforms])
    targets = audio.table.weak_targets(rows, 3)
    expected = average_precision_score(targets, scores, average="macro")
    assert said["valid_mAP"] == pytest.approx(expected, abs=1e-6)


def test_all_clips_of_a_recording_are_held_out_together(dataset: Path) -> None:
    """The model would be validated on recordings that it was trained on.

    The keys are those of clips of AudioSet: id and start in ms. Those of adopted tars
    are anyone's: all of dog_1, dog_2, ... would be held out, and no dog be trained on.
    """
    assert recording(b"Y--ab_cd_30000") == recording(b"Y--ab_cd_120000")
    assert recording(b"Y--ab_cd_30000") == b"Y--ab_cd"
    assert recording(b"fan12") == b"fan12"
    audio = open_index(dataset, kind="audio")
    keys = np.array([f"dog{n % 2}_{n}" for n in range(24)]).astype("S")
    audio = dataclasses.replace(audio, table=dataclasses.replace(audio.table, key=keys))
    assert held_out(audio, 0.5).sum() in (0, 12, 24)
    adopted = dataclasses.replace(audio, provenances=({"adopted_by": "shards"},))
    assert held_out(adopted, 0.5).sum() not in (0, 12, 24)


def test_the_paper_s_protocol_validates_on_the_training_clips_and_says_so(
    tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure that means little would look like any other."""
    train.main(tiny_config(tmp_path, dataset, "data.valid=train", "epochs=1"))
    assert "says little about new ones" in capsys.readouterr().err
    values = json.loads((tmp_path / "run/result.json").read_text())
    assert values["validated_on"] == "the training clips (the paper's protocol)"
    train.main(tiny_config(tmp_path / "named", dataset, "epochs=1"))  # the same clips
    assert losses(tmp_path / "run") == losses(tmp_path / "named" / "run")
    named = json.loads((tmp_path / "named/run/result.json").read_text())
    assert named["validated_on"] == str(dataset)
    assert named["valid_mAP"] == values["valid_mAP"]


def test_a_share_that_holds_out_nothing_is_refused(
    tmp_path: Path, dataset: Path
) -> None:
    """The run would die at its first validation."""
    words = ["data.valid=held_out", "data.held_out_share=1e-9"]
    with pytest.raises(ValueError, match="holds out 0 of 24 clips; choose another"):
        train.main(tiny_config(tmp_path, dataset, *words))


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of 18 steps, 6 an epoch, validated each 4; not to be changed."""
    folder = tmp_path_factory.mktemp("often")
    train.main(tiny_config(folder, dataset, *EVERY))
    return folder / "run"


def test_validation_comes_each_so_many_steps_and_at_the_last(often: Path) -> None:
    """Epochs of full AudioSet take a day: the best checkpoint would be passed over."""
    assert [step for step, _ in trained(often).history] == [4, 8, 12, 16, 18]
    records = map(json.loads, (often / "metrics.jsonl").read_text().splitlines())
    found = [(r["step"], r["epoch"]) for r in records if "valid_mAP" in r]
    assert found == [(4, 0), (8, 1), (12, 1), (16, 2), (18, 2)]


def test_validating_more_often_changes_nothing_else(
    tmp_path: Path, dataset: Path, often: Path
) -> None:
    """To look would be to disturb."""
    words = [word for word in EVERY if "valid_every" not in word]
    train.main(tiny_config(tmp_path, dataset, *words))
    assert losses(tmp_path / "run") == losses(often)
    assert [step for step, _ in trained(tmp_path / "run").history] == [6, 12, 18]


def test_patience_counts_validations_inside_an_epoch_too(
    tmp_path: Path, dataset: Path
) -> None:
    """A run would go on for an epoch of days after it stopped learning."""
    words = ["valid_every=2", "epochs=9", "patience=2", "optim.learning_rate=1e-12"]
    train.main(tiny_config(tmp_path, dataset, *words))
    history = trained(tmp_path / "run").history
    best = max(history, key=lambda entry: (entry[1], -entry[0]))[0]
    assert history[-1][0] == best + 4
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize(
    "fault",
    [
        "step=8,point=evaluate,action=kill",
        "step=12,point=checkpoint.before,action=kill",
        "step=15,point=step,action=kill",
    ],
)
def test_a_run_validated_inside_epochs_goes_on_after_a_kill(
    tmp_path: Path, dataset: Path, often: Path, fault: str
) -> None:
    """A validation would be left out or done twice, and another model be the best."""
    words = tiny_config(tmp_path, dataset, *EVERY)
    job = start(tmp_path, words, fault=fault)
    assert job.wait() == [-9], job.output
    job = start(tmp_path, words)
    assert job.wait() == [0], job.output
    assert losses(tmp_path / "run") == losses(often)
    assert trained(tmp_path / "run").history == trained(often).history
    names = ("result.json", "checkpoints/average/model.safetensors")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (often / name).read_bytes()


def test_two_ranks_validate_the_held_out_clips_and_average(
    tmp_path: Path, dataset: Path
) -> None:
    """A job of several processes would hang, or score clips twice."""
    words = ["data.valid=held_out", "data.held_out_share=0.3", "global_batch_size=4"]
    words += ["valid_every=3", "average_best=2", "epochs=1", "optim.ema_decay=0.5"]
    result = torchrun(2, "psl.train", *tiny_config(tmp_path, dataset, *words))
    assert result.returncode == 0, result.stderr
    values = json.loads((tmp_path / "run/result.json").read_text())
    assert len(values["average"]["steps"]) == 2
    assert torch.isfinite(torch.tensor(values["average"]["valid_mAP"]))
