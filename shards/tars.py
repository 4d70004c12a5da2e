"""The members of a tar, as untrusted input.

Owns what a tar may hold: plain files under plain relative names. Opens no member.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shards.schema import ShardError


@dataclass(frozen=True)
class Member:
    """A plain file in a tar."""

    name: str
    offset: int
    """First byte in the tar."""
    size: int

    @property
    def stem(self) -> str:
        """Name without folder and suffix: of ``a/x_1.0_2.0.wav``, ``x_1.0_2.0``."""
        return os.path.splitext(os.path.basename(self.name))[0]

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


def read_members(path: str | Path) -> Iterator[Member]:
    """The members of an uncompressed tar, in order, folders left out.

    Raises ShardError on a damaged tar, or one that ends early, and on links, devices
    and names that would leave the folder they are unpacked in.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isdir():
                    continue
                where = f"{path}: member {info.name!r}"
                if not info.isreg() or info.issparse():
                    raise ShardError(f"{where} is no plain file; make the tar again")
                name = PurePosixPath(info.name)
                if name.is_absolute() or ".." in name.parts:
                    raise ShardError(
                        f"{where} would leave its folder; do not unpack this tar"
                    )
                yield Member(info.name, info.offset_data, info.size)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ShardError(f"{path}: not a whole tar: {error}") from None


def _check_end(path: str | Path, offset: int) -> None:
    """ShardError unless the zero block that ends a tar is at ``offset``.

    Python's reader takes a tar that was cut between two members for a whole one.
    """
    with open(path, "rb") as stream:
        stream.seek(offset)
        end = stream.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise ShardError(f"{path}: cut short, its end is missing; fetch it again")
