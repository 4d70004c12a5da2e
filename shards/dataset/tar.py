"""Which members a tar from anyone holds, and where; nothing is ever unpacked.

Owns what of the tar format is accepted: plain files under safe relative names. It is
its own reader, strict and always moving forward, because Python's tarfile believes
the sizes in extended headers (CVE-2025-8194: a negative one makes it loop forever),
and because the end mark must be there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.errors import ShardError
from shards.system.files import open_regular

BLOCK_BYTES = 512
MAX_EXTENSION_BYTES = 1 << 16
"""A longer extended header is refused; it only holds a name or a time."""

_NUMBER = re.compile(rb" *([0-7]{1,12})[ \0]*")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,4}) ([^=]+)=")
_FILE, _FOLDER, _LONG_NAME, _PAX = b"0\0", b"5", b"L", b"xg"
_STEERING_PAX = {b"size", b"linkpath", b"charset", b"hdrcharset"}
"""Fields that change how the tar is read; others, except the name, do not matter."""


@dataclass(frozen=True)
class Member:
    """A plain file in a tar."""

    name: str
    offset: int
    """Its first byte in the tar."""
    size: int
    """Its bytes."""

    @property
    def stem(self) -> str:
        """Name without folder and suffix: of ``a/x_1.0_2.0.wav``, ``x_1.0_2.0``."""
        return os.path.splitext(os.path.basename(self.name))[0]

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


def read_member(stream: BinaryIO, member: Member) -> bytes:
    """The bytes of one member of the tar ``stream``."""
    stream.seek(member.offset)
    return stream.read(member.size)


def read_members(path: str | Path, *, refuse_names: bool = True) -> Iterator[Member]:
    """The files in the tar ``path``, in order; folders are passed over.

    Without ``refuse_names``, a name that cannot be shown or is not UTF-8 is given with
    escapes, so with a backslash in it.

    Raises ShardError naming file and byte: a link, a device, a sparse or other special
    member, a name that is absolute, climbs or cannot be shown, a wrong checksum, a
    member or a tar that is cut off, anything after the end mark.
    """
    try:
        with open_regular(path) as stream:
            num_bytes = os.fstat(stream.fileno()).st_size
            yield from _walk(stream, num_bytes, str(path), refuse_names)
    except OSError as error:
        raise ShardError(f"{path}: {error.strerror}") from None


def _walk(
    stream: BinaryIO, num_bytes: int, path: str, refuse_names: bool
) -> Iterator[Member]:
    place, given_name = 0, None
    while True:
        where = f"{path}: at byte {place}"
        stream.seek(place)
        header = stream.read(BLOCK_BYTES)
        if len(header) < BLOCK_BYTES:
            raise ShardError(f"{where}: ends without an end mark; copy it again")
        if not any(header):
            if given_name is not None:
                raise ShardError(f"{where}: ends after a header without its member")
            _check_end(stream, num_bytes - place, where)
            return
        kind, name, size = _parse_header(header, where)
        start = place + BLOCK_BYTES
        place = start + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if place > num_bytes:
            raise ShardError(f"{where}: member {name!r} is cut off; copy it again")
        if kind in _LONG_NAME + _PAX:
            if size > MAX_EXTENSION_BYTES:
                raise ShardError(f"{where}: extended header of {size} bytes refused")
            data = stream.read(size)
            long_name = _read_pax(data, where) if kind in _PAX else data.rstrip(b"\0")
            given_name = long_name or given_name
            continue
        if given_name is not None:
            name, given_name = given_name, None
        safe_name = _check_name(name, where, refuse_names)
        if kind in _FILE:
            yield Member(safe_name, start, size)
        elif kind not in _FOLDER or size:
            raise ShardError(
                f"{where}: member {safe_name!r} is not a plain file (type {kind!r}); "
                "links, devices and sparse files are refused"
            )


def _parse_header(header: bytes, where: str) -> tuple[bytes, bytes, int]:
    """Type, name and size."""
    checksum = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _parse_number(header[148:156], where) != checksum:
        raise ShardError(f"{where}: not a tar header (wrong checksum); copy it again")
    name, prefix = (part.split(b"\0")[0] for part in (header[:100], header[345:500]))
    if header[257:263] == b"ustar\0" and prefix:  # GNU's magic has no prefix
        name = prefix + b"/" + name
    return header[156:157], name, _parse_number(header[124:136], where)


def _parse_number(field: bytes, where: str) -> int:
    match = _NUMBER.fullmatch(field)
    if not match:  # numbers in base 256 are for members of 8 GB and more
        raise ShardError(
            f"{where}: not a tar header ({field!r} is not an octal number)"
        )
    return int(match[1], 8)


def _read_pax(data: bytes, where: str) -> bytes | None:
    """The name that a pax header gives, if any; what would change more is refused."""
    name, place = None, 0
    while place < len(data):
        match = _PAX_RECORD.match(data, place)
        end = place + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise ShardError(f"{where}: broken pax header")
        value = data[match.end() : end - 1]
        if match[2] == b"path":
            name = value
        elif (match[2], value) == (b"hdrcharset", b"BINARY"):
            pass  # Python's tarfile says so of names that are not UTF-8
        elif match[2] in _STEERING_PAX or match[2].startswith(b"GNU.sparse"):
            raise ShardError(f"{where}: pax field {match[2]!r} is refused")
        place = end
    return name


def _check_name(name: bytes, where: str, refuse_names: bool) -> str:
    text = name.decode("utf-8", "backslashreplace")
    if not text.isprintable() or "\\" in text:
        if refuse_names:
            raise ShardError(
                f"{where}: member name {name!r} is refused; expected UTF-8"
            )
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise ShardError(f"{where}: member {text!r} would leave its folder; refused")
    return text


def _check_end(stream: BinaryIO, num_left: int, where: str) -> None:
    """ShardError unless there are two empty blocks and nothing but zeros after them."""
    if num_left < 2 * BLOCK_BYTES:
        raise ShardError(f"{where}: ends without an end mark; copy it again")
    while block := stream.read(1 << 20):
        if block.count(0) < len(block):
            raise ShardError(f"{where}: bytes after the end mark; make it again")
