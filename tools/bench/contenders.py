"""The ways of reading 2-s chunks that tools/bench/data.py compares, and their audio.

Owns the copies of the same clips that each way needs, and one function for each way,
which yields batches until a number of them is reached. Measures nothing.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import soundfile
import torch
import webdataset

from psl.data.batch_memory import BatchMemory
from psl.data.config import LoaderConfig
from psl.data.loader import fetch_ahead, read_chunks
from shards.audio.members import encode
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.schema import ClipInfo
from shards.order.plan import Plan

CLIP_SECONDS, CHUNK_SECONDS, BATCH_SIZE, SEED = 10.0, 2.0, 32, 0
RATE = 16000
"""Of synthetic clips, Hz."""
CLIPS_PER_SHARD = 100
HDF5_NAME = "clips.h5"
READ_BYTES = 1 << 20
SHUFFLE_CLIPS = 1000

Clips = Iterator[tuple[str, np.ndarray]]
"""Keys and samples [N] int16."""
Step = tuple[np.ndarray, np.ndarray]
"""Rows and chunk numbers of a batch."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Contender:
    """One way of reading."""

    name: str
    read: Callable[[int], Iterator[Any]]
    """Yields at least so many batches; all of it is timed."""
    whole_epochs: bool = False
    """It cannot stop inside an epoch without having read what it does not give."""


@dataclass(frozen=True)
class Audio:
    """The same clips in every form."""

    folder: Path
    codecs: dict[str, Index]

    @property
    def wav(self) -> Index:
        """The clips as WAV members."""
        return self.codecs["wav"]

    @functools.cached_property
    def chunking(self) -> Chunking:
        """Chunks of CHUNK_SECONDS."""
        return Chunking.from_seconds(CHUNK_SECONDS, self.wav.properties["sample_rate"])

    @functools.cached_property
    def chunk_bounds(self) -> list[tuple[str, int, int]]:
        """Key, first and past-the-last sample of each chunk, in the order on disk."""
        counts, found = self.wav.table.count, []
        for row, num_chunks in enumerate(self.chunking.num_chunks(counts)):
            for chunk in range(num_chunks):
                start, stop = self.chunking.bounds(chunk, counts[row])
                found.append((self.wav.key(row), int(start), int(stop)))
        return found


def make_audio(
    folder: Path, *, source: str | None, num_clips: int, codecs: tuple[str, ...]
) -> Audio:
    """The clips of ``source``, or synthetic ones, in every form; made where missing.

    Raises ShardError if ``source`` has too few clips, or ``folder`` is of others.
    """
    what = {"source": source or "synthetic", "num_clips": num_clips, "seed": SEED}
    if source is None:
        clips, rate = _synthetic_clips(num_clips), RATE
    else:
        index = open_index(source, kind="audio")
        clips, rate = _clips_of(index, num_clips), index.properties["sample_rate"]
    _pack(folder / "wav", clips, "wav", rate, what)
    wav = open_index(folder / "wav", kind="audio")
    for codec in codecs:
        _pack(folder / codec, _clips_of(wav, num_clips), codec, rate, what)
    if not (folder / HDF5_NAME).exists():
        write_hdf5(folder / HDF5_NAME, wav)
    return Audio(folder, {c: open_index(folder / c, kind="audio") for c in codecs})


def _synthetic_clips(num_clips: int) -> Clips:
    """Decaying tones over noise that rises and falls."""
    time = np.arange(round(CLIP_SECONDS * RATE)) / RATE
    for number in range(num_clips):
        rng = np.random.default_rng((SEED, number))
        noise = np.convolve(rng.standard_normal(len(time)), np.full(8, 0.3), "same")
        level = 10 ** rng.uniform(-3, -1.5)
        wave = level * (1 + np.sin(rng.uniform(1, 9) * time)) * noise
        for onset in rng.uniform(0, time[-1], 8):
            after = np.maximum(time - onset, 0)
            tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * after)
            wave += 0.1 * tone * np.exp(-after * rng.uniform(1, 6))
        pcm = np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
        yield f"clip{number:06d}_0", pcm


