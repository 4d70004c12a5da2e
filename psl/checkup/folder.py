"""What the file system of a folder does and promises.

Owns trials of what jobs rely on: a rename that is seen whole, locks between processes,
hard links, clocks, and how fast it writes. All of them from one machine: what another
one sees of a shared folder is not tried. Nothing is left behind.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from psl.checkup.finding import Finding
from shards.system.files import file_system_time
from shards.system.flock import try_lock

MAX_CLOCK_SECONDS = 2.0
"""Between clocks; mail to a run's dead holder is decided in tens of seconds."""
LEAST_FREE_GB = 10.0
_WRITTEN_BYTES = 64 << 20
_RENAMES = 200
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p")
_OCTAL = re.compile(r"\\([0-7]{3})")
_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "rb") as stream:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(7)
"""
_HELD = 7


def disk(folder: Path) -> Finding:
    """File system, free space, and how fast a file is written through to it."""
    kind, about = kind_of(folder), os.statvfs(folder)
    free = about.f_bavail * about.f_frsize / 1e9
    size = min(_WRITTEN_BYTES, int(free * 1e9 / 4))
    block, path = os.urandom(1 << 20), folder / "disk"
    start = time.perf_counter()
    with open(path, "wb") as stream:
        for _ in range(max(1, size >> 20)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    rate = max(1, size >> 20) * 1.048576 / seconds
    facts = {"kind": kind, "free_gb": round(free, 1), "write_mb_s": round(rate)}
    text = f"{kind}, {free:.0f} GB free, writes {rate:.0f} MB/s"
    if free < LEAST_FREE_GB:
        cure = "free some space: AudioSet-balanced as FLAC has about 3 GB"
        return Finding("disk", "note", text, cure, facts)
    return Finding("disk", "ok", text, facts=facts)


def kind_of(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system, as in /proc/self/mountinfo; "unknown" if not."""
    place, best, kind = folder.resolve(), -1, "unknown"
    try:
        mounts = mounts or Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return kind
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        words, types = before.split(), after.split()
        if len(words) < 5 or not types:
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), words[4]))
        depth = len(point.parts)
        if depth >= best and place.is_relative_to(point):
            best, kind = depth, types[0]
    return kind


def promises(folder: Path) -> Iterator[Finding]:
    """What jobs that share the folder rely on, tried."""
    yield _renames(folder)
    yield _locks(folder)
    yield _links(folder)
    yield _clock(folder)
    if (kind := kind_of(folder)) in _NETWORK or kind.startswith("fuse"):
        yield Finding(
            "shared folder",
            "note",
            f"{kind}: tried from this machine only",
            "run psl doctor on it on each machine; then psl train on two of them at "
            "once, of which the second is to be refused",
        )


def _renames(folder: Path) -> Finding:
    """Replace a file again and again while a thread reads it."""
    path, contents = folder / "whole", (b"a" * 4096, b"b" * 4096)
    path.write_bytes(contents[0])
    done, torn = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                if path.read_bytes() not in contents:
                    torn.append("a part of it was read")
            except OSError as error:
                torn.append(f"it could not be read: {error.strerror}")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(_RENAMES):
            aside = folder / "aside"
            aside.write_bytes(contents[number % 2])
            os.replace(aside, path)
    finally:
        done.set()
        reader.join()
    if torn:
        text = f"not atomic: while a file was replaced, {torn[0]} ({len(torn)} times)"
        return Finding("rename", "broken", text, "keep runs and data elsewhere")
    return Finding("rename", "ok", f"atomic in {_RENAMES} of {_RENAMES} trials")


def _locks(folder: Path) -> Finding:
    """Whether a lock of this process is seen by another, and given back."""
    path = folder / "lock"
    path.touch()
    command = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)]
    with open(path, "r+b") as stream:
        if try_lock(stream) is None:
            text = "the file system has none; runs use their heartbeat instead"
            return Finding(
                "locks", "note", text, "mount it with locks (NFS: no nolock)"
            )
        held = subprocess.run(command, capture_output=True, timeout=60).returncode
        fcntl.flock(stream, fcntl.LOCK_UN)
        free = subprocess.run(command, capture_output=True, timeout=60).returncode
    if (held, free) == (_HELD, 0):
        return Finding("locks", "ok", "flock holds between processes")
    text = f"flock does not hold between processes (another process: {held}, {free})"
    cure = "do not start a run twice at once, or keep runs elsewhere"
    return Finding("locks", "broken", text, cure)


def _links(folder: Path) -> Finding:
    path = folder / "linked"
    path.touch()
    try:
        os.link(path, folder / "link")
    except OSError as error:
        text = f"none ({error.strerror}); of two writers at once, the last one wins"
        return Finding(
            "hard links", "note", text, "keep datasets in the making elsewhere"
        )
    return Finding("hard links", "ok", "work")


def _clock(folder: Path) -> Finding:
    """How far the clock that dates files is from this machine's."""
    before = time.time()
    there = file_system_time(folder)
    after = time.time()
    if there is None:
        return Finding("clock", "note", "no file could be made to tell its time")
    # files are dated by a clock that ticks up to 10 ms late
    difference = there - min(max(there, before - 0.01), after)
    text = f"{abs(difference):.1f} s {'ahead of' if difference > 0 else 'behind'} ours"
    facts = {"seconds": round(difference, 3)}
    if abs(difference) > MAX_CLOCK_SECONDS:
        cure = "synchronise both machines (chronyc tracking; timedatectl)"
        return Finding("clock", "note", f"the file server's is {text}", cure, facts)
    return Finding("clock", "ok", "the file server's is ours", facts=facts)
