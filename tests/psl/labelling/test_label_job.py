"""The labelling job: kills, frozen and dead processes, bad clips, progress, overlap."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psl import label, train
from psl.config import parse
from psl.config_values import read_words
from psl.data.batch_memory import BatchMemory
from psl.data.examples import TrainingData
from psl.data.labels import LabelLayout
from psl.data.views import Augmentation
from psl.job.stop import StopRequest
from psl.labelling import job as labelling
from psl.labelling import progress, worker
from psl.labelling.config import LabelConfig
from psl.labelling.progress import measure
from psl.labelling.rows import ChunkBatch, read_batch
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import open_index
from shards.format.label_codec import DENSE
from shards.system.claims import Claimant, Held
from shards.system.exits import JobError
from shards.verify import verify
from tests.conftest import Run, write_source
from tests.jobs import Job
from tests.label_workers import GO_NAME, start_workers
from tests.learning import (
    REPOSITORY,
    folder_bytes,
    num_different,
    teacher_config,
    tiny_config,
)

NUM_SHARDS, CLIPS_PER_SHARD = 40, 2


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """80 clips of 1 s in 40 shards; not to be changed."""
    folder = tmp_path_factory.mktemp("audio")
    source = write_source(
        folder / "source", num_clips=NUM_SHARDS * CLIPS_PER_SHARD, seconds=1
    )
    words = [*source.pack_arguments(folder / "packed"), "--clips-per-shard", "2"]
    result = run("shards.pack", *words)
    assert result.returncode == 0, result.stderr
    return folder / "packed"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, audio: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, audio))
    return folder / "run"


@pytest.fixture(scope="module")
def words(teacher: Path, audio: Path) -> list[str]:
    """Words of ``psl.label`` but for out=: 8 chunks a shard, in 4 batches."""
    words = [f"teacher={teacher}", f"audio={audio}", "chunk_seconds=0.25"]
    return [*words, "batch_size=2", "loader.threads=1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """The labels that one undisturbed process makes."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    label.main([*words, f"out={folder}"])
    verify(folder)
    assert num_different(folder) > 300  # of 320, so that a wrong place is seen
    return folder


def parse_words(words: list[str]) -> LabelConfig:
    """The configuration that ``psl.label WORDS`` has."""
    return parse(LabelConfig, read_words(words, LabelConfig))


Start = Callable[..., Job]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start_workers``; what a failed test leaves, frozen or not, is killed."""
    jobs: list[Job] = []

    def start_and_note(*arguments: Any, **named: Any) -> Job:
        jobs.append(start_workers(*arguments, **named))
        return jobs[-1]

    yield start_and_note
    for process in jobs:
        process.kill()


def records(folder: Path) -> int:
    """Shards of ``folder`` that are done."""
    return len(list((folder / ".parts").glob("*.tar.json")))


def claimed(folder: Path) -> list[Path]:
    return list((folder / ".parts").glob("*.tar.claim"))


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def names(folder: Path) -> set[str]:
    """The shards of ``folder`` that are written."""
    return {path.name for path in folder.glob("*.tar")}


def claim_elsewhere(out: Path, name: str, *, age: float = 0.0) -> None:
    """Claim a shard for a process of another machine, last heard of ``age`` s ago."""
    holder = Claimant("feed", "elsewhere", 1, "another boot", 1, 0.0, 60.0)
    path = out / ".parts" / f"{name}.claim"
    path.write_text(json.dumps(vars(holder)))
    os.utime(path, (time.time() - age,) * 2)


def hold(job: Job, happens: Callable[[], bool]) -> int:
    """Freeze a job's one process at a moment at which ``happens()``; its pid."""
    pid = job.ranks[0].pid
    assert pid is not None
    while True:
        job.wait_until(happens)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        if happens():
            return pid
        os.kill(pid, signal.SIGCONT)


