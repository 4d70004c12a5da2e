"""Decoded copies of compressed shards: the same samples, bounded, safe to kill."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
import pytest
import soundfile

from shards.audio.members import encode
from shards.dataset.cache import ShardCache
from shards.dataset.cache_files import open_whole
from shards.dataset.copies import PcmCopies
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.schema import ClipInfo

RATE, CHUNK = 16000, 4000
COUNTS = (
    16000,
    14500,
    1000,
    16000,
    9000,
    12000,
)  # two clips a shard; tails, short ones
CHUNKING = Chunking(CHUNK, CHUNK)
RUNNING = threading.Event()  # never set
SHARD_BYTES = 2 * (16000 + 14500) + 32


def clip(number: int) -> np.ndarray:
    """Noise and a tone [N] int16."""
    rng, time = np.random.default_rng(number), np.arange(COUNTS[number]) / RATE
    wave = 3000 * rng.standard_normal(len(time)) + 9000 * np.sin(4000 * time)
    return np.round(wave).astype(np.int16)


def member(number: int, codec: str) -> bytes:
    if codec != "source":
        return encode(clip(number), codec=codec, sample_rate=RATE)
    buffer = io.BytesIO()
    soundfile.write(buffer, clip(number), RATE, format="FLAC")
    return buffer.getvalue()


def build(folder: Path, codec: str) -> Index:
    """Six clips of COUNTS in three shards."""
    properties = {"codec": codec, "sample_rate": RATE}
    builder = DatasetBuilder(
        folder, "audio", Classes(("/m/a",), ("A",)), properties, {}
    )
    builder.begin()
    names = [f"{shard:06d}.tar" for shard in range(3)]
    for shard, name in enumerate(names):
        rows = []
        for number in (2 * shard, 2 * shard + 1):
            key = f"k{number}_0"
            info = ClipInfo(key, 0.0, COUNTS[number], RATE, ("/m/a",))
            suffix = "flac" if codec == "source" else codec
            data = member(number, codec)
            extra = {"json": info.to_bytes()}
            rows.append(Row(key, suffix, data, COUNTS[number], (0,), extra))
        builder.add(name, rows)
    assert builder.publish(names)
    return open_index(folder, kind="audio")


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The clips as FLAC, not to be changed."""
    return build(tmp_path_factory.mktemp("flac") / "audio", "flac")


def opened(index: Index, folder: Path, budget: int = 10**6) -> MemberReader:
    """A reader that uses copies in ``folder``."""
    reader = MemberReader(index, ShardCache(folder, 10**6, room_seconds=1))
    reader.copies = PcmCopies(index, reader.cache, CHUNKING, budget)
    return reader


def make_all(reader: MemberReader) -> None:
    for shard in range(3):
        reader.make_copy(shard)


def every_chunk(reader: MemberReader) -> list[bytes]:
    rows = np.repeat(np.arange(6), CHUNKING.num_chunks(np.array(COUNTS)))
    chunks = np.concatenate(
        [np.arange(n) for n in CHUNKING.num_chunks(np.array(COUNTS))]
    )
    bounds = CHUNKING.bounds(chunks, reader.index.table.count[rows])
    return [piece.tobytes() for piece in reader.pcm_bytes(rows, *bounds)]


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded although there is a copy")

    monkeypatch.setattr("shards.audio.members.decode", refuse)


def copies_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if len(path.name) == 64)


