"""Clips of compressed shards as plain samples, in the folder of a cache.

Owns what a copy of a shard holds, how it is made, found and checked. A reader that
finds one cuts its chunks from it; without one it decodes, and gets the same samples. So
nothing here is ever waited for, and a copy that cannot be made costs time alone.

A copy holds the samples that decoding gives, int16 as in WAV, clip after clip, and at
its end the SHA-256 of them. Its name is a hash of what it was made of and by which
decoders. It is one more file of the cache's folder and under its limit, its locks, and
its rules for what a killed process leaves (cache_files.py). Only copies that the same
user made are used: their name does not say what they hold.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from shards.dataset.cache import ShardCache
from shards.dataset.cache_files import (
    locked,
    make_room,
    open_part,
    open_whole,
    part_path,
    remove_damaged,
    shared_mode,
)
from shards.dataset.cache_memory import CheckedFiles
from shards.errors import ShardError
from shards.format.chunking import Chunking
from shards.format.index import Index, ShardRecord
from shards.format.schema import SOURCE_CODEC
from shards.system.exits import JobError
from shards.system.files import sync_folder
from shards.system.flock import try_lock
from shards.system.writing import naming_write

_log = logging.getLogger(__name__)

EXACT_CODECS = ("flac", SOURCE_CODEC)
"""Of which a part of a clip has the samples of the whole; of Opus it has not."""

_DIGEST_BYTES = 32
_BLOCK_BYTES = 1 << 20
_VERSION = 1

Decode = Callable[[int, int, int], np.ndarray]
"""Row, first and past-the-last sample -> samples [N] int16."""


class PcmCopies:
    """Copies of the shards of one audio dataset. Safe to share among threads.

    Of FLAC and of "source" members whole clips are kept. What decoding a part of an
    Opus clip gives depends on where the part begins; so of Opus the chunks of
    ``chunking`` are kept, each as decoded by itself, and any other part is decoded.
    """

    def __init__(
        self, index: Index, cache: ShardCache, chunking: Chunking, budget: int
    ) -> None:
        """Of at most ``budget`` bytes: the first shards that fit, always the same.

        Copies that push each other out would be made again every epoch.
        """
        self._index, self._cache, self._chunking = index, cache, chunking
        self._whole_clips = index.properties["codec"] in EXACT_CODECS
        counts = index.table.count.astype(np.int64)
        sizes = counts if self._whole_clips else self._kept_samples(counts)
        ends = np.cumsum(sizes)
        bounds = np.arange(len(index.shards) + 1)
        self._rows = np.searchsorted(index.table.shard, bounds)  # of each shard
        before = np.concatenate([[0], ends])[self._rows]  # samples ahead of a shard
        self._origin = ends - sizes - before[:-1][index.table.shard]
        self.num_bytes = 2 * np.diff(before) + _DIGEST_BYTES
        """[S] bytes of the copy of each shard."""
        self._wanted = np.cumsum(self.num_bytes) <= budget
        self._records = [self._record(shard) for shard in range(len(index.shards))]
        self._checked = CheckedFiles(_holds_its_digest)
        self._there: set[int] = set()
        self._failed: dict[int, str] = {}
        self.num_made = 0
        """Copies that this process has made."""

    @property
    def num_failed(self) -> int:
        """Copies that this process could not make, and does not try again."""
        return len(self._failed)

    @property
    def num_wanted(self) -> int:
        """Shards that are to have a copy."""
        return int(self._wanted.sum())

    def is_there(self, shard: int) -> bool:
        """Whether a shard has a copy; looks for one that others have made."""
        known = shard in self._there
        if not known and self._wanted[shard] and self._view(shard) is not None:
            self._there.add(shard)
        return shard in self._there

    def file(self, shard: int) -> tuple[Path, int]:
        """Path and bytes of the copy of a shard, whether it is there or not."""
        record = self._records[shard]
        return self._cache.folder / record.sha256, record.num_bytes

    def pcm_bytes(
        self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray
    ) -> list[np.ndarray | None]:
        """Samples ``starts[i]`` to ``stops[i]`` of ``rows[i]`` as uint8, not copied.

        None for what no copy holds.
        """
        counts = self._index.table.count[rows]
        first, is_kept = starts, stops <= counts
        if not self._whole_clips:
            chunks = starts // self._chunking.hop_samples
            there = self._chunking.bounds(chunks, counts)
            is_kept &= (there[0] == starts) & (there[1] == stops)
            is_kept &= chunks < self._chunking.num_chunks(counts)
            first = chunks * self._chunking.chunk_samples
        begin = 2 * (self._origin[rows] + first)
        end = begin + 2 * (stops - starts)
        found: list[np.ndarray | None] = []
        for kept, shard, one, other in zip(
            is_kept.tolist(),
            self._index.table.shard[rows].tolist(),
            begin.tolist(),
            end.tolist(),
            strict=True,
        ):
            known = kept and shard in self._there
            data = self._view(shard) if known else None
            if known and data is None:
                self._there.discard(shard)  # somebody has removed it
            found.append(None if data is None else data[one:other])
        return found

    def make(self, shard: int, decode: Decode) -> None:
        """Have a copy of a shard, if it is to have one and there is room.

        Does nothing where another process is making it. What fails is counted and
        logged, and not tried again by this process.
        """
        if not self._wanted[shard] or shard in self._failed or self.is_there(shard):
            return
        try:
            if self._make(shard, decode):
                self._there.add(shard)
                self.num_made += 1
        except (OSError, JobError, ShardError) as error:
            self._failed[shard] = str(error)
            if len(self._failed) == 1:
                _log.warning(
                    "%s: no copy of it (loader.transcode): %s; its clips are decoded "
                    "every time",
                    self._index.places[shard],
                    error,
                )

    def _make(self, shard: int, decode: Decode) -> bool:
        cache, record = self._cache, self._records[shard]
        folder, seconds = cache.folder, cache.room_seconds
        path = part_path(folder, record.sha256, record.num_bytes)
        with locked(folder, seconds):
            if (folder / record.sha256).exists():  # another user's, or just made
                return False
            if not path.exists() and not make_room(
                folder, record.num_bytes, cache.limit_bytes
            ):
                return False
            part = open_part(path)
        if part is None:
            return False
        with part:
            done = False
            try:
                with naming_write(path, "to the cache"):
                    self._fill(part, shard, decode)
                with locked(folder, seconds):
                    os.fchmod(part.fileno(), shared_mode(folder) & 0o444)
                    os.replace(path, folder / record.sha256)
                    try_lock(part, shared=True)
                    done = True
                sync_folder(folder)
                self._checked.note(part, record)
            finally:
                if not done:
                    with locked(folder, seconds):
                        path.unlink(missing_ok=True)
        return True

    def _fill(self, part: BinaryIO, shard: int, decode: Decode) -> None:
        part.seek(0)
        part.truncate()  # what a killed process has left
        digest = hashlib.sha256()
        for row, start, end in self._pieces(shard):
            samples = decode(row, start, end).astype("<i2", copy=False).tobytes()
            digest.update(samples)
            part.write(samples)
        part.write(digest.digest())
        part.flush()
        os.fsync(part.fileno())
        assert part.tell() == self._records[shard].num_bytes

    def _pieces(self, shard: int) -> Iterator[tuple[int, int, int]]:
        """Row, first and past-the-last sample of what a copy holds, in its order."""
        for row in range(*self._rows[shard : shard + 2].tolist()):
            count = int(self._index.table.count[row])
            if self._whole_clips:
                yield row, 0, count
                continue
            chunks = np.arange(int(self._chunking.num_chunks(np.array(count))))
            for start, stop in zip(*self._chunking.bounds(chunks, count), strict=True):
                yield row, int(start), int(stop)

    def _kept_samples(self, counts: np.ndarray) -> np.ndarray:
        """[R] samples of all chunks of each clip."""
        num_chunks = self._chunking.num_chunks(counts)
        last = self._chunking.bounds(num_chunks - 1, counts)
        return (num_chunks - 1) * self._chunking.chunk_samples + last[1] - last[0]

    def _record(self, shard: int) -> ShardRecord:
        """The name and size of the copy of a shard."""
        first, last = self._rows[shard : shard + 2].tolist()
        table, source = self._index.table, self._index.shards[shard]
        chunking = None if self._whole_clips else self._chunking
        versions = (
            soundfile.__libsndfile_version__,
            av.__version__,
            soxr.__version__,
        )
        rate = self._index.properties["sample_rate"]
        made_of = (_VERSION, source.sha256, rate, chunking, versions)
        digest = hashlib.sha256(f"copy {made_of}".encode())
        for column in (table.offset, table.size, table.count):
            digest.update(column[first:last].astype("<i8").tobytes())
        num_bytes = int(self.num_bytes[shard])
        return ShardRecord(source.name, last - first, num_bytes, digest.hexdigest())

    def _view(self, shard: int) -> np.ndarray | None:
        """The bytes of a copy [N] uint8, None if there is none."""
        record, cache = self._records[shard], self._cache
        view = cache.maps.get(record.sha256)
        if view is None:
            view = self._map(cache.folder / record.sha256, record)
            if view is None:
                return None
            if not cache.is_wanted:
                cache.maps.put(record.sha256, view)
        return np.frombuffer(view, np.uint8)

    def _map(self, path: Path, record: ShardRecord) -> memoryview | None:
        stream = None
        try:
            stream = open_whole(path, record.num_bytes)
            if stream is None or os.fstat(stream.fileno()).st_uid != os.geteuid():
                return None
            if not self._checked.is_intact(stream, record):
                _log.warning("%s: damaged; the copy is made again", path)
                with locked(path.parent, self._cache.room_seconds):
                    remove_damaged(path, "its sha256 is another")
                return None
            self._cache.start_yielding()
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, JobError):  # then it is decoded
            return None
        finally:
            if stream is not None:
                stream.close()


def _holds_its_digest(stream: BinaryIO, record: ShardRecord) -> bool:
    """Whether the last bytes of a copy are the SHA-256 of all others."""
    digest, left = hashlib.sha256(), record.num_bytes - _DIGEST_BYTES
    stream.seek(0)
    while left > 0 and (block := stream.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    return left == 0 and stream.read() == digest.digest()
