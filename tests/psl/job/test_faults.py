"""Faults: killed, stopped, asked to stop, out of data, out of disk, NaN; nothing lost.

tests/jobs.py starts the jobs; the tests of torchrun itself are in test_launchers.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator

from psl import status as status_command
from psl import train
from psl.data.batch import Batch
from psl.data.examples import TrainingData
from psl.job import status
from psl.job.faults import parse_fault
from psl.job.lock import RunLock
from psl.job.status import read_status
from psl.models.families import build_model
from psl.training import loop
from psl.weights.checkpoint import list_checkpoints, load_checkpoint, load_newest
from shards.errors import ShardError
from shards.system.exits import JobError
from tests.jobs import start, step_reached
from tests.learning import losses, state, tiny_config
from tests.steppers import make_stepper

WORDS = ["epochs=3", "save_every=4", "model.dropout=0.3"]
"""18 steps, with checkpoints at 4, 6, 8, 12, 16 and 18."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> dict[int, Path]:
    """An undisturbed run on 1 and one on 2 ranks; not to be changed."""
    runs = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"whole{ranks}")
        job = start(folder, tiny_config(folder, dataset, *WORDS), ranks=ranks)
        assert job.wait() == [0] * ranks, job.output
        runs[ranks] = folder / "run"
    return runs


def test_an_undisturbed_run_ends_as_done(whole: dict[int, Path]) -> None:
    """A batch script would start a finished run again and again."""
    ended = read_status(whole[2])
    assert ended is not None
    assert (ended.state, ended.step, ended.epoch) == ("done", 18, 3)
    assert (ended.attempts, ended.message) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_after_the_same_step_with_a_checkpoint(
    tmp_path: Path, dataset: Path, whole: dict[int, Path], number: int
) -> None:
    """A preempted job would lose its work since the last checkpoint, or hang."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words, ranks=2)
    job.wait_until(lambda: step_reached(tmp_path / "run") >= 2)
    os.kill(job.ranks[1].pid or 0, number)
    assert job.wait() == [75, 75], job.output
    stopped = read_status(tmp_path / "run")
    assert stopped is not None and stopped.state == "preempted"
    assert f"stopped by {signal.Signals(number).name}" in stopped.message
    assert list_checkpoints(tmp_path / "run")[-1].name == f"step_{stopped.step:08d}"
    assert 2 <= stopped.step < 18
    again = start(tmp_path, words, ranks=2)
    assert again.wait() == [0, 0], again.output
    assert losses(tmp_path / "run") == losses(whole[2])


def test_a_file_in_the_run_folder_stops_the_job_and_is_gone_afterwards(
    tmp_path: Path, dataset: Path
) -> None:
    """Batch scripts reach all nodes by it; left over, it would stop the next start."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words, ranks=2)
    job.wait_until(lambda: step_reached(tmp_path / "run") >= 1)
    (tmp_path / "run" / "PREEMPT").touch()
    assert job.wait() == [75, 75], job.output
    assert "stopped by file PREEMPT" in job.output
    assert not (tmp_path / "run" / "PREEMPT").exists()


