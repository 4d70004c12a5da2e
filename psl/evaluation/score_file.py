"""Scores [R, C] in a file without a name, for more clips than memory holds.

Owns the layout, which small tables have in memory. The file belongs to this process: it
has no name, so a process that is killed leaves nothing. All of it is reserved before
the first clip is scored, so a disk that is too small is reported then. Plain reads and
writes, as a memory map of a disk that fills up would kill the process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from psl.evaluation.score_tables import clips_in_a_block, column_blocks
from shards.system.exits import JobError
from shards.system.writing import naming_write


class ScoreFile:
    """A table of scores on disk, or in memory if small.

    It is first written by clip, then, once sealed, read.

    Clips are in blocks of about 16 MB. While it is written, a block holds clip after
    clip; sealing transposes each block where it lies, so that a class of a block is
    contiguous, and so are a few classes of it. 2 bytes for each clip are in memory.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_clips: int,
        num_classes: int,
        dtype: np.dtype | None = None,
        row: str = "clip",
        bytes_in_memory: int = 0,
    ) -> None:
        """A file in ``folder``, or in the next folder above it that there is.

        Scores are float32, or ``dtype``. ``row`` is what a row is called in errors. A
        table that takes no more than ``bytes_in_memory`` is held in memory instead, in
        the same layout. Raises OSError naming the folder if it cannot hold the scores.
        """
        self.shape = (num_clips, num_classes)
        self._row = row
        self._dtype = np.dtype(dtype or np.float32)
        self._step = clips_in_a_block(num_classes)
        self._times_written = np.zeros(num_clips, np.uint8)
        self.is_finite = np.ones(num_clips, np.bool_)
        """[R] whether all scores of each clip that was written are."""
        self._folder = _existing(Path(folder))
        self._what = f"{self._bytes(num_clips) / 1e9:.1f} GB of scores"
        self._memory: np.ndarray | None = None
        if self._bytes(num_clips) <= bytes_in_memory:
            self._memory = np.empty(self._bytes(num_clips), np.uint8)
            return
        with naming_write(self._folder, self._what), contextlib.ExitStack() as stack:
            self._stream = stack.enter_context(
                tempfile.TemporaryFile(dir=self._folder, buffering=0)
            )
            _reserve(self._stream.fileno(), self._bytes(num_clips))
            stack.pop_all()

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk, or memory, its space back."""
        if self._memory is None:
            self._stream.close()
        else:
            self._memory = np.empty(0, np.uint8)

    def write(self, places: np.ndarray, scores: np.ndarray) -> None:
        """Set the scores [B, C] of the clips ``places`` [B]."""
        np.add.at(self._times_written, places, 1)
        self.is_finite[places] = np.isfinite(scores).all(axis=1)
        order = np.argsort(places)
        jumps = np.flatnonzero(np.diff(places[order]) != 1) + 1
        for run in np.split(order, jumps) if len(order) else []:
            rows = np.ascontiguousarray(scores[run], self._dtype)
            self._write_at(self._bytes(int(places[run[0]])), rows)

    def seal(self) -> None:
        """Make it readable. Raises JobError unless each clip was written once."""
        wrong = np.flatnonzero(self._times_written != 1)
        if len(wrong):
            times = self._times_written[wrong[0]]
            raise JobError(
                f"{self._row} {wrong[0]} was scored {times} times, expected once"
            )
        for start, stop in self._blocks():
            rows = self._read_at(self._bytes(start), (stop - start, self.shape[1]))
            self._write_at(self._bytes(start), np.ascontiguousarray(rows.T))

    def row_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """As ScoreTable has them."""
        for start, stop in self._blocks():
            block = self._read_at(self._bytes(start), (self.shape[1], stop - start))
            yield start, np.ascontiguousarray(block.T)

    def columns(self) -> Iterator[np.ndarray]:
        """As ScoreTable has them."""
        for part in column_blocks(self.shape):
            found = np.empty((part.stop - part.start, self.shape[0]), self._dtype)
            for start, stop in self._blocks():
                place = self._bytes(start)
                place += part.start * (stop - start) * self._dtype.itemsize
                found[:, start:stop] = self._read_at(place, (len(found), stop - start))
            yield from found

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """First and past-the-last clip of each block."""
        for start in range(0, self.shape[0], self._step):
            yield start, min(start + self._step, self.shape[0])

    def _bytes(self, num_clips: int) -> int:
        return num_clips * self.shape[1] * self._dtype.itemsize

    def _write_at(self, place: int, values: np.ndarray) -> None:
        flat = values.reshape(-1).view(np.uint8)
        if self._memory is not None:
            self._memory[place : place + len(flat)] = flat
            return
        data = flat.data
        with naming_write(self._folder, self._what):
            while data:
                done = os.pwrite(self._stream.fileno(), data, place)
                data, place = data[done:], place + done

    def _read_at(self, place: int, shape: tuple[int, int]) -> np.ndarray:
        values = np.empty(shape, self._dtype)
        flat = values.reshape(-1).view(np.uint8)
        if self._memory is not None:
            flat[:] = self._memory[place : place + len(flat)]
            return values
        data = flat.data
        while data:
            done = os.preadv(self._stream.fileno(), [data], place)
            assert done, "a file that is as long as it was made"
            data, place = data[done:], place + done
        return values


def _existing(folder: Path) -> Path:
    """``folder``, or the next one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _reserve(handle: int, num_bytes: int) -> None:
    """Take ``num_bytes`` of the disk, where the system can."""
    if num_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, num_bytes)