@pytest.mark.parametrize("codec", ["flac", "opus", "source"])
def test_copies_give_the_samples_of_decoding_and_nothing_is_decoded_again(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would see other audio in its second epoch, or gain nothing."""
    index = build(tmp_path / "audio", codec)
    expected = every_chunk(MemberReader(index))
    reader = opened(index, tmp_path / "cache")
    assert every_chunk(reader) == expected
    make_all(reader)
    no_decoding(monkeypatch)
    assert every_chunk(reader) == expected
    assert every_chunk(opened_and_found(index, tmp_path / "cache")) == expected
    if codec == "flac":
        truth = b"".join(clip(number).tobytes() for number in (0, 1))
        assert truth in [
            path.read_bytes()[:-32] for path in copies_in(tmp_path / "cache")
        ]


def opened_and_found(index: Index, folder: Path) -> MemberReader:
    """As another process that finds what is there."""
    reader = opened(index, folder)
    make_all(reader)
    assert reader.copies is not None and reader.copies.num_made == 0
    return reader


def test_parts_of_opus_that_are_no_chunk_are_decoded_by_themselves(
    tmp_path: Path,
) -> None:
    """An example anywhere in a clip would depend on whether a copy was there."""
    index = build(tmp_path / "audio", "opus")
    reader = opened(index, tmp_path / "cache")
    make_all(reader)
    rows, starts = np.array([0, 0, 1]), np.array([1000, 4000, 0])
    stops = starts + np.array([CHUNK, CHUNK - 1, 14500])
    assert reader.copies is not None
    assert reader.copies.pcm_bytes(rows, starts, stops) == [None, None, None]
    plain = MemberReader(index).pcm_bytes(rows, starts, stops)
    for found, expected in zip(
        reader.pcm_bytes(rows, starts, stops), plain, strict=True
    ):
        assert found.tobytes() == expected.tobytes()


def test_copies_stay_within_their_budget_and_are_always_of_the_same_shards(
    flac: Index, tmp_path: Path
) -> None:
    """Copies that push each other out would be made again every epoch."""
    reader = opened(flac, tmp_path, budget=SHARD_BYTES + 10)
    for shard in (2, 1, 0):
        reader.make_copy(shard)
    assert [path.stat().st_size for path in copies_in(tmp_path)] == [SHARD_BYTES]
    assert reader.copies is not None and reader.copies.is_there(0)
    assert (reader.copies.num_wanted, reader.copies.num_failed) == (1, 0)


def test_a_copy_is_made_while_another_thread_looks_for_it(
    flac: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look would be taken for a find, and the shard decoded all epoch."""
    reader = opened(flac, tmp_path)
    copies, is_first = reader.copies, iter([True])
    assert copies is not None

    def look(path: Path, num_bytes: int) -> BinaryIO | None:
        found = open_whole(path, num_bytes)
        if next(is_first, False):
            reader.make_copy(0)
        return found

    monkeypatch.setattr("shards.dataset.copies.open_whole", look)
    assert copies.is_there(0) and copies.num_made == 1


def test_a_copy_does_not_push_out_what_is_in_use(flac: Index, tmp_path: Path) -> None:
    """The folder would grow beyond the limit that the user set."""
    reader = MemberReader(flac, ShardCache(tmp_path, SHARD_BYTES + 10, room_seconds=1))
    reader.copies = PcmCopies(flac, reader.cache, CHUNKING, 10**6)
    reader.make_copy(0)
    rows, starts = np.array([0]), np.array([0])
    held = reader.pcm_bytes(rows, starts, starts + CHUNK)
    reader.make_copy(1)
    assert (
        len(copies_in(tmp_path)) == 1 and held[0].tobytes() == clip(0)[:CHUNK].tobytes()
    )
    reader.cache.drop_idle()
    del held
    reader.make_copy(1)
    (left,) = copies_in(tmp_path)
    assert left.stat().st_size == 2 * (1000 + 16000) + 32
    assert every_chunk(reader) == every_chunk(MemberReader(flac))


@pytest.mark.parametrize("damage", ["cut", "changed", "longer"])
def test_a_damaged_copy_is_made_again(
    flac: Index, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a clip, or another's samples, would be trained on for weeks."""
    make_all(opened(flac, tmp_path))
    path = max(copies_in(tmp_path), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.chmod(0o644)
    changed = {
        "cut": whole[:-100],
        "changed": whole[:700] + bytes([whole[700] ^ 1]) + whole[701:],
        "longer": whole + b"\0",
    }[damage]
    path.write_bytes(changed)
    reader = opened(flac, tmp_path)
    assert every_chunk(reader) == every_chunk(MemberReader(flac))
    make_all(reader)
    assert reader.copies is not None and reader.copies.num_made == 1
    assert path.read_bytes() == whole
    assert ("damaged" in caplog.text) == (damage == "changed")


def test_a_full_disk_is_counted_and_the_clips_are_decoded(
    flac: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run would end for want of room for something it can do without."""

    def is_full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    reader = opened(flac, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shards.dataset.copies.os.fsync", is_full)
        make_all(reader)
    assert reader.copies is not None and reader.copies.num_failed == 3
    told = caplog.text
    assert told.count("No space left on device") == 1 and "000000.tar" in told
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    make_all(reader)  # not tried again
    assert copies_in(tmp_path) == []
    assert every_chunk(reader) == every_chunk(MemberReader(flac))


def test_a_clip_that_does_not_decode_fails_where_it_is_read(tmp_path: Path) -> None:
    """One broken clip would end the run from a thread, or pass for silence."""
    index = build(tmp_path / "audio", "flac")
    start = int(index.table.offset[3]) + 200
    with open(index.paths[1], "r+b") as tar:
        tar.seek(start)
        tar.write(bytes(int(index.table.size[3]) - 200))
    reader = opened(index, tmp_path / "cache")
    make_all(reader)
    assert reader.copies is not None and reader.copies.num_failed == 1
    assert len(copies_in(tmp_path / "cache")) == 2
    with pytest.raises(Exception, match="000001.tar: key 'k3_0' at row 1"):
        every_chunk(reader)


CHILD = """
import os, signal, sys, threading
from tests.shards.dataset.test_copies import make_all, opened
from shards.format.index import open_index
from pathlib import Path
reader = opened(open_index(sys.argv[1], kind="audio"), Path(sys.argv[2]))
decode, left = reader.samples, int(sys.argv[3])
def samples(*place):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*place)
reader.samples = samples
make_all(reader)
print(reader.copies.num_made)
"""


def start(index: Index, folder: Path, kill_after: int = 0) -> subprocess.Popen[str]:
    """A process that makes all copies, killed at a clip if that is more than 0."""
    words = [str(index.paths[0].parent), str(folder), str(kill_after)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kill_after", [2, 4])
def test_what_a_killed_process_has_begun_is_made_by_the_next(
    flac: Index, tmp_path: Path, kill_after: int
) -> None:
    """Half a copy would be read, or take up space until somebody deletes it."""
    assert start(flac, tmp_path, kill_after).wait(60) == -9
    assert len(list(tmp_path.glob("*.part"))) == 1
    reader = opened(flac, tmp_path)
    make_all(reader)
    assert list(tmp_path.glob("*.part")) == [] and len(copies_in(tmp_path)) == 3
    assert reader.copies is not None and reader.copies.num_made == 4 - kill_after // 2
    assert every_chunk(reader) == every_chunk(MemberReader(flac))


def test_two_processes_share_what_either_has_made(flac: Index, tmp_path: Path) -> None:
    """Every rank of a machine would decode the whole dataset for itself."""
    both = [start(flac, tmp_path), start(flac, tmp_path)]
    made = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(made) == 3 == len(copies_in(tmp_path))
    assert list(tmp_path.glob("*.part")) == []
    assert every_chunk(opened_and_found(flac, tmp_path)) == every_chunk(
        MemberReader(flac)
    )


def test_a_shard_with_a_copy_is_not_fetched_again(
    flac: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line to the store would carry the compressed shards every epoch."""
    memory = fsspec.filesystem("memory")
    for path in flac.paths[0].parent.iterdir():
        memory.pipe(f"/copied/{path.name}", path.read_bytes())
    index = open_index("memory://copied", kind="audio")
    reader = opened(index, tmp_path)
    make_all(reader)
    names = {shard.sha256 for shard in index.shards}
    reader.cache.drop_idle()
    for name in names:
        (tmp_path / name).unlink()
    assert all(reader.fetch(shard, RUNNING) for shard in range(3))
    assert every_chunk(reader) == every_chunk(MemberReader(flac))
    assert not names & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("told", [lambda: os.geteuid() + 1])
def test_a_copy_of_another_user_is_not_believed(
    flac: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], int],
) -> None:
    """Its name does not say what it holds: they could choose what we train on."""
    make_all(opened(flac, tmp_path))
    reader, other = opened(flac, tmp_path), told()
    monkeypatch.setattr("shards.dataset.copies.os.geteuid", lambda: other)
    make_all(reader)
    assert reader.copies is not None
    assert not any(map(reader.copies.is_there, range(3)))
    assert every_chunk(reader) == every_chunk(MemberReader(flac))
