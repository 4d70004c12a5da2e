"""Kills, full disks, impossible folders and rivals while shards are made.

After each of them nothing is half-written under a final name, and running the same
command again ends in the bytes of an undisturbed run.
"""

import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from psl import label, train
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.classes import Classes
from shards.format.label_codec import encode_labels
from shards.system.files import open_atomic, remove_leftovers
from shards.verify import verify
from tests.conftest import MIDS, Run, Source, write_source
from tests.learning import folder_bytes, teacher_config


def with_full_disk(num_bytes: int, module: str, *words: str) -> str:
    """Runs a command whose files cannot grow past ``num_bytes``; its error line."""
    result = subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes,) * 2),
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def assert_only_whole_files(out: Path, whole: Path) -> None:
    """What ``out`` has of the files of ``whole`` is as it is there, but for dates."""
    assert_as_in(out, whole)
    assert not list(out.glob(".*.tmp-*")), "a live process left its scraps"


def assert_as_in(out: Path, whole: Path) -> None:
    for path in out.glob("[!.]*"):
        if path.name != "made.json":
            assert path.read_bytes() == (whole / path.name).read_bytes(), path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Source, Path]:
    """100 short clips and their undisturbed packing, one a shard."""
    folder = tmp_path_factory.mktemp("many")
    source = write_source(folder / "source", num_clips=100, seconds=0.05)
    result = run("shards.pack", *words_for(source, folder / "whole"))
    assert result.returncode == 0, result.stderr
    return source, folder / "whole"


def words_for(source: Source, out: Path) -> list[str]:
    return [*source.pack_arguments(out), "--clips-per-shard", "1"]


@pytest.fixture(scope="module")
def labelled(
    tmp_path_factory: pytest.TempPathFactory, many: tuple[Source, Path]
) -> tuple[list[str], Path]:
    """Words of ``psl.label`` but for out=, and the undisturbed labels of ``many``."""
    folder = tmp_path_factory.mktemp("labelled")
    train.main(teacher_config(folder, many[1]))
    words = [f"teacher={folder / 'run'}", f"audio={many[1]}", "chunk_seconds=0.05"]
    label.main([*words, f"out={folder / 'whole'}"])
    return words, folder / "whole"


# Full disk


@pytest.mark.parametrize("num_bytes", [8_000, 15_000])
def test_a_disk_full_at_the_first_tar_or_at_the_index_loses_nothing(
    many: tuple[Source, Path], tmp_path: Path, run: Run, num_bytes: int
) -> None:
    """Else a full disk costs a day of packing, or leaves a set that looks finished."""
    source, whole = many
    out = tmp_path / "out"
    error = with_full_disk(num_bytes, "shards.pack", *words_for(source, out))
    assert "File too large" in error
    assert not (out / "index.json").exists()
    assert len(list(out.glob("*.tar"))) == (0 if num_bytes == 8_000 else 100)
    assert_only_whole_files(out, whole)
    assert run("shards.pack", *words_for(source, out)).returncode == 0
    assert folder_bytes(out) == folder_bytes(whole)


