"""Training: the whole way, resuming, what is kept and what is refused."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._dynamo.utils import counters

from psl import label, train
from psl.data.examples import TrainingData
from psl.distributed.runtime import move_model
from psl.models.families import build_from_config
from psl.training.optim import put_optimizer_tensors
from psl.weights.checkpoint import (
    best_steps,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    load_optimizer,
)
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from tests.conftest import MIDS, Run, write_source
from tests.learning import distance_moved, losses, state, tiny_config, torchrun

BEFORE_TRAINING = {"lock", "status.json"}
"""The files of a run that was refused."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run that has learnt the tones; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(tiny_config(folder, dataset, "epochs=12", "keep_best=2"))
    return folder / "run"


@pytest.fixture(scope="module")
def labels(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, dataset: Path
) -> Path:
    """The teacher's labels of every second; not to be changed."""
    out = tmp_path_factory.mktemp("labels") / "out"
    words = [f"teacher={teacher}", f"audio={dataset}", f"out={out}", "chunk_seconds=1"]
    label.main(words)
    return out


def test_training_on_weak_labels_learns_the_tones(teacher: Path) -> None:
    """Nothing else would be worth testing."""
    history = load_checkpoint(teacher).training.history
    assert max(mean_ap for _, mean_ap in history) > 0.9
    logged = losses(teacher)
    assert logged[72] < 0.75 * logged[1] and len(logged) == 72


def test_a_run_leaves_the_files_it_promises(teacher: Path) -> None:
    """Nobody could tell later what made a model."""
    facts = json.loads((teacher / "run.json").read_text())
    assert facts["version"] == "0.1.0" and facts["world_size"] == 1
    assert {"command", "commit", "torch", "started"} <= facts.keys()
    assert "width: 0.25" in (teacher / "config.yaml").read_text()
    result = json.loads((teacher / "result.json").read_text())
    assert result["steps"] == 72 and result["valid_mAP"] > 0.9
    assert (teacher / "checkpoints" / result["best_checkpoint"]).is_dir()
    board = EventAccumulator(str(teacher / "tensorboard"))
    board.Reload()
    assert {"loss", "valid_mAP", "wait_share"} <= set(board.Tags()["scalars"])
    assert len(board.Scalars("loss")) == 72


def test_only_the_best_and_the_newest_checkpoints_stay(teacher: Path) -> None:
    """A long run would fill the disk, or lose its best model."""
    newest = load_newest(teacher)
    assert newest is not None
    history = newest.training.history
    best = {f"step_{step:08d}" for step in best_steps(history, 2)}
    names = {folder.name for folder in list_checkpoints(teacher)}
    assert names == best | {"step_00000066", "step_00000072"}
    assert (
        load_checkpoint(teacher).folder.name == f"step_{best_steps(history, 1)[0]:08d}"
    )