def _clips_of(index: Index, num_clips: int) -> Clips:
    """The first clips of CLIP_SECONDS of a dataset."""
    length = round(CLIP_SECONDS * index.properties["sample_rate"])
    rows = np.flatnonzero(index.table.count == length)[:num_clips].tolist()
    if len(rows) < num_clips:
        raise ShardError(
            f"{index.where}: {len(rows)} clips of {CLIP_SECONDS:g} s, expected "
            f"{num_clips}; ask for fewer --clips"
        )
    reader = MemberReader(index)
    for row in rows:
        yield index.key(row), reader.samples(row, 0, length)


def _pack(
    folder: Path, clips: Clips, codec: str, rate: int, what: dict[str, Any]
) -> None:
    builder = DatasetBuilder(
        folder=folder,
        kind="audio",
        classes=Classes(("/m/any",), ("Any",)),
        properties={"codec": codec, "sample_rate": rate},
        provenance={"packed_by": "tools/bench/data.py", **what},
    )
    if not builder.begin():
        return
    names: list[str] = []
    rows = (_row(codec, rate, *clip) for clip in clips)
    while shard := list(itertools.islice(rows, CLIPS_PER_SHARD)):
        names.append(f"{len(names):06d}.tar")
        builder.add(names[-1], shard)
    builder.publish(names)


def _row(codec: str, rate: int, key: str, samples: np.ndarray) -> Row:
    info = ClipInfo(key, 0.0, len(samples), rate, ("/m/any",))
    return Row(
        key=key,
        suffix=codec,
        data=encode(samples, codec=codec, sample_rate=rate),
        count=len(samples),
        labels=(0,),
        extra={"json": info.to_bytes()},
    )


def write_hdf5(path: Path, index: Index) -> None:
    """One int16 dataset a clip, as upstream's scripts/utils/dump_wave_to_hdf5.py."""
    reader, unfinished = MemberReader(index), path.with_suffix(".tmp")
    with h5py.File(unfinished, "w") as store:
        for row in range(len(index)):
            count = int(index.table.count[row])
            store[index.key(row)] = reader.samples(row, 0, count)
    os.replace(unfinished, path)


def read_plain(audio: Audio, num_batches: int) -> Iterator[memoryview]:
    """The bytes of the WAV tars, file after file, into one buffer; nothing else.

    The buffer begins with a page: elsewhere the copy can take six times as long (see
    psl/data/batch_memory.py), and this is to be the limit.
    """
    buffer, left = mmap.mmap(-1, READ_BYTES), num_batches * BATCH_SIZE
    left *= sum(shard.num_bytes for shard in audio.wav.shards)
    left //= len(audio.chunk_bounds)
    for path in itertools.cycle(audio.wav.paths):
        with open(path, "rb", buffering=0) as stream:
            while left > 0 and (num_bytes := stream.readinto(buffer)):
                left -= num_bytes
                yield memoryview(buffer)[:num_bytes]
        if left <= 0:
            return


class Hdf5Chunks(torch.utils.data.Dataset[torch.Tensor]):
    """Upstream's dataset of chunks, without its table lookups, labels and transforms.

    The file is opened once in each process; int16 becomes float32 over float64.
    Source: WeakChunkedHDF5Dataset in upstream's src/dataset.py.
    """

    def __init__(self, audio: Audio) -> None:
        self._path = audio.folder / HDF5_NAME
        self._bounds = audio.chunk_bounds
        self._store: h5py.File | None = None

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, number: int) -> torch.Tensor:
        key, start, stop = self._bounds[number]
        if self._store is None:
            self._store = h5py.File(self._path, "r")
        data = (self._store[key][start:stop] / 32768.0).astype("float32")
        return torch.as_tensor(data)