def assert_labelled_once(job_folder: Path, out: Path, whole: Path) -> None:
    """No shard was recorded twice, and the end is that of an undisturbed run."""
    times = Counter((job_folder / "recorded").read_text().splitlines())
    assert set(times.values()) == {1} and len(times) <= NUM_SHARDS
    assert folder_bytes(out) == folder_bytes(whole)


# Death


def seconds_to_a_shard(start: Start, words: list[str], folder: Path) -> float:
    """From the start of a process to its first shard; a busy machine takes longer."""
    for number in range(2):  # the first one also starts the server of processes
        out, begun = folder / str(number), time.monotonic()
        job = start(folder, [*words, f"out={out}"], seconds=0.05)
        job.wait_until(lambda out=out: records(out) > 0)  # type: ignore[misc]
        job.kill()
    return max(0.4, time.monotonic() - begun)


def test_twenty_kills_of_three_workers_change_no_byte_and_repeat_no_shard(
    start: Start, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """A month on nodes that come and go would end in labels that nobody trusts."""
    rng, out, folder = random.Random(5), tmp_path / "out", tmp_path / "job"
    pace = seconds_to_a_shard(start, words, tmp_path / "pace")
    words = [*words, f"out={out}", "lease_seconds=600"]
    jobs = [start(folder, words, seconds=0.05) for _ in range(3)]
    for number in range(20):
        time.sleep(rng.random() * pace)
        jobs.pop(rng.randrange(len(jobs))).kill()
        for _ in range(max(0, rng.randint(1, 3) - len(jobs))):  # another count
            jobs.append(start(folder, words, seconds=pace / 8))
        assert not (out / "index.json").exists(), f"done before kill {number}"
    for process in jobs:
        process.kill()
    assert 0 < records(out) < NUM_SHARDS
    (folder / GO_NAME).touch()
    last = start(folder, words, number=2)
    assert last.wait() == [0, 0], last.output
    assert_labelled_once(folder, out, whole)


def test_a_worker_frozen_past_its_lease_is_replaced_and_spoils_nothing(
    start: Start, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """A node that hangs for an hour would stop the job, or come back and overwrite."""
    out, folder = tmp_path / "out", tmp_path / "job"
    words = [*words, f"out={out}", "lease_seconds=1"]
    frozen = start(folder, words, seconds=0.05)
    frozen.wait_until(lambda: records(out) > 1)
    pid = hold(frozen, lambda: bool(claimed(out)))
    held = {path.name.removesuffix(".claim") for path in claimed(out)}
    last = next(name for name in names(whole) if name not in held | names(out))
    claim_elsewhere(out, last)  # so that the set is not finished meanwhile
    (folder / GO_NAME).touch()
    other = start(folder, words)
    other.wait_until(lambda: records(out) == NUM_SHARDS - 1)
    os.kill(pid, signal.SIGCONT)
    frozen.wait_until(lambda: "taken over by another process" in frozen.output)
    assert (folder / "recorded").read_text().count("tar") == NUM_SHARDS - 1
    (out / ".parts" / f"{last}.claim").unlink()
    assert other.wait() == [0] and frozen.wait() == [0], frozen.output
    assert_labelled_once(folder, out, whole)


def test_the_shards_of_a_dead_machine_are_taken_and_those_of_a_living_are_not(
    start: Start, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """The job would never end, or two machines would label the same."""
    out = tmp_path / "out"
    job = start(tmp_path / "job", [*words, f"out={out}"], seconds=10)
    job.wait_until(lambda: bool(claimed(out)))
    job.kill()
    for path in claimed(out):
        path.unlink()
    claim_elsewhere(out, "000003.tar", age=90)
    claim_elsewhere(out, "000007.tar")
    more = [f"out={out}", "wait=false"]
    job = start(tmp_path / "job", [*words, *more])
    assert job.wait() == [0] and "other shards are still missing" in job.output
    assert names(whole) - names(out) == {"000007.tar"}
    (out / ".parts" / "000007.tar.claim").unlink()
    label.main([*words, *more])
    assert folder_bytes(out) == folder_bytes(whole)


def test_a_worker_waits_for_the_others_and_does_what_they_leave(
    start: Start, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """The last shards would be lost with whoever dies last, until somebody looks."""
    out, folder = tmp_path / "out", tmp_path / "job"
    words = [*words, f"out={out}", "lease_seconds=600"]
    slow = start(folder, words, seconds=100)
    slow.wait_until(lambda: bool(claimed(out)))
    waiting = start(tmp_path / "fast", words)
    waiting.wait_until(lambda: records(out) + len(claimed(out)) == NUM_SHARDS)
    time.sleep(0.5)
    assert waiting.ranks[0].is_alive() and not (out / "index.json").exists()
    slow.kill()
    assert waiting.wait() == [0], waiting.output
    assert folder_bytes(out) == folder_bytes(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_that_is_asked_to_stop_gives_its_claims_back_and_ends(
    start: Start, words: list[str], whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Others would wait for its lease, and a batch script not know to requeue."""
    out, folder = tmp_path / "out", tmp_path / "job"
    words = [*words, f"out={out}", "lease_seconds=600"]
    job = start(folder, words, seconds=0.2)
    job.wait_until(lambda: records(out) > 0 and bool(claimed(out)))
    pid = job.ranks[0].pid
    assert pid is not None
    os.kill(pid, number)
    assert job.wait(20) == [75]
    assert f"stopped by {number.name}" in job.output and "Traceback" not in job.output
    left = {path.name for path in (out / ".parts").iterdir()}
    assert not [name for name in left if "claim" in name or "worker" in name]
    label.main([*words])
    assert folder_bytes(out) == folder_bytes(whole)


def test_of_two_settings_in_one_folder_at_one_moment_one_is_refused(
    start: Start, words: list[str], tmp_path: Path
) -> None:
    """The set would hold labels of two kinds, in shards that look alike.

    As where there are no hard links: both found the folder empty, and the other was
    the last to say what it is for. It ends as if it had been alone.
    """
    out = tmp_path / "out"
    job = start(tmp_path / "job", [*words, f"out={out}"], seconds=0.05)
    job.wait_until(lambda: records(out) > 0)
    path = out / ".parts" / "settings.json"
    settings = json.loads(path.read_text())
    assert settings["precision"] == "no"
    path.write_text(json.dumps({**settings, "precision": "bf16"}))
    assert job.wait() == [78]
    assert "made with precision = 'bf16', not 'no'" in job.output
    assert 0 < records(out) < NUM_SHARDS and not claimed(out)
    label.main([*words, f"out={out}", "precision=bf16"])
    label.main([*words, f"out={tmp_path / 'alone'}", "precision=bf16"])
    assert folder_bytes(out) == folder_bytes(tmp_path / "alone")


def test_a_disk_full_at_the_first_shard_leaves_it_to_be_taken_again(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """A claim, or half a file, would stay where no process works any more."""
    out = tmp_path / "out"
    words = [*words, f"out={out}"]
    result = subprocess.run(
        [sys.executable, "-m", "psl.label", *words],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert result.returncode == 1 and "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in out.iterdir()] == [".parts"]
    left = {path.name for path in (out / ".parts").iterdir()}
    assert left == {"settings.json", "job.json"}
    label.main(words)
    assert folder_bytes(out) == folder_bytes(whole)


def test_accelerate_launch_labels_with_two_processes(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """It would join a process group that nobody asked for, and wait there."""
    config = REPOSITORY / "launch" / "accelerate" / "cpu_2_processes.yaml"
    result = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch"]
        + ["--config_file", str(config), "--main_process_port", "0"]
        + ["-m", "psl.label", *words, f"out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("labels of 80 clips are complete") == 2
    assert folder_bytes(tmp_path / "out") == folder_bytes(whole)


# Progress


def test_progress_counts_what_is_done_claimed_and_left_and_how_fast() -> None:
    """Nobody could say when a job of a month ends, or that half of it is dead."""
    now = time.time()
    sizes = {f"{n}.tar": 100 for n in range(10)}
    living = Claimant("a", "one", 7, "another boot", 1, now - 50, 60.0)
    held = {
        "1.tar": Held(living, 3.0),
        "2.tar": Held(living, 61.0),
        "index.json": Held(living, 1.0),
    }
    times = {"3.tar": now - 3600, "4.tar": now - 30, "5.tar": now - 10}
    at_now = functools.partial(measure, start=now - 7200, now=now, folder="f")
    found = at_now(sizes, times, held, [Held(living, 3.0)])
    assert (found.shards_done, found.shards_claimed, found.shards_left) == (3, 1, 6)
    assert (found.clips_done, found.clips, found.state) == (300, 1000, "running")
    # 200 clips since the one worker joined 50 s ago
    assert found.clips_per_second == pytest.approx(4.0, rel=0.05)
    assert found.seconds_left == pytest.approx(175, rel=0.05)
    assert [claim["stale"] for claim in found.claims] == [False, True, False]
    idle = at_now(sizes, times, {}, [Held(living, 61.0)])
    assert idle.state == "idle" and idle.seconds_left is None
    assert idle.clips_per_second == pytest.approx(200 / 900, rel=0.05)


def test_the_status_of_a_job_is_shown_before_during_and_after(
    start: Start,
    words: list[str],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A batch script could not tell a set that is done from one that died."""

    def status(folder: Path, *more: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as ended:
            label.main(["--status", str(folder), *more])
        return ended.value.code, capsys.readouterr().out

    with pytest.raises(ShardError, match="no label job was begun there"):
        label.main([f"--status={tmp_path}"])
    out = tmp_path / "out"
    job = start(tmp_path / "job", [*words, f"out={out}"], seconds=0.05)
    job.wait_until(lambda: records(out) > 8)
    hold(job, lambda: bool(claimed(out)))
    assert len(claimed(out)) <= 4  # three in hand, and one at the instant of its end
    code, text = status(out, "--json")
    found = json.loads(text)
    assert code == 3 and found["state"] == "running" and found["workers"] == 1
    assert 9 <= found["shards_done"] < NUM_SHARDS and found["clips"] == 80
    assert found["clips_per_second"] > 0 and found["seconds_left"] > 0
    assert f"process {job.ranks[0].pid} on " in found["claims"][0]["by"]
    job.kill()
    code, text = status(out)
    assert code == 1 and ": idle\n" in text and "taken to be dead" in text
    code, text = status(whole)
    assert code == 0 and "40 done, 0 claimed, 0 left" in text
    assert "80 of 80 done (100.0%)" in text
    made = json.loads((whole / "made.json").read_text())
    assert Path(made["audio"]).is_absolute() and Path(made["audio"]).name == "packed"
    assert made["begun"] <= made["finished"] and made["labelled_by"].startswith("psl ")


def test_ages_are_told_by_the_clock_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on a file server an hour ahead would all look dead, or alive for ever."""
    out = tmp_path / "out"
    (out / ".parts").mkdir(parents=True)
    (out / ".parts" / "settings.json").write_text("{}")
    (out / ".parts" / "job.json").write_text('{"000003.tar": 2}')
    claim_elsewhere(out, "000003.tar", age=20)
    local_time = time.time
    monkeypatch.setattr(time, "time", lambda: local_time() + 3600)
    found = progress.progress(out)
    assert found.clock == "file system"
    assert 19 < found.claims[0]["age"] < 600
    assert "clock" not in progress.render(found)
    assert len(list((out / ".parts").iterdir())) == 3  # nothing is left by the look
    monkeypatch.setattr(progress, "file_system_time", lambda folder: None)
    found = progress.progress(out)
    assert found.clock == "this machine" and 3600 < found.claims[0]["age"] < 4600
    assert "times by the clock of this machine" in progress.render(found)


# Bad input


@pytest.fixture
def damaged(audio: Path, tmp_path: Path) -> Path:
    """``audio`` with the members of rows 5 and 30 overwritten; the index knows not."""
    folder = tmp_path / "damaged"
    shutil.copytree(audio, folder)
    damage(folder, (5, 30))
    return folder


def damage(folder: Path, rows: Iterable[int]) -> None:
    """Overwrite the members of ``rows``."""
    table = open_index(folder, kind="audio").table
    for row in rows:
        with open(folder / f"{table.shard[row]:06d}.tar", "r+b") as stream:
            stream.seek(table.offset[row])
            stream.write(b"no audio at all")


def test_a_clip_that_does_not_decode_stops_the_job_with_its_place(
    words: list[str], damaged: Path, tmp_path: Path, run: Run
) -> None:
    """Its labels would be those of silence, in every student."""
    result = run("psl.label", *words, f"audio={damaged}", f"out={tmp_path / 'out'}")
    assert result.returncode == 78
    assert any(f"{n:06d}.tar: key '" in result.stderr for n in (2, 15))
    assert not (tmp_path / "out" / "index.json").exists()
    assert not claimed(tmp_path / "out")


def test_clips_that_do_not_decode_may_be_left_out_up_to_a_limit(
    words: list[str],
    whole: Path,
    audio: Path,
    damaged: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    run: Run,
) -> None:
    """A broken file in two million would cost the month, or half be lost unsaid."""
    out = tmp_path / "out"
    words = [*words, f"audio={damaged}", f"out={out}"]
    with pytest.raises(ShardError, match="of 80 clips cannot be labelled .first:"):
        label.main([*words, "max_unlabelled=0.02"])
    assert not (out / "index.json").exists()
    label.main([*words, "max_unlabelled=0.025"])
    labels, intact = open_index(out, kind="labels"), open_index(whole, kind="labels")
    assert labels.table.count.tolist() == [0 if n in (5, 30) else 4 for n in range(80)]
    with open(out / "unlabelled.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    keys = [intact.key(5), intact.key(30)]
    assert [row["key"] for row in rows] == keys
    assert "000002.tar" in rows[0]["reason"]
    for name in ("000000.tar", "000002.tar"):  # all others have the labels they had
        assert members(out / name) == {
            key: data if key not in {f"{k}.npy" for k in keys} else [0, 3]
            for key, data in members(whole / name).items()
        }
    verify(out, audio=audio)
    assert "2 clips that did not decode" in run("shards.info", out).stdout
    with pytest.raises(SystemExit):
        label.main(["--status", str(out)])
    assert "2 of them could not be labelled" in capfd.readouterr().out
    train_words = ["epochs=1", f"data.labels=[{out}]", "data.chunk_seconds=0.25"]
    config = tiny_config(tmp_path, audio, *train_words)
    with pytest.raises(ValueError, match=r"row 1 and 1 more of 80 .*unlabelled=0\.025"):
        train.main(config)
    train.main([*config, "data.max_unlabelled=0.025"])
    assert "2 of 80 clips have no labels: left out" in capfd.readouterr().err
    data = TrainingData.open(
        [str(audio)], [str(out)], chunk_seconds=0.25, alpha=1, max_unlabelled=0.025
    )
    plan = data.plan(global_batch_size=1, seed=0)
    seen = Counter(int(rows[0]) for rows, _ in plan.steps(0))
    assert seen == {row: 4 for row in range(80) if row not in (5, 30)}


def test_a_set_with_too_many_bad_clips_stops_soon_and_tries_them_again_when_mended(
    start: Start, words: list[str], audio: Path, whole: Path, tmp_path: Path
) -> None:
    """A month would go by before it is said that half of the audio is unreadable, and
    its labels would stay missing when the audio is there again.
    """
    folder, out = tmp_path / "damaged", tmp_path / "out"
    shutil.copytree(audio, folder)
    damage(folder, range(0, 80, 2))
    words = [*words, f"audio={folder}", f"out={out}", "max_unlabelled=0.1"]
    with pytest.raises(ShardError, match="9 of 80 clips cannot be labelled"):
        label.main(words)
    assert len(names(out)) < 12 and not claimed(out)
    assert records(out) == 0  # each shard has such a clip
    for path in audio.glob("*.tar"):
        shutil.copy(path, folder)
    label.main(words)
    assert folder_bytes(out) == folder_bytes(whole)


@pytest.mark.parametrize("loss", ["cut short", "missing"])
def test_a_lost_shard_is_no_clip_that_does_not_decode(
    words: list[str], audio: Path, tmp_path: Path, loss: str
) -> None:
    """A disk that is not mounted would leave its clips out of the set for good.

    It goes after the index has been looked at, as it may in a month.
    """
    folder, out = tmp_path / "damaged", tmp_path / "out"
    shutil.copytree(audio, folder)
    index = open_index(folder, kind="audio")
    if loss == "missing":
        (folder / "000007.tar").unlink()
    else:
        os.truncate(folder / "000007.tar", int(index.table.offset[14]) + 100)
    layout = LabelLayout(Chunking(4000, 4000), DENSE, Augmentation.from_properties({}))
    batch = ChunkBatch(np.array([14, 14]), np.array([0, 1]), np.array([0, 0]))
    with pytest.raises((ShardError, FileNotFoundError), match=r"000007\.tar"):
        read_batch(MemberReader(index), batch, layout, BatchMemory(), forgive=True)
    with pytest.raises(ShardError, match=r"000007\.tar"):
        label.main([*words, f"audio={folder}", f"out={out}", "max_unlabelled=1"])


def test_a_worker_that_does_not_wait_reports_what_it_could_not_label(
    words: list[str], damaged: Path, tmp_path: Path
) -> None:
    """It would publish past the limit, and leave nobody to know which clips are bad."""
    out = tmp_path / "out"
    words = [*words, f"audio={damaged}", f"out={out}", "wait=false"]
    label.main([*words, "max_unlabelled=0.025"])
    assert (out / "index.json").exists() and (out / "made.json").exists()
    assert len((out / "unlabelled.csv").read_text().splitlines()) == 3


def members(tar: Path) -> dict[str, Any]:
    """The members of a label shard as lists; of an empty one its shape."""
    found = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            assert stream is not None
            array = np.load(io.BytesIO(stream.read()))
            found[member.name] = array.tolist() if len(array) else list(array.shape)
    return found


# Speed


def test_the_next_batches_are_read_and_the_last_shard_written_while_one_is_scored(
    words: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would wait for the disk at every batch, and at the end of every shard.

    The teacher waits for the batch after the one it scores to have been read, and the
    writer for the teacher to have begun the next shard; one after the other, both
    would wait for ever. Any number of shards may wait for the writer here: with the
    bound, reading stops, as it should, where the disk is slow.
    """
    monkeypatch.setattr(worker, "SHARDS_IN_HAND", NUM_SHARDS + 1)
    num_read, num_scored = threading.Semaphore(0), threading.Semaphore(0)
    total = NUM_SHARDS * 4
    scored: list[object] = []
    config = parse_words([*words, f"out={tmp_path / 'out'}"])
    work = labelling.open_work(config)

    def noted_prepare(waveform: torch.Tensor, _: torch.Tensor) -> Any:
        num_read.release()
        return [None]

    def patient_score(*args: Any) -> torch.Tensor:
        if len(scored) < total - 1:
            assert num_read.acquire(timeout=60), "nothing is read ahead"
        if not scored:
            assert num_read.acquire(timeout=60), "nothing is read ahead"
        scored.append(args)
        num_scored.release()
        return work.score(*args)

    def patient_blame() -> str:
        wanted = 5 if len(scored) < total else 0
        for _ in range(wanted):
            assert num_scored.acquire(timeout=60), "nothing is scored meanwhile"
        for _ in range(min(1, wanted)):
            num_scored.release()
        return work.blame()

    noted = dataclasses.replace(
        work, prepare=noted_prepare, score=patient_score, blame=patient_blame
    )
    labelling.label_shards(config, noted)
    assert len(scored) == total
    assert folder_bytes(tmp_path / "out") == folder_bytes(whole)


def test_only_three_shards_are_in_hand_while_the_disk_is_slow(
    words: list[str], tmp_path: Path
) -> None:
    """Probabilities of shard after shard would fill the memory of a machine."""
    config = parse_words([*words, f"out={tmp_path / 'out'}"])
    work = labelling.open_work(config)
    in_hand: list[int] = []

    def slow_blame() -> str:  # called before a shard is written
        time.sleep(0.1)
        return work.blame()

    def noted_score(*args: Any) -> torch.Tensor:
        in_hand.append(len(claimed(tmp_path / "out")))
        return work.score(*args)

    labelling.label_shards(
        config, dataclasses.replace(work, score=noted_score, blame=slow_blame)
    )
    assert len(in_hand) == NUM_SHARDS * 4 and max(in_hand) == 3


def test_a_compiled_teacher_sees_one_shape_and_gives_the_same_labels(
    words: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other size of a last batch would be compiled anew, for minutes."""
    shapes = set()

    def compile_(model: torch.nn.Module, **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False}

        def forward(waveform: torch.Tensor, lengths: torch.Tensor) -> Any:
            shapes.add((tuple(waveform.shape), tuple(lengths.shape)))
            return model(waveform, lengths)

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    out = tmp_path / "out"
    label.main([*words, "batch_size=3", "compile=true", f"out={out}"])
    assert shapes == {((3, 4000), (3,))}  # of 8 chunks a shard
    assert_close(out, whole, 5e-4)
    (provenance,) = open_index(out, kind="labels").provenances
    assert (provenance["compile"], provenance["precision"]) == (True, "no")


def test_bf16_labels_are_near_the_others_and_say_so(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """Labels of two precisions could not be told apart."""
    out = tmp_path / "out"
    label.main([*words, "precision=bf16", f"out={out}"])
    assert_close(out, whole, 0.1)
    found, others = folder_bytes(out), folder_bytes(whole)
    assert any(found[name] != others[name] for name in names(out))
    (provenance,) = open_index(out, kind="labels").provenances
    assert provenance["precision"] == "bf16"


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    """All labels of two sets differ by ``tolerance`` at most."""
    readers = [MemberReader(open_index(f, kind="labels")) for f in (one, other)]
    for row in range(len(readers[0].index)):
        one_row, other_row = (r.labels(row).astype(np.float32) for r in readers)
        np.testing.assert_allclose(one_row, other_row, rtol=0, atol=tolerance)


@pytest.mark.parametrize("loss", ["all of it", "a byte"])
def test_a_shard_that_lost_its_tar_is_made_again_before_the_index(
    start: Start, words: list[str], whole: Path, tmp_path: Path, loss: str
) -> None:
    """A set would be published with a hole, or a wrong label, or never."""
    out = tmp_path / "out"
    job = start(tmp_path / "job", [*words, f"out={out}"], seconds=0.05)
    job.wait_until(lambda: records(out) > 2)
    job.kill()
    tar = next(out.glob("*.tar"))
    data = bytearray(tar.read_bytes())
    tar.unlink()
    if loss == "a byte":
        data[700] ^= 1
        tar.write_bytes(data)
    label.main([*words, f"out={out}"])
    assert folder_bytes(out) == folder_bytes(whole)


def test_nan_names_clip_and_teacher_and_gives_the_claim_back(
    words: list[str], tmp_path: Path
) -> None:
    """NaN would go into the labels; others would wait for a process that has ended."""
    config = parse_words([*words, f"out={tmp_path / 'out'}"])

    def nan_score(waveform: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full((len(waveform), 3), torch.nan)

    work = dataclasses.replace(labelling.open_work(config), score=nan_score)
    with pytest.raises(JobError, match=r"tar: key 'clip\d+_0' at row 0: from teacher"):
        labelling.label_shards(config, work)
    assert not list((tmp_path / "out").glob("*.tar")) and not claimed(tmp_path / "out")


def lose(out: Path, loss: str) -> None:
    """Take something away from a finished set."""
    tar = out / "000003.tar"
    if loss == "notes left":
        (out / ".parts").mkdir()
        (out / ".parts" / "000003.tar.json").write_text("{}")
    if loss == "an end":
        os.truncate(tar, 1024)
    elif loss == "a byte":
        data = bytearray(tar.read_bytes())
        data[700] ^= 1
        tar.write_bytes(data)
    else:
        for path in out.glob("*.tar") if loss == "all tars" else [tar]:
            path.unlink()


@pytest.mark.parametrize(
    "loss", ["a tar", "all tars", "an end", "a byte", "notes left"]
)
def test_a_finished_set_that_lost_shards_is_repaired_by_the_same_command(
    words: list[str],
    whole: Path,
    tmp_path: Path,
    loss: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A month of labels would be made again for one tar, or not be known as damaged."""
    out = shutil.copytree(whole, tmp_path / "out")
    lose(out, loss)
    label.main([*words, f"out={out}"])
    assert folder_bytes(out) == folder_bytes(whole)
    assert "000003.tar: " in caplog.text and "it is made again" in caplog.text
    assert "other bytes" not in caplog.text
    capsys.readouterr()
    label.main([*words, f"out={out}"])
    assert "already labelled" in capsys.readouterr().out


def test_a_repair_makes_the_lost_shards_alone(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """The teacher would look at the whole set again."""
    out = shutil.copytree(whole, tmp_path / "out")
    for name in ("000003.tar", "000007.tar"):
        (out / name).unlink()
    config = parse_words([*words, f"out={out}"])
    work, scored = labelling.open_work(config), []

    def noted_score(waveform: torch.Tensor, *more: Any) -> torch.Tensor:
        scored.append(len(waveform))
        return work.score(waveform, *more)

    outcome = labelling.label_shards(
        config, dataclasses.replace(work, score=noted_score)
    )
    assert sum(scored) == 2 * 8 and outcome.is_complete and not outcome.was_complete


def test_a_repair_may_be_killed_and_shared(
    start: Start, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """A second accident would leave neither the old set nor a way to a new one."""
    out = shutil.copytree(whole, tmp_path / "out")
    for number in range(10):
        (out / f"{number:06}.tar").unlink()
    job = start(tmp_path / "a", [*words, f"out={out}"], seconds=0.05)
    job.wait_until(lambda: not (out / "index.json").exists() and len(names(out)) > 31)
    job.kill()
    assert start(tmp_path / "b", [*words, f"out={out}"], number=2).wait() == [0, 0]
    assert folder_bytes(out) == folder_bytes(whole)


def test_other_settings_do_not_reopen_a_damaged_set(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    """Labels of two teachers would be mixed in one set."""
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "000003.tar").unlink()
    with pytest.raises(ShardError, match="already holds labels made with batch_size"):
        label.main([*words, "batch_size=3", f"out={out}"])
    assert (out / "index.json").exists()


def test_a_request_to_stop_before_the_first_shard_is_heard(
    words: list[str], tmp_path: Path
) -> None:
    """A job that loads a large teacher would be killed instead of requeued."""
    config = parse_words([*words, f"out={tmp_path / 'out'}"])
    stop = StopRequest(config.out, watch_file=False)
    stop.listen()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(JobError, match="stopped by SIGTERM; run .* to continue"):
            labelling.label(config, stop)
    finally:
        stop.restore()
    assert not (tmp_path / "out").exists()
