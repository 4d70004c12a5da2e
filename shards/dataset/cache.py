"""Remote shards as local files, in a folder that stays under its limit.

Owns who fetches what and when, the check of what is there, and the memory maps;
cache_files.py has the rules of the folder, which any number of threads and processes
share. The folder itself is all the state there is, so a process may be killed on any
line.

A shard that was in the folder before is read whole and compared with its SHA-256 before
its first use by this process, at 1.5 GB/s of one core with SHA instructions
(2026-11-28).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import os
import resource
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.dataset.cache_files import (
    WANTED_NAME,
    Deadline,
    locked,
    make_room,
    note_wanted,
    open_part,
    open_whole,
    part_path,
    remove_damaged,
    shared_mode,
    size_of,
)
from shards.dataset.cache_memory import CheckedFiles, ShardMaps
from shards.errors import ShardError
from shards.format.index import ShardRecord
from shards.remote.places import RetryPolicy, Stopped, download
from shards.remote.transport import WrongContent
from shards.system.files import file_sha256, sync_folder
from shards.system.flock import try_lock
from shards.system.threads import start_thread
from shards.system.writing import naming_write

_log = logging.getLogger(__name__)

MAX_OPEN_SHARDS = 2048
"""Memory maps kept at most by a reader or a cache; each holds a file descriptor."""

DEFAULT_LIMIT_BYTES = 100 * 10**9

_POLL_SECONDS = 0.05
_YIELD_SECONDS = 0.25  # between looks at .wanted
_WANTED_FOR_SECONDS = 1.0  # after the last touch of .wanted
_RENEW_SECONDS = 10.0  # after which maps are dropped, and made again if still in use


class ShardCache:
    """Remote shards on local disk. Safe to share among threads and processes.

    Never more than ``limit_bytes`` are in ``folder`` (a shard being downloaded counts
    at its full size); the least recently used make room. Shards in use are not removed.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        retry: RetryPolicy | None = None,
        room_seconds: float = 120.0,
    ) -> None:
        self._folder = folder
        self.limit_bytes = limit_bytes
        self.retry = retry or RetryPolicy()
        self.room_seconds = room_seconds
        """How long to wait while all shards in the folder are in use."""
        raise_file_limit()
        self.maps = ShardMaps(num_open_shards())
        """Those kept; let go of when another process waits for room."""
        self._checked = CheckedFiles()
        self.is_wanted = False
        """Whether another process waits for room, so that no map is to be kept."""
        self._yielding = threading.Lock()  # held by the thread that yields

    @functools.cached_property
    def folder(self) -> Path:
        """Looked for late, as not every user has a cache folder, or needs one."""
        return default_folder() if self._folder is None else Path(self._folder)

    def check_fits(self, shards: tuple[ShardRecord, ...], *, where: str) -> None:
        """ValueError if one of ``shards`` is larger than the whole cache."""
        largest = max(shards, key=lambda shard: shard.num_bytes, default=None)
        if largest is not None and largest.num_bytes > self.limit_bytes:
            raise ValueError(
                f"{self.folder}: the cache may hold {self.limit_bytes} bytes, but "
                f"{largest.name} of {where} has {largest.num_bytes}; raise the limit "
                "(loader.cache_gb), or pack smaller shards"
            )

    def view(self, url: str, shard: ShardRecord) -> memoryview:
        """The bytes of a shard, fetched if need be. It stays while a view of it does.

        Raises ShardError or JobError as ``fetch`` does, and JobError if no room can be
        made in ``room_seconds``.
        """
        if self.is_wanted:  # keep nothing that another process waits for
            return self._map(url, shard)
        view = self.maps.get(url)
        if view is None:
            view = self._map(url, shard)
            self.maps.put(url, view)
        return view

    def fetch(self, url: str, shard: ShardRecord, stop: threading.Event) -> bool:
        """Have a shard on disk, as the most recently used; False if there is no room.

        Raises ShardError if it is not there, or not the one in the index; JobError if
        it cannot be had within the retry policy; Stopped.
        """
        stream = self._open(url, shard, stop)
        if stream is not None:
            stream.close()
        return stream is not None

    @contextlib.contextmanager
    def file(self, url: str, shard: ShardRecord) -> Iterator[Path]:
        """The path of a shard, which stays for the length of the block."""
        with self._wait_for(url, shard):
            yield self.folder / shard.sha256

    def drop_idle(self) -> None:
        """Let go of all maps that no view is using, so that others may make room."""
        self.maps.clear()

    def _map(self, url: str, shard: ShardRecord) -> memoryview:
        self.start_yielding()
        with self._wait_for(url, shard) as stream:
            # the map has a duplicate of the descriptor, hence a share in its lock
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))

    def _wait_for(self, url: str, shard: ShardRecord) -> BinaryIO:
        """A whole shard, open, with a shared lock; waits for room."""
        self.check_fits((shard,), where=url)
        deadline = Deadline(f"{url}: need {shard.num_bytes} bytes in {self.folder}")
        while (stream := self._open(url, shard)) is None:
            self.drop_idle()
            note_wanted(self.folder)
            deadline.check(
                self.room_seconds,
                f"all of its {self.limit_bytes} bytes are in use by other shards; "
                "raise the limit (loader.cache_gb) or start fewer processes on it",
            )
            time.sleep(_POLL_SECONDS)
        return stream

    def _open(
        self, url: str, shard: ShardRecord, stop: threading.Event | None = None
    ) -> BinaryIO | None:
        """A whole shard, open, with a shared lock; None if there is no room for it."""
        path, part_path = self.folder / shard.sha256, self._part_path(shard)
        deadline = Deadline(str(part_path))
        while True:
            whole = open_whole(path, shard.num_bytes)
            if whole is not None and self._is_intact(whole, path, shard):
                return whole
            if stop is not None and stop.is_set():
                raise Stopped
            with locked(self.folder, self.room_seconds):
                # looked for again, as it may have come in the meantime
                if not path.exists():
                    if not (part_path.exists() or self._make_room(shard.num_bytes)):
                        return None
                    if (part := open_part(part_path)) is not None:
                        break
            deadline.check(
                self.retry.patience_seconds,
                "another process holds the lock and is making no progress",
                progress=size_of(part_path),
            )
            time.sleep(_POLL_SECONDS)
        return self._complete(part, url, shard, stop)

    def _is_intact(self, whole: BinaryIO, path: Path, shard: ShardRecord) -> bool:
        """Whether a shard is what its name says; if not, it is closed and removed."""
        if self._checked.is_intact(whole, shard):
            return True
        whole.close()
        _log.warning("%s: damaged, its sha256 is another; fetched again", path)
        with locked(self.folder, self.room_seconds):
            remove_damaged(path, "its sha256 is another")
        return False

    def _part_path(self, shard: ShardRecord) -> Path:
        return part_path(self.folder, shard.sha256, shard.num_bytes)

    def _make_room(self, num_bytes: int) -> bool:
        return make_room(self.folder, num_bytes, self.limit_bytes)

    def _complete(
        self,
        part: BinaryIO,
        url: str,
        shard: ShardRecord,
        stop: threading.Event | None,
    ) -> BinaryIO:
        """Download what ``part`` lacks, check it and give it its final name.

        A part that turns out wrong is fetched once more from the start.
        """
        found = []
        try:
            for _ in range(2):
                wrong = self._fill(part, url, shard, stop)
                if wrong is None:
                    return self._publish(part, shard)
                found.append(wrong)
                part.truncate(0)
                part.seek(0)
        except (OSError, ShardError):  # such as a full disk, which must not stay full
            self._discard(part, shard)
            raise
        except BaseException:
            part.close()  # the next process continues from here
            raise
        self._discard(part, shard)
        raise ShardError(
            f"{url}: found {' and '.join(found)}, expected {shard.num_bytes} bytes of "
            f"sha256 {shard.sha256[:16]}...; the shard there is not the one in the "
            "index, put it there again"
        )

    def _fill(
        self,
        part: BinaryIO,
        url: str,
        shard: ShardRecord,
        stop: threading.Event | None,
    ) -> str | None:
        """Download what ``part`` lacks; what it then is if not the shard."""
        part.seek(0, os.SEEK_END)
        with naming_write(self._part_path(shard), "to the cache"):
            try:
                download(url, part, shard.num_bytes, retry=self.retry, stop=stop)
            except WrongContent as error:
                return str(error)
            part.flush()
            os.fsync(part.fileno())
        found = file_sha256(part)
        return None if found == shard.sha256 else f"sha256 {found[:16]}..."

    def _publish(self, part: BinaryIO, shard: ShardRecord) -> BinaryIO:
        with locked(self.folder, self.room_seconds):
            os.fchmod(part.fileno(), shared_mode(self.folder) & 0o444)
            os.replace(self._part_path(shard), self.folder / shard.sha256)
            try_lock(part, shared=True)
        sync_folder(self.folder)
        self._checked.note(part, shard)
        return part

    def _discard(self, part: BinaryIO, shard: ShardRecord) -> None:
        """Give the reserved room back."""
        with part, locked(self.folder, self.room_seconds):
            self._part_path(shard).unlink(missing_ok=True)

    def start_yielding(self) -> None:
        """Look now and then whether another process waits for room."""
        if self._yielding.acquire(blocking=False):
            start_thread(_yield_when_wanted, weakref.ref(self), name="cache")


def default_folder() -> Path:
    """The per-user cache folder of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "psl" / "shards"


def num_open_shards() -> int:
    """Maps a reader can afford: a quarter of the descriptors.

    Every stream of a batch has a few shards open; a reader that cannot keep them maps
    and unmaps at each read.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_OPEN_SHARDS
    return MAX_OPEN_SHARDS if soft == resource.RLIM_INFINITY else min(soft, wanted) // 4


def raise_file_limit() -> None:
    """Let this process open enough files for MAX_OPEN_SHARDS, or all it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_OPEN_SHARDS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _yield_when_wanted(reference: weakref.ref[ShardCache]) -> None:
    """Let go of idle maps while a process waits for room, and of all now and then.

    The latter tells by their use which shards are still needed. Ends with the cache.
    """
    renewed = time.monotonic()
    while (cache := reference()) is not None:
        try:
            age = time.time() - (cache.folder / WANTED_NAME).stat().st_mtime
        except OSError:
            age = float("inf")
        cache.is_wanted = age < _WANTED_FOR_SECONDS
        if cache.is_wanted or time.monotonic() - renewed > _RENEW_SECONDS:
            cache.drop_idle()
            renewed = time.monotonic()
        del cache
        time.sleep(_YIELD_SECONDS)
