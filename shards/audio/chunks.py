"""Sizes in the headers of WAV, RF64, W64, AIFF, AU and CAF files, and true ones.

Owns how far the samples of such a file reach. A recorder that was killed, or that wrote
into a pipe, leaves a placeholder, or the size of an earlier moment; decoders believe
it silently. Decodes nothing. All input is untrusted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from shards.audio.streams import Stream, read_at
from shards.errors import ShardError

MAX_CHUNKS = 4096
"""Chunks of a file that are looked at: a hostile file may hold a billion empty ones."""

_BLOCK = 1 << 20
_TAIL_BYTES = 1 << 16

_PLACEHOLDER_STEP, _PLACEHOLDER_BYTES = 1 << 31, 4096
"""Writers that cannot go back to the header leave 0, or 2 or 4 GiB, or up to a page
less (SoX 0x7FFFF000, arecord 0x80000000, FFmpeg 0xFFFFFFFF), or the same in 64 bits."""

TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""How what music programs append to a file begins."""

_KNOWN_CHUNKS = (
    *(b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"fact", b"cue ", b"smpl", b"inst"),
    *(b"axml", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"afsp", b"umid", b"levl"),
    *(b"DISP", b"cart", b"_PMX", b"chna", b"acid", b"MARK", b"COMT", b"NAME", b"AUTH"),
    *(b"ANNO", b"(c) ", b"APPL", b"INST", b"info", b"free", b"pakt", b"kuki", b"chan"),
)
"""Names of chunks that follow samples, known even where the file was cut in them."""


@dataclass(frozen=True)
class _Form:
    """Where one container keeps its sizes."""

    first: int
    """Byte position of the first chunk."""
    header: str
    """struct format of a chunk's name and size; empty if there are no chunks."""
    data: bytes
    """First bytes of the name of the chunk with the samples."""
    ahead: int = 0
    """Bytes in that chunk ahead of the samples, counted in its size."""
    counts_header: bool = False
    """Whether the size of a chunk includes its own name and size."""
    align: int = 2
    """A chunk begins at a multiple of this many bytes."""
    total: tuple[int, str, int] | None = (4, "<I", 8)
    """Position and struct format of the size of the file, and what to add to it."""


_WAV = _Form(12, "<4sI", b"data")
_FORMS = {
    b"RIFF": _WAV,
    b"RIFX": _Form(12, ">4sI", b"data", total=(4, ">I", 8)),
    b"RF64": _Form(12, "<4sI", b"data", total=(20, "<Q", 8)),
    b"BW64": _Form(12, "<4sI", b"data", total=(20, "<Q", 8)),
    b"riff": _Form(
        40, "<16sQ", b"data", counts_header=True, align=8, total=(16, "<Q", 0)
    ),
    b"FORM": _Form(12, ">4sI", b"SSND", ahead=8, total=(4, ">I", 8)),
    b"caff": _Form(8, ">4sQ", b"data", ahead=4, align=1, total=None),
}


def is_placeholder(size: int) -> bool:
    """Whether a writer that could not know the size leaves such a one."""
    return -size % _PLACEHOLDER_STEP <= _PLACEHOLDER_BYTES


def find_repairs(stream: Stream, head: bytes, length: int) -> dict[int, bytes]:
    """What a decoder should read instead of the file's own bytes, by position.

    Empty if the header is right, and for any other file. ``head`` is the beginning of
    the file of ``length`` bytes. Samples reach to the end of the file if their stated
    size is a placeholder, or if what follows them is not more chunks, a tag or zeros.
    Raises ShardError if the header states more than there is and nothing contradicts
    it, and if there is no chunk of samples.
    """
    if head[:4] == b".snd" and len(head) >= 24:
        return _repair_au(stream, head, length)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] != b"WAVE":
        return {}
    if head[:4] == b"FORM" and head[8:12] not in (b"AIFF", b"AIFC"):
        return {}
    form = _FORMS.get(head[:4])
    return {} if form is None else _repair_chunks(stream, form, length)


def _repair_au(stream: Stream, head: bytes, length: int) -> dict[int, bytes]:
    start, stated = struct.unpack_from(">II", head, 4)
    form = _Form(0, "", b"", align=1)
    size = _true_size(stream, form, start, stated, length, None)
    return {} if size == stated else {8: struct.pack(">I", min(size, 0xFFFFFFFF))}