def test_a_finished_run_does_nothing_when_started_again(
    teacher: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make demo` would train everything again."""
    before = (teacher / "metrics.jsonl").read_bytes()
    train.main(tiny_config(teacher.parent, dataset, "epochs=12", "keep_best=2"))
    assert (teacher / "metrics.jsonl").read_bytes() == before
    assert "best validation mAP" in capsys.readouterr().out


def test_a_student_of_pseudo_labels_learns_what_the_teacher_knows(
    tmp_path: Path, dataset: Path, labels: Path
) -> None:
    """The paper's method would not work."""
    words = [f"data.labels=[{labels}]", "epochs=12"]
    train.main(tiny_config(tmp_path, dataset, *words))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["valid_mAP"] > 0.9


def test_targets_are_the_labels_of_the_very_chunk_mixed_by_alpha(
    dataset: Path, labels: Path
) -> None:
    """Students would learn from another chunk's labels. Read by numpy and tarfile."""
    data = TrainingData.open(
        [str(dataset)], [str(labels)], chunk_seconds=1.0, alpha=0.25
    )
    row, chunk = 13, 1
    key = data.audio.index.key(row)
    batch = data.batch(np.array([row]), np.array([chunk]), torch.device("cpu"))
    for path in labels.glob("*.tar"):
        with tarfile.open(path) as tar:
            if f"{key}.npy" in tar.getnames():
                member = tar.extractfile(f"{key}.npy")
                assert member is not None
                pseudo = np.load(io.BytesIO(member.read()))[chunk]
    number = int(key.removeprefix("clip").split("_")[0])
    weak = np.zeros(3)
    weak[[number % 3, number % 2]] = 1
    np.testing.assert_allclose(batch.targets[0], 0.25 * pseudo + 0.75 * weak, atol=1e-6)
    pcm = MemberReader(open_index(dataset, kind="audio")).samples(row, 16000, 32000)
    np.testing.assert_array_equal(batch.waveform[0] * 32768, pcm)


def test_training_ends_when_patience_does(tmp_path: Path, dataset: Path) -> None:
    """A run would burn its whole budget after it stopped learning."""
    words = ["epochs=30", "patience=2", "optim.learning_rate=1e-12"]
    train.main(tiny_config(tmp_path, dataset, *words))
    history = load_newest(tmp_path / "run").training.history  # type: ignore[union-attr]
    best = best_steps(history, 1)[0]
    assert len(history) < 30 and history[-1][0] == best + 2 * 6


def test_a_run_killed_at_any_moment_goes_on_to_the_same_losses(
    tmp_path: Path, dataset: Path
) -> None:
    """A preempted job would not give the result it was going to give."""
    words = ["epochs=4", "save_every=4", "model.dropout=0.3"]
    train.main(tiny_config(tmp_path / "whole", dataset, *words))
    undisturbed = losses(tmp_path / "whole" / "run")
    killed = tiny_config(tmp_path / "killed", dataset, *words)
    metrics = tmp_path / "killed" / "run" / "metrics.jsonl"
    for last_step in (5, 11, 17):
        command = [sys.executable, "-m", "psl.train", *killed]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and f'"step": {last_step},' in metrics.read_text():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    train.main(killed)
    assert losses(tmp_path / "killed" / "run") == undisturbed
    assert list((tmp_path / "killed" / "run" / "checkpoints").glob(".*")) == []


def test_a_run_goes_on_without_the_weights_it_started_from(
    tmp_path: Path, teacher: Path, dataset: Path
) -> None:
    """It would begin again at its start, or need a folder that is long gone."""
    start = shutil.copytree(teacher, tmp_path / "start")
    words = tiny_config(tmp_path, dataset, "epochs=2", f"start={start}")
    train.main(words)
    run_dir = tmp_path / "run"
    undisturbed = losses(run_dir)
    shutil.rmtree(list_checkpoints(run_dir)[-1])  # as if killed in the second epoch
    (run_dir / "result.json").unlink()
    shutil.rmtree(start)
    train.main(words)
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    assert [r["step"] for r in records if "loss" in r] == [*undisturbed]
    assert losses(run_dir) == undisturbed


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, teacher: Path
) -> None:
    """A disk error in one file would lose a whole run."""
    run_dir = shutil.copytree(teacher, tmp_path / "run")
    newest = list_checkpoints(run_dir)[-1] / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="step_00000072.*falling back"):
        checkpoint = load_newest(run_dir)
    assert checkpoint is not None and checkpoint.folder.name == "step_00000066"


def test_the_launcher_s_precision_counts_where_the_config_says_none(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--mixed_precision bf16` would train in float32 without a word."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    assert "precision: bf16" in (tmp_path / "run" / "config.yaml").read_text()


def test_two_processes_share_each_batch_of_the_one_process_order(
    tmp_path: Path, dataset: Path
) -> None:
    """Results would depend on how many GPUs were free.

    BatchNorm sees half a batch on each rank, so the first loss must be the mean over
    the two halves of the first global batch, computed here without any of the loops.
    """
    words = tiny_config(tmp_path, dataset, "epochs=1")
    result = torchrun(2, "psl.train", *words)
    assert result.returncode == 0, result.stderr
    logged = losses(tmp_path / "run")
    assert list(logged) == [1, 2, 3, 4, 5, 6]

    checkpoint = load_checkpoint(tmp_path / "run")
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    rows, chunks = next(data.plan(8, seed=0).steps(0))
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        torch.manual_seed(0)
        model = build_from_config(checkpoint.model_config, 3).train()
        batch = data.batch(rows[half], chunks[half], torch.device("cpu"))
        probs, _ = model(batch.waveform, batch.num_samples)
        loss = torch.nn.functional.binary_cross_entropy(probs, batch.targets)
        halves.append(loss.item())
    assert logged[1] == pytest.approx(sum(halves) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("word", "place", "remedy"),
    [
        (
            "data.audio=[nowhere]",
            "nowhere/index.json: not found",
            "python -m shards.pack makes one",
        ),
        (
            "data.labels=[nowhere]",
            "nowhere/index.json: not found",
            "python -m psl.label makes one",
        ),
        ("data.labels=[LABELS]", "labels are for", "set chunk_seconds to the"),
        (
            "model.front_end.sample_rate=32000",
            "audio at 16000 Hz",
            "--sample-rate 32000",
        ),
        ("global_batch_size=1000", "1000", "lower global_batch_size"),
        ("data.labels=[DATASET]", "holds audio, expected labels", "index.json"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, dataset: Path, labels: Path, word: str, place: str, remedy: str
) -> None:
    """A job would die, or go wrong, hours after it was submitted."""
    word = word.replace("LABELS", str(labels)).replace("DATASET", str(dataset))
    words = tiny_config(tmp_path, dataset, "data.chunk_seconds=2", word)
    with pytest.raises((ValueError, ShardError)) as error:
        train.main(words)
    assert place in str(error.value) and remedy in str(error.value)
    assert {path.name for path in (tmp_path / "run").iterdir()} == BEFORE_TRAINING
    assert state(tmp_path / "run") == "bad_config"


def test_a_launcher_that_asks_for_another_precision_is_contradicted(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch --mixed_precision bf16` would train in float32 in silence."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="bf16, the config precision no"):
        train.main(tiny_config(tmp_path, dataset, "precision=no"))


def test_labels_of_another_dataset_are_refused(
    tmp_path: Path, labels: Path, run: Run
) -> None:
    """Label files that do not match their audio: a complaint of the field."""
    source = write_source(tmp_path / "source", num_clips=16)
    assert not run("shards.pack", *source.pack_arguments(tmp_path / "o")).returncode
    words = tiny_config(tmp_path, tmp_path / "o", f"data.labels=[{labels}]")
    with pytest.raises(
        ShardError, match="labels for 8 clips that are not in .*relabel it"
    ):
        train.main(words)


def test_a_batch_that_the_processes_cannot_share_ends_them_all(
    tmp_path: Path, dataset: Path
) -> None:
    """The job would hang with one rank waiting for the other."""
    words = tiny_config(tmp_path, dataset, "global_batch_size=7")
    result = torchrun(2, "psl.train", *words)
    assert result.returncode != 0
    assert "cannot be shared by 2 processes; make it a multiple of 2" in result.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == BEFORE_TRAINING
    assert state(tmp_path / "run") == "bad_config"


def test_a_set_without_labels_is_refused_where_labels_are_needed(
    tmp_path: Path, dataset: Path, labels: Path, run: Run
) -> None:
    """A model would learn that there is never any sound; or an epoch be lost."""
    source = write_source(tmp_path / "source", num_clips=24)
    text = source.segments.read_text()
    source.segments.write_text(re.sub(r'"[^"]*"', '""', text))
    assert not run("shards.pack", *source.pack_arguments(tmp_path / "o")).returncode
    words = tiny_config(tmp_path, dataset)
    with pytest.raises(ValueError, match="nothing to train on weak labels"):
        train.main([*words, f"data.audio=[{tmp_path}/o]"])
    with pytest.raises(ValueError, match="nothing to validate against"):
        train.main([*words, f"data.valid={tmp_path}/o"])


def test_gradients_are_clipped_at_the_norm_of_the_config(
    tmp_path: Path, dataset: Path
) -> None:
    """A dead knob. Adam divides by the gradient's size plus 1e-8: 1e-14 is nothing."""
    words = tiny_config(tmp_path, dataset, "epochs=1")
    train.main([*words, f"run_dir={tmp_path}/free"])
    train.main([*words, f"run_dir={tmp_path}/tied", "optim.clip_grad_norm=1e-14"])
    assert distance_moved(tmp_path / "free") > 1e-3
    assert distance_moved(tmp_path / "tied") < 1e-6


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, dataset: Path
) -> None:
    """Half a checkpoint would stand in place of a good one."""
    train.main(tiny_config(tmp_path, dataset, "epochs=9", "patience=1"))
    before = [folder.name for folder in list_checkpoints(tmp_path / "run")]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / before[-1])
    code = (
        "import resource, sys; from psl.train import main;"
        "from shards.system.exits import *;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "run_main(lambda: main(sys.argv[1:]))"
    )
    words = tiny_config(tmp_path, dataset, "epochs=9", "patience=1")
    command = [sys.executable, "-c", code, *words]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "File too large" in result.stderr
    assert state(tmp_path / "run") == "failed"
    after = [folder.name for folder in list_checkpoints(tmp_path / "run")]
    assert after == before[:-1]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_compiled_model_learns_the_same(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster model would be another one, or its checkpoints have other names.

    Graphs are captured, but not given to the C++ compiler, which takes minutes.
    """
    words = ["epochs=1", "model.dropout=0"]
    train.main(tiny_config(tmp_path / "plain", dataset, *words))
    compiler = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compiler)
    counters.clear()
    train.main(tiny_config(tmp_path / "fast", dataset, *words, "compile=true"))
    assert counters["stats"]["unique_graphs"] >= 1
    plain, fast = losses(tmp_path / "plain" / "run"), losses(tmp_path / "fast" / "run")
    assert list(fast.values()) == pytest.approx(list(plain.values()), rel=1e-3)
    names = load_checkpoint(tmp_path / "plain" / "run").weights.keys()
    assert load_checkpoint(tmp_path / "fast" / "run").weights.keys() == names


def test_a_launcher_that_asks_for_what_the_config_does_not_is_contradicted(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model would be compiled twice, or gradients be summed over other parts."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ValueError, match="set compile=true"):
        train.main(tiny_config(tmp_path, dataset))
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match="accumulation_steps 1; make them agree"):
        train.main(tiny_config(tmp_path, dataset))


def test_a_run_and_its_data_may_move(tmp_path: Path, dataset: Path) -> None:
    """Scratch paths change from job to job."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    (tmp_path / "run").rename(tmp_path / "moved")
    other = shutil.copytree(dataset, tmp_path / "copy")
    words = tiny_config(tmp_path, dataset, "epochs=1", f"data.audio=[{other}]")
    train.main([*words, f"run_dir={tmp_path}/moved"])


def test_resuming_with_another_config_names_the_difference(
    tmp_path: Path, dataset: Path
) -> None:
    """Half of a run would be one experiment and half another."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    with pytest.raises(ValueError, match="begun with seed = 0, not 5"):
        train.main(tiny_config(tmp_path, dataset, "epochs=1", "seed=5"))


def test_a_run_begun_before_a_key_was_known_goes_on(
    tmp_path: Path, dataset: Path
) -> None:
    """After an update of the program, all unfinished runs would have to start anew."""
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    path = tmp_path / "run" / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    unknown = ("  ema_decay:", "  layer_decay:", "average_best:", "valid_every:")
    kept = [line for line in lines if not line.startswith(unknown)]
    assert len(kept) == len(lines) - len(unknown)
    path.write_text("".join(kept))
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    with pytest.raises(ValueError, match="begun with valid_every = None, not 3"):
        train.main(tiny_config(tmp_path, dataset, "epochs=1", "valid_every=3"))


def test_a_loss_that_is_not_finite_stops_the_run_without_a_checkpoint(
    tmp_path: Path, dataset: Path
) -> None:
    """A broken model would be saved over a good one."""
    words = tiny_config(tmp_path, dataset, "optim.learning_rate=1e30")
    with pytest.raises(RuntimeError, match="not finite|loss is nan"):
        train.main(words)
    assert list_checkpoints(tmp_path / "run") == []


def test_a_wrong_key_ends_in_one_line_and_status_78(run: Run, tmp_path: Path) -> None:
    """A batch job could not tell a typo from a crash."""
    result = run("psl.train", f"run_dir={tmp_path}/r", "data.valid=v", "epoch=3")
    assert result.returncode == 78
    assert "unknown key 'epoch'; did you mean 'epochs'?" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_weights_are_stored_under_the_paper_s_class_order(teacher: Path) -> None:
    """A model could be used with another class list."""
    assert load_checkpoint(teacher).classes.mids == MIDS


def test_a_resumed_optimizer_is_laid_out_in_memory_as_the_weights_are(
    tmp_path: Path, dataset: Path
) -> None:
    """A resumed run would be slower on a GPU, where Adam updates all tensors at once
    only if their strides agree.
    """
    train.main(tiny_config(tmp_path, dataset, "epochs=1"))
    checkpoint = load_checkpoint(tmp_path / "run")
    model = move_model(checkpoint.build_model(), torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters())
    put_optimizer_tensors(load_optimizer(checkpoint), optimizer)
    for parameter in model.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[parameter][name].stride() == parameter.stride()