def test_a_disk_full_while_labelling_loses_nothing(
    labelled: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Else days of a teacher's work are thrown away, or end as half a label set."""
    words, whole = labelled
    out = tmp_path / "out"
    error = with_full_disk(15_000, "psl.label", *words, f"out={out}")
    assert "File too large" in error
    assert not (out / "index.json").exists()
    assert len(list(out.glob("*.tar"))) == 100
    assert_only_whole_files(out, whole)
    label.main([*words, f"out={out}"])
    assert folder_bytes(out) == folder_bytes(whole)


# Impossible outputs


def a_file(path: Path) -> Path:
    path.write_text("precious")
    return path


def below_a_file(path: Path) -> Path:
    return a_file(path) / "out"


def a_dangling_link(path: Path) -> Path:
    path.symlink_to(path / "nowhere" / "out")
    return path


@pytest.mark.parametrize("make", [a_file, below_a_file, a_dangling_link])
def test_an_impossible_output_ends_packing_before_any_audio_is_read(
    tmp_path: Path, run: Run, make: Callable[[Path], Path]
) -> None:
    """Else hours of decoding end in an error that was clear at the start."""
    source = write_source(tmp_path / "source", num_clips=3, seconds=0.1)
    for path in source.audio.iterdir():  # reading them would be another error
        path.write_bytes(b"no audio")
    out = make(tmp_path / "out")
    result = run("shards.pack", *source.pack_arguments(out))
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert str(tmp_path / "out") in result.stderr
    if make is not a_dangling_link:
        assert (tmp_path / "out").read_text() == "precious"


def test_an_impossible_output_ends_labelling_before_the_teacher_works(
    labelled: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a GPU is taken for an hour before the error."""
    monkeypatch.setattr("psl.labelling.worker.label_rows", None)
    with pytest.raises(OSError, match="Not a directory|File exists"):
        label.main([*labelled[0], f"out={below_a_file(tmp_path / 'out')}"])


# Kills


@pytest.mark.parametrize("what", ["shards.pack", "psl.label"])
def test_kills_at_random_moments_change_no_byte_of_the_end(
    many: tuple[Source, Path],
    labelled: tuple[list[str], Path],
    tmp_path: Path,
    run: Run,
    what: str,
) -> None:
    """Else a preempted job leaves shards that nobody can trust."""
    out, rng = tmp_path / "out", random.Random(what)
    words = words_for(many[0], out)
    whole = many[1]
    if what == "psl.label":
        words, whole = [*labelled[0], f"out={out}"], labelled[1]
    for _ in range(2 if what == "psl.label" else 4):
        with subprocess.Popen(
            [sys.executable, "-m", what, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as job:
            aim = len(list(out.glob("*.tar"))) + rng.randint(1, 20)
            while len(list(out.glob("*.tar"))) < aim and job.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.random() / 50)
            job.send_signal(signal.SIGKILL)
            job.communicate(timeout=60)  # workers hold stderr, and end with it
        assert_as_in(out, whole)
    result = run(what, *words)
    assert result.returncode == 0, result.stderr
    assert folder_bytes(out) == folder_bytes(whole)


# Rivals


@pytest.mark.parametrize("what", ["shards.pack", "psl.label"])
def test_two_jobs_on_one_folder_end_as_one(
    many: tuple[Source, Path],
    labelled: tuple[list[str], Path],
    tmp_path: Path,
    what: str,
) -> None:
    """Else a job submitted twice breaks the work of the first, or its own."""
    out = tmp_path / "out"
    words, whole = words_for(many[0], out), many[1]
    if what == "psl.label":
        words, whole = [*labelled[0], f"out={out}"], labelled[1]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", what, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [job.communicate(timeout=180)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    assert folder_bytes(out) == folder_bytes(whole)
    verify(out)


def test_scraps_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path,
) -> None:
    """Else who finishes first deletes the file that another is writing."""
    dead = tmp_path / ".000000.tar.tmp-0123456789abcdef"
    dead.write_bytes(b"half a tar")
    with open_atomic(tmp_path / "000001.tar") as stream:
        stream.write(b"first half, ")
        remove_leftovers(tmp_path)
        assert not dead.exists()
        stream.write(b"second half")
    assert (tmp_path / "000001.tar").read_bytes() == b"first half, second half"
    assert [path.name for path in tmp_path.iterdir()] == ["000001.tar"]


def builder_with(folder: Path, *, clips: int) -> tuple[DatasetBuilder, list[str]]:
    """A label dataset in the making, one clip a shard, none made yet."""
    builder = DatasetBuilder(folder, "labels", Classes(MIDS, MIDS), {}, {})
    builder.begin()
    return builder, [f"{n:06d}.tar" for n in range(clips)]


def test_a_rival_that_comes_late_changes_nothing_that_is_published(
    tmp_path: Path,
) -> None:
    """Else it replaces a shard under an index that says what was in the first."""
    builder, (name,) = builder_with(tmp_path, clips=1)
    data = [encode_labels(np.full((1, 3), value)) for value in (0.25, 0.75)]
    builder.add(name, [Row("clip", "npy", data[0], 1)])
    assert builder.publish([name])
    before = folder_bytes(tmp_path)
    builder.add(name, [Row("clip", "npy", data[1], 1)])
    assert builder.publish([name])
    assert folder_bytes(tmp_path) == before
    verify(tmp_path)


def test_many_builders_of_one_folder_end_as_one(tmp_path: Path) -> None:
    """Else it depends on the moment whether rivals hurt each other."""
    data = encode_labels(np.full((1, 3), 0.5))
    failures: list[BaseException] = []

    def build(folder: Path, order: int) -> None:
        try:
            builder, names = builder_with(folder, clips=12)
            for name in random.Random(order).sample(names, len(names)):
                if builder.part(name) is None:
                    builder.add(name, [Row(f"clip-{name[:6]}", "npy", data, 1)])
            if not builder.publish(names):
                raise RuntimeError("not published")
        except Exception as error:
            failures.append(error)

    build(tmp_path / "alone", 0)
    for round_ in range(20):
        folder = tmp_path / str(round_)
        threads = [
            threading.Thread(target=build, args=(folder, order)) for order in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert folder_bytes(folder) == folder_bytes(tmp_path / "alone")