def test_a_stop_during_validation_keeps_the_epoch(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of work would be lost if the grace time is shorter than a validation."""
    words = tiny_config(tmp_path / "a", dataset, "epochs=2")
    train.main(words)
    words = tiny_config(tmp_path / "b", dataset, "epochs=2")
    measure = loop.evaluate_model

    def measure_after_a_signal(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_model", measure_after_a_signal)
        with pytest.raises(
            JobError, match="SIGTERM with a checkpoint at step 6"
        ) as end:
            train.main(words)
    assert end.value.status == 75
    newest = load_newest(tmp_path / "b" / "run")
    assert newest is not None
    assert (newest.training.epoch, newest.training.step_in_epoch) == (0, 6)
    train.main(words)
    newest = load_newest(tmp_path / "b" / "run")
    other = load_newest(tmp_path / "a" / "run")
    assert newest is not None and other is not None
    assert newest.training == other.training
    assert losses(tmp_path / "b" / "run") == losses(tmp_path / "a" / "run")


def test_signals_without_end_do_not_damage_the_checkpoint(
    tmp_path: Path, dataset: Path, whole: dict[int, Path]
) -> None:
    """SLURM, torchrun and an impatient user all send more than one."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words)
    job.wait_until(lambda: step_reached(tmp_path / "run") >= 2)
    rank = job.ranks[0]
    while rank.is_alive():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(rank.pid or 0, number)
        time.sleep(0.002)
    # the interpreter's last moments have no handlers any more
    assert job.wait()[0] in (75, -signal.SIGTERM, -signal.SIGUSR2), job.output
    assert state(tmp_path / "run") == "preempted"
    assert start(tmp_path, words).wait() == [0]
    assert losses(tmp_path / "run") == losses(whole[1])


@pytest.mark.parametrize(
    "fault",
    [
        "rank=1,step=7,point=step,action=kill",
        "rank=0,step=8,point=checkpoint.inside,action=kill",
        "rank=0,step=12,point=evaluate,action=kill",
    ],
)
def test_a_killed_rank_is_named_and_the_next_start_repeats_the_losses(
    tmp_path: Path, dataset: Path, whole: dict[int, Path], fault: str
) -> None:
    """A node failure would leave a hanging job, a riddle, or another result."""
    rank = int(fault[5])
    words = tiny_config(tmp_path, dataset, *WORDS)
    job = start(tmp_path, words, ranks=2, fault=fault)
    status_of = job.wait()
    assert (status_of[rank], status_of[1 - rank]) == (-signal.SIGKILL, 1), job.output
    message = f"error: rank {rank} (process {job.ranks[rank].pid} on "
    assert job.output.count("error:") == 1 and message in job.output
    ended = read_status(tmp_path / "run")
    assert ended is not None and ended.state == "failed"
    assert "exited without reporting an error (killed" in ended.message
    again = start(tmp_path, words, ranks=2)
    assert again.wait() == [0, 0], again.output
    assert losses(tmp_path / "run") == losses(whole[2])
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    newest, other = load_newest(tmp_path / "run"), load_newest(whole[2])
    assert newest is not None and other is not None
    assert newest.training == other.training
    for name, weight in other.weights.items():
        assert torch.equal(newest.weights[name], weight), name


@pytest.mark.parametrize(
    ("fault", "message", "telling"),
    [
        (
            "point=step,action=stop",
            r"rank 1 \(.*\) gives no sign of life in step 8:",
            [0],
        ),
        (
            "point=data,action=hang",
            r"rank 1 \(.*\) got no data for .* of step 8$",
            [0, 1],
        ),
        (
            "point=data,action=exception",
            "rank 1: PSL_FAULT: an error at point data",
            [],
        ),
    ],
)
def test_a_rank_that_stops_or_gets_no_data_ends_the_job_with_its_name(
    tmp_path: Path, dataset: Path, fault: str, message: str, telling: list[int]
) -> None:
    """Hundreds of GPUs would wait forever, and nobody would know for which."""
    words = tiny_config(tmp_path, dataset, *WORDS, "attempt.timeout_seconds=8")
    job = start(tmp_path, words, ranks=2, fault=f"rank=1,step=8,{fault}")
    rank = job.ranks[0]
    rank.join(100)
    assert rank.exitcode == 1, job.output
    # the rank that speaks may end after rank 0, and one that is stopped never does
    deadline = time.monotonic() + 120
    while "error: " not in job.output and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(re.findall("error: ", job.output)) == 1, job.output
    assert re.search(f"error: {message}", job.output, re.M), job.output
    ended = read_status(tmp_path / "run")
    assert ended is not None and ended.state == "failed"
    assert re.search(message, ended.message)
    stacks = {path.name: path for path in (tmp_path / "run" / "hang").glob("*")}
    assert sorted(stacks) == [f"stacks_rank{rank}.txt" for rank in telling]
    for number, path in enumerate(stacks[name] for name in sorted(stacks)):
        text = path.read_text()
        assert f"rank {number}, process {job.ranks[number].pid} on " in text
        assert re.search(message, text, re.M), "why it was written"
        # rank 0 waits for rank 1 in the all-reduce, or rank 1 for the fault's thread
        assert ("in all_reduce" if number == 0 else "faults.py") in text
        assert "in _take_steps" in text and "_watch" in text, "all threads"
    job.kill()


def test_a_run_that_gets_nowhere_is_stuck_until_somebody_says_retry(
    tmp_path: Path, dataset: Path
) -> None:
    """A cluster would be kept busy by a job that crashes on the same batch forever."""
    words = tiny_config(tmp_path, dataset, *WORDS, "attempt.max_futile_starts=2")
    fault = "step=7,point=step,action=kill"
    for _ in range(4):
        job = start(tmp_path, words, fault=fault)
        job.wait()
    assert job.wait() == [93], job.output
    assert state(tmp_path / "run") == "stuck"
    keys = re.search(r"batch of step 7: rank 0: ([\w, ]+);", job.output)
    assert keys is not None
    plan = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    rows, _ = list(plan.plan(8, seed=0).steps(1))[0]
    assert keys[1].split(", ") == [plan.audio.index.key(int(row)) for row in rows]
    assert "2 consecutive starts made no checkpoint past step 6" in job.output
    with pytest.raises(JobError, match="attempt.retry_stuck=true"):
        train.main(words)
    train.main([*words, "attempt.retry_stuck=true"])
    assert state(tmp_path / "run") == "done"


def test_a_loss_that_is_nan_on_one_rank_stops_all_and_names_its_batch(
    tmp_path: Path, dataset: Path
) -> None:
    """Weights would turn to NaN on all ranks; or one would stop and the rest hang."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    fault = "rank=1,step=2,point=step,action=nan"
    job = start(tmp_path, words, ranks=2, fault=fault)
    assert job.wait() == [1, 1], job.output
    data = TrainingData.open([str(dataset)], None, chunk_seconds=1.0, alpha=1.0)
    rows, _ = list(data.plan(8, seed=0).steps(0))[1]
    keys = ", ".join(data.audio.index.key(int(row)) for row in rows[4:])
    assert job.output.count("error:") == 1
    assert "step 2: loss is nan, nothing was updated; batch of rank 1: " + keys in (
        job.output
    )
    assert list_checkpoints(tmp_path / "run") == []


def test_a_step_that_is_not_finite_can_be_skipped_and_leaves_no_trace(
    tmp_path: Path, dataset: Path
) -> None:
    """One bad clip would end a run of weeks; or stay in the statistics forever."""
    words = tiny_config(tmp_path, dataset, "epochs=1", "nonfinite=skip")
    fault = "rank=0,step=3,point=step,action=nan"
    job = start(tmp_path, words, ranks=2, fault=fault)
    assert job.wait() == [0, 0], job.output
    assert list(losses(tmp_path / "run")) == [1, 2, 4, 5, 6]
    newest = load_newest(tmp_path / "run")
    assert newest is not None and newest.training.skipped_steps == 1
    assert newest.weights["features.0.1.num_batches_tracked"] == 5
    words += ["max_skipped_steps=0", f"run_dir={tmp_path}/other"]
    job = start(tmp_path, words, fault=fault)
    assert job.wait() == [1] and "reached max_skipped_steps=0" in job.output


def test_infinite_samples_leave_the_statistics_as_they_were() -> None:
    """BatchNorm would be NaN forever, though weights were not updated."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    model = build_model(num_classes=2, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters())
    prepared = accelerator.prepare(model, optimizer)
    step = make_stepper(accelerator, *prepared, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = next(name for name, _ in model.named_parameters())
    model.get_parameter(first).data[0] = before[first][0] = torch.inf
    batch = Batch(
        pcm=torch.ones(2, 32000, dtype=torch.int16),
        num_samples=torch.tensor([32000, 32000]),
        targets=torch.zeros(2, 2),
    )
    [outcome] = step(batch, 1, learning_rate=1.0, stop=False)
    assert outcome.problem is not None
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    accelerator.free_memory()


def test_a_second_job_on_a_run_folder_refuses_and_the_first_goes_on(
    tmp_path: Path, dataset: Path, whole: dict[int, Path]
) -> None:
    """Two jobs would write one run's checkpoints in turn. A kill leaves no dead end."""
    words = tiny_config(tmp_path, dataset, *WORDS)
    first = start(tmp_path, words, fault="step=7,point=step,action=stop")
    process = psutil.Process(first.ranks[0].pid)
    first.wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    before = (tmp_path / "run" / "status.json").read_text()
    second = start(tmp_path, words)
    assert second.wait() == [1]
    assert f"process {first.ranks[0].pid} on" in second.output
    assert "choose another run_dir" in second.output
    assert (tmp_path / "run" / "status.json").read_text() == before
    assert status.report(tmp_path / "run")[0] == "running"
    first.kill()
    assert status.report(tmp_path / "run")[0] == "failed"
    assert start(tmp_path, words).wait() == [0]
    assert losses(tmp_path / "run") == losses(whole[1])


def test_a_holder_on_another_machine_counts_as_long_as_it_beats(tmp_path: Path) -> None:
    """Nodes may share a folder but not the kernel's locks."""
    lock = RunLock(tmp_path)
    lock.release()
    record = json.loads((tmp_path / "lock").read_text())
    record |= {"held": True, "boot": "another machine", "host": "n7"}
    (tmp_path / "lock").write_text(json.dumps(record))
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(0.05):
            record["beat"] += 1
            aside = tmp_path / "aside"
            aside.write_text(json.dumps(record))
            (tmp_path / "lock").write_bytes(aside.read_bytes())

    other = threading.Thread(target=beat)
    other.start()
    with pytest.raises(JobError, match="on n7 is running this run"):
        RunLock(tmp_path, stale_seconds=20)
    stopped.set()
    other.join()
    RunLock(tmp_path, stale_seconds=0.5).release()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"],
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_to_any_file_of_the_newest_checkpoint_falls_back_loudly(
    tmp_path: Path, whole: dict[int, Path], name: str, damage: str
) -> None:
    """A disk error would lose a run, or resume from wrong numbers."""
    run_dir = shutil.copytree(whole[1], tmp_path / "run")
    path = list_checkpoints(run_dir)[-1] / name
    if damage == "flip":
        _flip(path)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    if (name, damage) == ("manifest.json", "remove"):  # a version without manifest
        with pytest.raises(ValueError, match="checkpoint format 1, expected 2"):
            load_newest(run_dir)
        return
    with pytest.warns(UserWarning, match="step_00000018.*falling back"):
        checkpoint = load_newest(run_dir)
    assert checkpoint is not None and checkpoint.folder.name == "step_00000016"
    if name != "optimizer.safetensors":  # not read unless training resumes
        with pytest.raises(ShardError, match="step_00000018"):
            load_checkpoint(path.parent)


def test_a_checkpoint_of_another_version_is_refused_by_name(
    tmp_path: Path, whole: dict[int, Path]
) -> None:
    """An old program would fall back, and then write over what a newer one made."""
    run_dir = shutil.copytree(whole[1], tmp_path / "run")
    path = list_checkpoints(run_dir)[-1] / "manifest.json"
    path.write_text(
        path.read_text().replace('"format_version": 2', '"format_version": 9')
    )
    with pytest.raises(
        ValueError, match="checkpoint format 9, expected 2; use the vers"
    ):
        load_newest(run_dir)


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path: Path, dataset: Path) -> None:
    """Results would depend on how many GPUs were free and how much memory they had.

    With fixed BatchNorm statistics all ways to share a batch are one computation but
    for rounding; with those of the parts, two ranks are one rank with two parts.
    """
    for fixed, ways in (True, [(1, 1), (2, 1), (2, 2)]), (False, [(2, 1), (1, 2)]):
        curves = []
        for ranks, parts in ways:
            folder = tmp_path / f"{fixed}{ranks}{parts}"
            words = tiny_config(folder, dataset, "epochs=1", "optim.learning_rate=1e-3")
            words.append(f"accumulation_steps={parts}")
            job = start(folder, words, ranks=ranks, fixed_statistics=fixed)
            assert job.wait() == [0] * ranks, job.output
            curves.append(list(losses(folder / "run").values()))
        for curve in curves:
            assert len(curve) == 6 and curve[5] != curve[0]
            assert curve == pytest.approx(curves[0], rel=2e-6)


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, dataset: Path
) -> None:
    """A requeued job may get fewer GPUs. Global batches stay, so the losses do.

    One process with two parts takes BatchNorm statistics as two processes do.
    """
    words = tiny_config(tmp_path / "a", dataset, "epochs=2", "save_every=4")
    assert start(tmp_path / "a", words, ranks=2).wait() == [0, 0]
    words = tiny_config(tmp_path / "b", dataset, "epochs=2", "save_every=4")
    fault = "point=step,step=9,action=kill"
    start(tmp_path / "b", words, ranks=2, fault=fault).wait()
    job = start(tmp_path / "b", [*words, "accumulation_steps=2"])
    assert job.wait() == [0], job.output
    one, two = losses(tmp_path / "b" / "run"), losses(tmp_path / "a" / "run")
    assert list(one) == list(two)
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("accumulation_steps=3", "accumulation_steps 3 does not divide the 8 chunks"),
        ("sync_batch_norm=true", "BatchNorm on GPUs only, and this is cpu"),
    ],
)
def test_what_cannot_be_done_is_a_bad_configuration(
    tmp_path: Path, dataset: Path, word: str, message: str
) -> None:
    """A job would be requeued forever for a mistake in its config."""
    job = start(tmp_path, tiny_config(tmp_path, dataset, word))
    assert job.wait() == [78] and message in job.output
    assert status.report(tmp_path / "run")[0] == "bad_config"


