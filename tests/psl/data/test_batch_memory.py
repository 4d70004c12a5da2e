"""The fast way from shards to a batch: where it is written, and that it is the same."""

from __future__ import annotations

import gc
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch

from psl.data.batch_memory import BatchMemory
from psl.data.loader import read_chunks
from shards.dataset.cache import ShardCache
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import open_index

RATE = 16000
LENGTHS = (32000, 30000, 7000)
"""Samples of the three clips; chunks of 16000 make 2, 2 and 1 of them."""


def ramp(number: int) -> np.ndarray:
    """Clip ``number`` [N] int16; no two samples of the clips are alike in a row."""
    return (np.arange(LENGTHS[number]) * (number + 3) % 20011).astype(np.int16)


def wav(samples: np.ndarray, *, after_format: bytes = b"") -> bytes:
    """A WAV file spelt out, with further RIFF chunks before its samples."""
    data = samples.astype("<i2").tobytes()
    format_ = b"fmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0"
    tail = after_format + b"data" + len(data).to_bytes(4, "little") + data
    size = 4 + len(format_) + len(tail)
    return b"RIFF" + size.to_bytes(4, "little") + b"WAVE" + format_ + tail


def write_clips(
    folder: Path, members: list[bytes], counts: list[int], *, num_shards: int = 1
) -> MemberReader:
    """A dataset of WAV members as given; its reader."""
    builder = DatasetBuilder(
        folder=folder,
        kind="audio",
        classes=Classes(("/m/any",), ("Any",)),
        properties={"codec": "wav", "sample_rate": RATE},
        provenance={},
    )
    builder.begin()
    rows = [
        Row(key=f"clip{i}_0", suffix="wav", data=data, count=counts[i], labels=(0,))
        for i, data in enumerate(members)
    ]
    names = [f"{number:06d}.tar" for number in range(num_shards)]
    for name, hand in zip(
        names, np.array_split(np.arange(len(rows)), num_shards), strict=True
    ):
        builder.add(name, [rows[i] for i in hand])
    builder.publish(names)
    return MemberReader(open_index(folder, kind="audio"))


def read_all(reader: MemberReader) -> tuple[np.ndarray, np.ndarray]:
    """All five chunks of 1 s, last clip first."""
    rows, chunks = np.array([2, 1, 1, 0, 0]), np.array([0, 0, 1, 0, 1])
    return read_chunks(
        reader, rows, chunks, Chunking.from_seconds(1.0, RATE), BatchMemory()
    )