def _repair_chunks(stream: Stream, form: _Form, length: int) -> dict[int, bytes]:
    width, sizes = struct.calcsize(form.header), form.header[0] + form.header[-1]
    overhead = form.ahead + width * form.counts_header
    wide: int | None = None
    for position, name, size in _chunks(stream, form, form.first):
        if name == b"ds64":
            wide = position + width + 8
        if name[:4] != form.data:
            continue
        field, start = position + width - struct.calcsize(sizes), position + width
        if wide is not None:
            field, sizes = wide, "<Q"
            size = struct.unpack("<Q", read_at(stream, wide, 8).ljust(8, b"\0"))[0]
        stated = size if is_placeholder(size) else max(0, size - overhead)
        end = _total_end(stream, form)
        found = _true_size(stream, form, start + form.ahead, stated, length, end)
        if found == stated:
            return {}
        largest = (1 << 8 * struct.calcsize(sizes)) - 1
        return {field: struct.pack(sizes, min(found + overhead, largest))}
    raise ShardError("no data chunk; not a complete file, copy or fetch it again")


def _chunks(
    stream: Stream, form: _Form, position: int
) -> Iterator[tuple[int, bytes, int]]:
    """Position, name and size field of each chunk that begins in the file."""
    width = struct.calcsize(form.header)
    for _ in range(MAX_CHUNKS):
        fields = read_at(stream, position, width)
        if len(fields) < width:
            return
        name, size = struct.unpack(form.header, fields)
        yield position, name, size
        position = _chunk_end(form, position, size)
        position += -position % form.align


def _chunk_end(form: _Form, position: int, size: int) -> int:
    width = struct.calcsize(form.header)
    return position + (max(width, size) if form.counts_header else width + size)


def _total_end(stream: Stream, form: _Form) -> int | None:
    """Where the file ends by its own header; None if that does not tell."""
    if form.total is None:
        return None
    position, kind, add = form.total
    width = struct.calcsize(kind)
    size = struct.unpack(kind, read_at(stream, position, width).ljust(width, b"\0"))[0]
    return None if is_placeholder(size) else size + add


def _true_size(
    stream: Stream,
    form: _Form,
    start: int,
    stated: int,
    length: int,
    total_end: int | None,
) -> int:
    """Bytes of samples from ``start``, of which the header states ``stated``."""
    present = max(0, length - start)
    if stated > present:
        if is_placeholder(stated) or total_end == length:
            return _without_last_chunks(stream, form, start, length) - start
        raise ShardError(
            f"truncated: {start + stated} bytes announced, {length} present; fetch it "
            "again"
        )
    end = start + stated
    ends = {end, end + -end % form.align}
    if any(_holds_others(stream, form, end, length) for end in ends):
        return stated
    if stated and _is_zero(stream, end):
        return stated
    return _without_last_chunks(stream, form, start, length) - start


def _holds_others(stream: Stream, form: _Form, position: int, length: int) -> bool:
    """Whether what follows the samples, if anything, is a tag or chunks."""
    if length - position < 8 or read_at(stream, position, 16).startswith(TAGS):
        return True
    return bool(form.header) and _holds_chunks(stream, form, position, length)


def _holds_chunks(stream: Stream, form: _Form, position: int, length: int) -> bool:
    """Whether chunks fill the rest; the last may be cut if its name is known."""
    end = position
    for begin, name, size in _chunks(stream, form, position):
        if not all(0x20 <= byte < 0x7F for byte in name[:4]):
            return False
        end = _chunk_end(form, begin, size)
        if end > length:
            return name[:4] in _KNOWN_CHUNKS
    return length - end < struct.calcsize(form.header)


def _without_last_chunks(stream: Stream, form: _Form, start: int, length: int) -> int:
    """Where the chunks begin that end the file; its end if there are none known."""
    first = max(start, length - _TAIL_BYTES)
    tail = read_at(stream, first, length - first)
    for name in _KNOWN_CHUNKS if form.header else ():
        position = tail.rfind(name)
        if position >= 0 and _holds_chunks(stream, form, first + position, length):
            return first + position
    return length


def _is_zero(stream: Stream, position: int) -> bool:
    stream.seek(position)
    while block := stream.read(_BLOCK):
        if block.strip(b"\0"):
            return False
    return True


def find_wav_data(data: bytes | memoryview) -> tuple[int, int]:
    """Byte position and stated byte count of the samples of a RIFF WAVE file.

    Raises ShardError if there is no data chunk among the first MAX_CHUNKS.
    """
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"data":
            return position + 8, size
        position += 8 + size + size % 2
    raise ShardError("no data chunk; not a complete WAV file")