def test_a_typo_overwrites_what_an_earlier_start_said(
    tmp_path: Path, dataset: Path
) -> None:
    """A script would read "preempted" and start the typo again and again."""
    words = tiny_config(tmp_path, dataset, "epochs=1")
    (tmp_path / "run").mkdir()
    before = replace(status.started(None, 0), state="preempted")
    status.write_status(tmp_path / "run", before)
    with pytest.raises(ValueError, match="did you mean"):
        train.main([*words, "epoch=3"])
    assert state(tmp_path / "run") == "bad_config"


@pytest.mark.parametrize(
    ("ended", "code"),
    [("done", 0), ("preempted", 75), ("failed", 1), ("bad_config", 78), ("stuck", 93)],
)
def test_the_reader_prints_the_state_and_exits_with_its_status(
    tmp_path: Path, ended: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torchrun turns every status into 1; scripts could not tell what to do."""
    told = replace(status.started(None, 12), state=ended, message="why")  # type: ignore
    status.write_status(tmp_path, told)
    with pytest.raises(SystemExit) as end:
        status_command.main([str(tmp_path)])
    assert end.value.code == code
    assert capsys.readouterr().out == f"{ended}\tat step 12, epoch 0: why\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kill", "expected rank=1"),
        ("point=nowhere,action=kill", "point 'nowhere'"),
        ("point=step,action=explode", "action 'explode'"),
        ("point=step,action=kill,when=1", "unknown ['when']"),
        ("point=step,action=kill,rank=one", "['one']: expected whole numbers"),
        ("point=data,action=nan", "nan is for point=step"),
        ("point=step,point=data,action=kill", "'point=data'"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    """A test that injects nothing would pass."""
    with pytest.raises(ValueError, match="PSL_FAULT") as error:
        parse_fault(text)
    assert message in str(error.value)