EXTRA = b"LIST\x06\0\0\0abcdef"
MEMBERS = {
    "bare": [wav(ramp(i)) for i in range(3)],
    "with further chunks": [wav(ramp(i), after_format=EXTRA) for i in range(3)],
    "mixed": [wav(ramp(i), after_format=EXTRA * (i == 1)) for i in range(3)],
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_batch_holds_the_samples_whatever_the_wav_header(
    tmp_path: Path, kind: str
) -> None:
    """Training would hear header bytes, shifted samples or an earlier batch."""
    reader = write_clips(tmp_path / "clips", MEMBERS[kind], list(LENGTHS))
    expected = np.zeros((5, 16000), np.int16)
    pieces = (ramp(2), ramp(1)[:16000], ramp(1)[16000:], ramp(0)[:16000])
    for line, piece in zip(expected, (*pieces, ramp(0)[16000:]), strict=True):
        line[: len(piece)] = piece
    for _ in range(2):  # the second time headers are known
        pcm, lengths = read_all(reader)
        np.testing.assert_array_equal(pcm, expected)
        assert lengths.tolist() == [7000, 16000, 14000, 16000, 16000]


@pytest.mark.parametrize("place", [0, 8, 20, 22, 34, 36, 41])
def test_a_damaged_wav_header_stops_the_batch_and_names_the_clip(
    tmp_path: Path, place: int
) -> None:
    """What is not 16-bit mono audio would be trained on as noise."""
    damaged = bytearray(MEMBERS["bare"][1])
    damaged[place] ^= 0x55
    members = [MEMBERS["bare"][0], bytes(damaged), MEMBERS["bare"][2]]
    reader = write_clips(tmp_path / "clips", members, list(LENGTHS))
    with pytest.raises(ShardError, match="000000.tar: key 'clip1_0' at row 1: "):
        read_all(reader)


def test_an_index_that_promises_more_samples_than_a_clip_has_is_refused(
    tmp_path: Path,
) -> None:
    """The last chunk would end in the bytes of the next clip."""
    members = [MEMBERS["bare"][0], MEMBERS["bare"][1] + bytes(4000), MEMBERS["bare"][2]]
    reader = write_clips(tmp_path / "clips", members, [32000, 31000, 7000])
    with pytest.raises(ShardError, match="key 'clip1_0' at row 1: 14000 samples"):
        read_all(reader)


def test_asking_for_samples_past_the_end_of_a_clip_is_refused(tmp_path: Path) -> None:
    """A mistake in chunk arithmetic would read on into the next clip."""
    reader = write_clips(tmp_path / "clips", MEMBERS["bare"], list(LENGTHS))
    read_all(reader)
    ask = np.array([0, 1]), np.array([0, 29000]), np.array([100, 30001])
    with pytest.raises(ShardError, match="key 'clip1_0' at row 1: 1000 samples"):
        reader.pcm_bytes(*ask)


def test_a_shard_cut_short_after_it_was_opened_is_named(tmp_path: Path) -> None:
    """A batch of bytes that are not there would kill the process with SIGBUS."""
    reader = write_clips(tmp_path / "clips", MEMBERS["bare"], list(LENGTHS))
    path = tmp_path / "clips" / "000000.tar"
    read_all(reader)  # headers are known now
    with open(path, "rb+") as stream:
        stream.truncate(int(reader.index.table.offset[2]) + 100)
    reader._open_local.cache_clear()  # as when another shard took its place
    with pytest.raises(ShardError, match="000000.tar: key 'clip2_0' at row 2: ends at"):
        read_all(reader)


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_batch_may_need_more_remote_shards_than_the_cache_holds(
    tmp_path: Path, kind: str
) -> None:
    """Training on a small disk would stop, waiting for room that it takes itself."""
    folder = tmp_path / "clips"
    local = write_clips(folder, MEMBERS[kind], list(LENGTHS), num_shards=3)
    largest = max(shard.num_bytes for shard in local.index.shards)
    cache = ShardCache(tmp_path / "cache", largest + 1024, room_seconds=3)
    url = f"memory://{tmp_path.name}/clips"
    for path in folder.iterdir():
        fsspec.filesystem("memory").pipe(f"{url}/{path.name}", path.read_bytes())
    remote = MemberReader(open_index(url, kind="audio"), cache)
    assert remote.any_remote
    for _ in range(2):
        np.testing.assert_array_equal(read_all(remote)[0], read_all(local)[0])


def test_flac_chunks_come_out_as_wav_chunks_do(tmp_path: Path) -> None:
    """Choosing a codec would change what is trained on."""
    folder = tmp_path / "clips"
    write_clips(folder, MEMBERS["bare"], list(LENGTHS))
    expected = read_all(MemberReader(open_index(folder, kind="audio")))
    builder = DatasetBuilder(
        folder=tmp_path / "flac",
        kind="audio",
        classes=Classes(("/m/any",), ("Any",)),
        properties={"codec": "flac", "sample_rate": RATE},
        provenance={},
    )
    builder.begin()
    rows = []
    for number in range(3):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, ramp(number), RATE, subtype="PCM_16")
        data = path.read_bytes()
        rows.append(Row(f"clip{number}_0", "flac", data, LENGTHS[number], (0,)))
    builder.add("000000.tar", rows)
    builder.publish(["000000.tar"])
    found = read_all(MemberReader(open_index(tmp_path / "flac", kind="audio")))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    """A batch would change while the model looks at it."""
    memory = BatchMemory()
    first = memory.take((4, 1000))
    first[:] = 7
    address = first.ctypes.data
    tensor = torch.from_numpy(first)[1:3].view(-1)
    view = first[2:, ::5]
    del first
    gc.collect()
    second = memory.take((4, 1000))
    second[:] = 1
    assert second.ctypes.data != address
    assert (tensor == 7).all() and (view == 7).all()
    del tensor
    gc.collect()
    third = memory.take((4, 1000))
    third[:] = 1
    assert (view == 7).all() and third.ctypes.data != address
    del view
    gc.collect()
    assert memory.take((4, 1000)).ctypes.data == address


def test_batches_begin_with_a_page_whatever_their_shape() -> None:
    """Copies to them take six times as long on some processors."""
    memory = BatchMemory()
    for shape in ((32, 32000), (3, 7), (1, 1), (32, 32000)):
        array = memory.take(shape)
        assert array.shape == shape and array.dtype == np.int16
        assert array.ctypes.data % 4096 == 0
        array[:] = 5  # writable to its end
        assert array.sum(dtype=np.int64) == 5 * shape[0] * shape[1]
        del array
