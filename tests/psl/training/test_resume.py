"""Resuming: what is kept in a checkpoint, and what may differ from the run so far."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from psl import train
from psl.training.config import TrainConfig
from psl.training.resume import ON_RESUME
from psl.weights.checkpoint import checkpoint_folder, list_checkpoints, load_newest
from tests.jobs import start
from tests.learning import losses, tiny_config

WINDOW = ("log_every=5", "save_every=2")


def killed(folder: Path, words: list[str], step: int, ranks: int = 1) -> None:
    """Run a job that is killed in ``step``."""
    job = start(folder, words, fault=f"step={step},point=step,action=kill", ranks=ranks)
    assert job.wait()[0] == -signal.SIGKILL, job.output


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_record_of_the_loss_counts_the_steps_before_a_kill(
    tmp_path: Path, dataset: Path, ranks: int
) -> None:
    """Curves would have dents wherever a job was preempted.

    A record is the mean of 5 steps; the kill comes in step 9, the checkpoint is of 8.
    """
    runs = {}
    for name, step in (("whole", None), ("killed", 9)):
        words = tiny_config(tmp_path / name, dataset, *WINDOW)
        if step is not None:
            killed(tmp_path / name, words, step, ranks)
        job = start(tmp_path / name, words, ranks=ranks)
        assert job.wait() == [0] * ranks, job.output
        runs[name] = losses(tmp_path / name / "run")
    assert list(runs["whole"]) == [5, 6, 10, 12]
    assert runs["killed"] == runs["whole"]


def test_the_loss_on_record_is_the_mean_of_the_steps(
    tmp_path: Path, dataset: Path
) -> None:
    """A sum that is carried over a resume could be counted twice, or lost."""
    train.main(tiny_config(tmp_path / "each", dataset))
    train.main(tiny_config(tmp_path / "fifth", dataset, "log_every=5"))
    each, fifth = (losses(tmp_path / n / "run") for n in ("each", "fifth"))
    assert fifth[5] == pytest.approx(sum(each[s] for s in range(1, 6)) / 5, rel=1e-12)
    assert fifth[6] == each[6]


def test_a_checkpoint_of_an_older_version_without_the_sum_is_resumed(
    tmp_path: Path, dataset: Path
) -> None:
    """After an update of the program, unfinished runs would be lost."""
    words = tiny_config(tmp_path, dataset, *WINDOW)
    killed(tmp_path, words, 9)
    folder = list_checkpoints(tmp_path / "run")[-1]
    values = json.loads((folder / "state.json").read_text())
    assert values["training"].pop("loss_steps") == 2
    assert values["training"].pop("loss_sum") > 0
    (folder / "state.json").write_text(json.dumps(values))
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    manifest["sha256"]["state.json"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))
    train.main(words)
    assert list(losses(tmp_path / "run")) == [5, 6, 10, 12]


def test_every_key_has_a_rule_for_resuming() -> None:
    """A new key would change half of a run unnoticed, or never be changeable."""
    assert ON_RESUME.keys() == {f.name for f in dataclasses.fields(TrainConfig)}


def saved_config(folder: Path) -> dict[str, Any]:
    """What config.yaml of the run says."""
    values: dict[str, Any] = yaml.safe_load((folder / "run/config.yaml").read_text())
    return values


def test_another_length_under_a_cosine_schedule_needs_consent(
    tmp_path: Path, dataset: Path
) -> None:
    """The learning rate would jump from one schedule to another, unnoticed.

    The factor is (1 + cos) / 2, at 5/12 of the way before and at 6/24 after.
    """
    words = tiny_config(tmp_path, dataset, "save_every=2", "optim.schedule=cosine")
    killed(tmp_path, words, 7)
    longer = [*words, "epochs=4"]
    with pytest.raises(ValueError, match="epochs = 2, not 4; the learning rate would"):
        train.main(longer)
    consent = [*longer, "accept_changes=[epochs]"]
    train.main(consent)
    records = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    rates = {r["step"]: r["learning_rate"] for r in records if "loss" in r}
    assert rates[6] == pytest.approx(6e-3 * 0.6294095, rel=1e-5)  # cos(5/12 * pi)
    assert rates[7] == pytest.approx(6e-3 * 0.8535534, rel=1e-5)  # cos(6/24 * pi)
    assert saved_config(tmp_path)["epochs"] == 4
    facts = json.loads((tmp_path / "run/run.json").read_text())
    change = {"after_step": 6, "key": "epochs", "before": 2, "now": 4}
    assert facts["changes"] == [change]
    train.main(consent)  # the same command, as batch systems run it again
    with pytest.raises(ValueError, match="begun with epochs = 4, not 2"):
        train.main(words)


def test_a_finished_run_can_be_made_longer_under_a_constant_rate(
    tmp_path: Path, dataset: Path
) -> None:
    """Who stopped too early would have to begin again.

    It must come out as if it had been that long from the start.
    """
    train.main(tiny_config(tmp_path / "a", dataset, "epochs=3"))
    train.main(tiny_config(tmp_path / "b", dataset, "epochs=2"))
    words = tiny_config(tmp_path / "b", dataset, "epochs=3")
    killed(tmp_path / "b", words, 14)
    assert not (tmp_path / "b/run/result.json").exists()  # it is not finished now
    train.main(words)
    runs = [tmp_path / name / "run" for name in ("a", "b")]
    assert losses(runs[1]) == losses(runs[0])
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert results[1]["steps"] == results[0]["steps"] == 18
    assert results[1]["valid_mAP"] == results[0]["valid_mAP"]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("optim.learning_rate=1e-4", "optim.learning_rate"),
        ("optim.clip_grad_norm=1", "optim.clip_grad_norm"),
        ("precision=bf16", "precision"),
        ("augment.gain_db=3", "augment.gain_db"),
        ("valid_every=3", "valid_every"),
    ],
)
def test_what_changes_the_rest_of_a_run_needs_consent(
    tmp_path: Path, dataset: Path, word: str, name: str
) -> None:
    """Half of a run would be one experiment and half another."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    words = tiny_config(tmp_path, dataset, "epochs=2", word)
    with pytest.raises(ValueError, match=rf"add accept_changes=\[{name}\]"):
        train.main(words)
    train.main([*words, f"accept_changes=[{name}]"])
    newest = load_newest(tmp_path / "run")
    assert newest is not None and newest.training.epoch == 2


