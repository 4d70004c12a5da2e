"""Random access to clips and label rows inside tars.

Owns the memory maps of local shards; cache.py has those of remote ones. Knows where
members lie from the index alone, so nothing in a tar is trusted or searched at run
time; verify.py checks tars against the index.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from shards.audio import members
from shards.dataset.cache import ShardCache, num_open_shards, raise_file_limit
from shards.dataset.copies import PcmCopies
from shards.errors import ClipError, ShardError
from shards.format.index import Index
from shards.format.label_codec import LabelForm, expand_labels, open_labels
from shards.remote.places import is_url
from shards.system.files import open_plain


class MemberReader:
    """The indexed members of a dataset, by row. Safe to share among threads."""

    def __init__(self, index: Index, cache: ShardCache | None = None) -> None:
        """``cache`` is for remote shards; by default the user's."""
        self.index = index
        self.form = LabelForm.of(index.properties)  # of the members of a label dataset
        self.cache = cache or ShardCache()
        self._remote = {
            place: shard
            for place, shard in zip(index.places, index.shards, strict=True)
            if is_url(place)
        }
        self.cache.check_fits(tuple(self._remote.values()), where=index.where)
        raise_file_limit()
        self._open_local = functools.lru_cache(num_open_shards())(_map_file)
        self._open: Callable[[str], np.ndarray] = (
            self._open_any if self._remote else self._open_local
        )
        self._bare = np.zeros(len(index), np.bool_)  # WAV members found to be bare
        self.copies: PcmCopies | None = None
        """Where decoded clips are kept; None for nowhere."""

    def member(self, row: int) -> memoryview:
        """The bytes of row's member, without copying."""
        table = self.index.table
        data = self._open(self.index.places[table.shard[row]])
        start, size = int(table.offset[row]), int(table.size[row])
        if start + size > len(data):
            raise ShardError(
                f"ends at byte {start + size}, but the shard has {len(data)}; copy or "
                "make it again"
            )
        return data[start : start + size].data

    def _open_any(self, place: str) -> np.ndarray:
        if (shard := self._remote.get(place)) is not None:
            return np.frombuffer(self.cache.view(place, shard), np.uint8)
        return self._open_local(place)

    @property
    def any_remote(self) -> bool:
        """Whether any shard has to be fetched."""
        return bool(self._remote)

    def is_remote(self, shard: int) -> bool:
        """Whether shard number ``shard`` has to be fetched."""
        return self.index.places[shard] in self._remote

    @contextlib.contextmanager
    def local_file(self, shard: int) -> Iterator[Path]:
        """A whole shard as a file, fetched if need be, for the length of the block."""
        place = self.index.places[shard]
        if place not in self._remote:
            yield Path(place)
            return
        with self.cache.file(place, self._remote[place]) as path:
            yield path

    def file_read(self, shard: int) -> tuple[Path, int] | None:
        """Path and bytes of the file that a shard is read from; None if remote."""
        if self.copies is not None and self.copies.is_there(shard):
            return self.copies.file(shard)
        place = self.index.places[shard]
        if place in self._remote:
            return None
        return Path(place), self.index.shards[shard].num_bytes

    def fetch(self, shard: int, stop: threading.Event) -> bool:
        """Have a shard on local disk; False if the cache has no room for it now.

        Raises ShardError, JobError or Stopped as ShardCache.fetch does.
        """
        place = self.index.places[shard]
        if place not in self._remote or (self.copies and self.copies.is_there(shard)):
            return True
        return self.cache.fetch(place, self._remote[place], stop)

    def samples(self, row: int, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop`` [N] int16 of an audio row.

        Raises ClipError if its member does not decode, ShardError or JobError if the
        shard is not to be had, or too short.
        """
        codec = self.index.properties["codec"]
        with self._named(row):
            member = self.member(row)
            try:
                return members.decode(
                    member,
                    codec=codec,
                    start=start,
                    stop=stop,
                    sample_rate=self.index.properties["sample_rate"],
                )
            except ShardError as error:
                raise ClipError(str(error)) from None

    def pcm_bytes(
        self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray
    ) -> list[np.ndarray]:
        """Samples ``starts[i]`` to ``stops[i]`` of audio rows ``rows[i]``, as bytes.

        Each is an array uint8 of what samples() gives. Only those of bare WAV members
        in local shards, and of ``copies``, are not copied; so a cache of remote shards
        may be smaller than the shards of a batch.
        """
        if self._are_bare_wav(rows) and (stops <= self.index.table.count[rows]).all():
            pieces = self._bare_wav_bytes(rows, starts, stops)
            if len(pieces) == len(rows):
                return pieces
        places = zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
        if self.copies is None:
            return [np.array(self.samples(*place)).view(np.uint8) for place in places]
        kept = self.copies.pcm_bytes(rows, starts, stops)
        return [
            np.array(self.samples(*place)).view(np.uint8) if piece is None else piece
            for piece, place in zip(kept, places, strict=True)
        ]

    def make_copy(self, shard: int) -> None:
        """Have the clips of a shard decoded in ``copies``, as far as it can be."""
        if self.copies is not None:
            self.copies.make(shard, self.samples)

    def _are_bare_wav(self, rows: np.ndarray) -> bool:
        """Whether the samples of all ``rows`` lie in local shards where the index says.

        Each member's header is read once. Doing so for every chunk took a
        quarter of the time of a batch: a header is in no cache (2026-11-22).
        """
        if self._remote or self.index.properties["codec"] != "wav":
            return False
        rate = self.index.properties["sample_rate"]
        for row in rows[~self._bare[rows]].tolist():
            with self._named(row):
                count = int(self.index.table.count[row])
                self._bare[row] = members.is_bare_wav(self.member(row), count, rate)
        return bool(self._bare[rows].all())

    def _bare_wav_bytes(
        self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray
    ) -> list[np.ndarray]:
        """pcm_bytes() of bare WAV members, up to the first that its shard cuts short.

        The columns of the index are looked up together: twice as fast as one by one.
        """
        table, places, pieces = self.index.table, self.index.places, []
        origin = table.offset[rows] + members.BARE_WAV_BYTES
        columns = table.shard[rows], origin + 2 * starts, origin + 2 * stops
        for shard, first, last in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            data = self._open(places[shard])
            if last > len(data):
                break
            pieces.append(data[first:last])
        return pieces

    def labels(self, row: int, view: int = 0) -> np.ndarray:
        """Chunk labels [K, C] float16 of a view of a label row, all in [0, 1]."""
        with self._named(row):
            opened = self._label_array(row)
            return expand_labels(opened[view], len(self.index.classes), self.form)

    def chunk_labels(
        self, rows: np.ndarray, chunks: np.ndarray, views: np.ndarray
    ) -> np.ndarray:
        """Labels [B, C] float16 of chunk ``chunks[i]`` of view ``views[i]`` of rows.

        All in [0, 1]; copies, as a view of a remote shard keeps it in the cache. Other
        chunks of the rows are not looked at.
        """
        parts: np.ndarray | None = None
        places = zip(rows.tolist(), views.tolist(), chunks.tolist(), strict=True)
        for number, (row, view, chunk) in enumerate(places):
            with self._named(row):
                opened = self._label_array(row)
            if parts is None:
                parts = np.empty((len(rows), *opened.shape[2:]), opened.dtype)
            parts[number] = opened[view, chunk]
        assert parts is not None
        num_classes = len(self.index.classes)
        try:
            return expand_labels(parts, num_classes, self.form)
        except ShardError:
            for number, row in enumerate(rows.tolist()):
                with self._named(row):
                    expand_labels(parts[number : number + 1], num_classes, self.form)
            raise

    def _label_array(self, row: int) -> np.ndarray:
        count, num_classes = int(self.index.table.count[row]), len(self.index.classes)
        return open_labels(self.member(row), count, num_classes, self.form)

    @contextlib.contextmanager
    def _named(self, row: int) -> Iterator[None]:
        """Put the place of ``row`` before the message of a ShardError."""
        try:
            yield
        except ShardError as error:
            raise type(error)(f"{self.index.place(row)}: {error}") from None


def _map_file(path: str) -> np.ndarray:
    """The bytes of a file [N] uint8; slices of an array cost less than of memory."""
    with open_plain(*os.path.split(path)) as stream:
        pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, np.uint8)