def read_hdf5(
    audio: Audio, num_batches: int, *, workers: int = 0
) -> Iterator[torch.Tensor]:
    """Upstream's way: random chunks under a DataLoader; batches float32."""
    epochs = -(-num_batches // (len(audio.chunk_bounds) // BATCH_SIZE))
    orders = [
        np.random.default_rng((SEED, epoch)).permutation(len(audio.chunk_bounds))
        for epoch in range(epochs)
    ]
    yield from torch.utils.data.DataLoader(
        Hdf5Chunks(audio),
        batch_size=BATCH_SIZE,
        sampler=np.concatenate(orders)[: num_batches * BATCH_SIZE].tolist(),
        num_workers=workers,
    )


def read_webdataset(audio: Audio, num_batches: int) -> Iterator[np.ndarray]:
    """The webdataset library: shuffled shards, a shuffle buffer, soundfile, chunks."""

    def cut(clips: Iterator[tuple[bytes]]) -> Iterator[np.ndarray]:
        for (data,) in clips:
            samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
            for start in range(0, len(samples), audio.chunking.hop_samples):
                yield samples[start : start + audio.chunking.chunk_samples]

    urls = [str(path) for path in audio.wav.paths]
    for _ in range(-(-num_batches // (len(audio.chunk_bounds) // BATCH_SIZE))):
        yield from (
            webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
            .shuffle(SHUFFLE_CLIPS)
            .to_tuple("wav")
            .compose(cut)
            .batched(BATCH_SIZE, collation_fn=np.stack, partial=False)
        )


@dataclass(frozen=True)
class OurReader:
    """Plan, reader and batches as in training, on the clips in one codec."""

    audio: Audio
    reader: MemberReader
    memory: BatchMemory
    plan: Plan

    @staticmethod
    def of(audio: Audio, codec: str) -> OurReader:
        """With no file mapped and no header checked yet."""
        index = audio.codecs[codec]
        plan = Plan(
            num_chunks=audio.chunking.num_chunks(index.table.count),
            clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
            global_batch_size=BATCH_SIZE,
            seed=SEED,
        )
        return OurReader(audio, MemberReader(index), BatchMemory(), plan)

    def read(self, num_batches: int, *, threads: int = 0) -> Iterator[np.ndarray]:
        """Batches int16 in the plan's order; 0 threads: made by the caller's."""
        return self._each(self._batch, num_batches, threads)

    def hash(self, num_batches: int, *, threads: int) -> Iterator[list[bytes]]:
        """SHA-256 of the members instead: what threads can gain on this machine."""
        return self._each(self._digests, num_batches, threads)

    def _each(
        self, make: Callable[[Step], Result], num_batches: int, threads: int
    ) -> Iterator[Result]:
        epochs = map(self.plan.steps, itertools.count())
        steps = itertools.islice(itertools.chain.from_iterable(epochs), num_batches)
        if threads:
            yield from fetch_ahead(make, steps, LoaderConfig(threads=threads))
        else:
            yield from map(make, steps)

    def _batch(self, step: Step) -> np.ndarray:
        chunking = self.audio.chunking
        return read_chunks(self.reader, *step, chunking, self.memory)[0]

    def _digests(self, step: Step) -> list[bytes]:
        rows, _ = step
        return [hashlib.sha256(self.reader.member(row)).digest() for row in rows]


def contenders(audio: Audio) -> list[Contender]:
    """All ways of reading, the limit first."""
    found = [
        Contender("plain read", partial(read_plain, audio)),
        Contender("HDF5", partial(read_hdf5, audio)),
        Contender("HDF5, 2 workers", partial(read_hdf5, audio, workers=2)),
        Contender("webdataset", partial(read_webdataset, audio), whole_epochs=True),
    ]
    for codec in audio.codecs:
        ours = OurReader.of(audio, codec)
        found.append(Contender(f"ours, {codec}", ours.read))
        found += _threaded(f"ours, {codec}", ours.read)
    found += _threaded("SHA-256", OurReader.of(audio, "wav").hash)
    found.append(Contender("ours, wav, first epoch", partial(_read_anew, audio)))
    return found


def _threaded(name: str, read: Callable[..., Iterator[Any]]) -> list[Contender]:
    return [
        Contender(f"{name}, 1 thread", partial(read, threads=1)),
        Contender(f"{name}, 2 threads", partial(read, threads=2)),
    ]


def _read_anew(audio: Audio, num_batches: int) -> Iterator[np.ndarray]:
    """As OurReader, with the files mapped and headers checked again every epoch."""
    epoch_batches = len(audio.chunk_bounds) // BATCH_SIZE
    for first in range(0, num_batches, epoch_batches):
        left = num_batches - first
        yield from OurReader.of(audio, "wav").read(min(left, epoch_batches))