@pytest.mark.parametrize("word", ["model.width=0.5", "seed=5", "global_batch_size=4"])
def test_what_makes_another_run_is_refused_with_consent_too(
    tmp_path: Path, dataset: Path, word: str
) -> None:
    """The checkpoint would be used for a model, or an order, that it is not of."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    name = word.partition("=")[0]
    words = tiny_config(tmp_path, dataset, "epochs=1", word)
    with pytest.raises(ValueError, match=f"begun with {name} = .*another run_dir"):
        train.main([*words, f"accept_changes=[{name}]"])


def test_consent_to_an_unknown_key_is_refused(tmp_path: Path, dataset: Path) -> None:
    """A typo would look like consent that was not needed."""
    words = tiny_config(tmp_path, dataset, "accept_changes=[epoch]")
    with pytest.raises(ValueError, match="unknown key 'epoch', expected one of optim"):
        train.main(words)


def test_a_run_without_its_configuration_is_not_resumed(
    tmp_path: Path, dataset: Path
) -> None:
    """Anything could differ from what it was begun with."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    (tmp_path / "run/config.yaml").unlink()
    with pytest.raises(ValueError, match="config.yaml: not found, but the run has"):
        train.main(tiny_config(tmp_path, dataset, "epochs=1"))


def test_a_change_that_needs_no_consent_is_in_the_configuration_afterwards(
    tmp_path: Path, dataset: Path
) -> None:
    """psl.average would look for data where it was before it was moved."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    train.main(tiny_config(tmp_path, dataset, "epochs=1", "keep_best=2"))
    assert saved_config(tmp_path)["keep_best"] == 2
    assert checkpoint_folder(tmp_path / "run", 6).exists()
