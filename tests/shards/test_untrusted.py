"""Datasets from strangers: nothing they hold is run, believed or unpacked."""

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shards import info
from shards.audio.members import encode
from shards.dataset.reader import MemberReader
from shards.dataset.tar import read_members
from shards.errors import ShardError
from shards.format.index import Index, open_index
from shards.format.schema import ClipInfo, parse_json
from shards.format.table import Table, check_table
from shards.verify import verify
from tests.hostile import Columns, forge, memory_bound, seal
from tests.shards.test_bad_data import (
    KEYS,
    RATE,
    Row,
    audio_rows,
    build,
    build_labels,
    label_rows,
)

Fields = dict[str, Any]


@pytest.fixture
def audio(tmp_path: Path) -> Index:
    """Four clips in two shards, in ``tmp_path / "audio"``."""
    return build(tmp_path / "audio", audio_rows())


def refused(folder: Path, *words: str) -> None:
    """Opening, verifying and describing ``folder`` all end in the same ShardError."""
    for command in (lambda: open_index(folder, kind=None), lambda: verify(folder)):
        with pytest.raises(ShardError) as error:
            command()
        assert all(word in str(error.value) for word in words), error.value
    with pytest.raises(ShardError):
        info.main([str(folder), "--json"])


# index.json


def shard(**changes: Any) -> Callable[[Fields], None]:
    return lambda fields: fields["shards"][0].update(changes)


def field(**changes: Any) -> Callable[[Fields], None]:
    return lambda fields: fields.update(changes)


SHARD_IS_WRONG = "a shard is malformed or a duplicate"
FORGED_FIELDS: dict[str, tuple[Callable[[Fields], None], str]] = {
    "command": (shard(name="pipe:touch canary"), SHARD_IS_WRONG),
    "climbing": (shard(name="../000000.tar"), SHARD_IS_WRONG),
    "absolute": (shard(name="/etc/passwd"), SHARD_IS_WRONG),
    "folder": (shard(name="sub/000000.tar"), SHARD_IS_WRONG),
    "url": (shard(name="http:x.tar"), SHARD_IS_WRONG),
    "no tar": (shard(name="index.json"), SHARD_IS_WRONG),
    "hidden": (shard(name=".parts.tar"), SHARD_IS_WRONG),
    "NUL": (shard(name="a\0.tar"), SHARD_IS_WRONG),
    "same name": (shard(name="000001.tar"), SHARD_IS_WRONG),
    "number as name": (shard(name=7), SHARD_IS_WRONG),
    "clips of text": (shard(num_clips="2"), SHARD_IS_WRONG),
    "true clips": (shard(num_clips=True), SHARD_IS_WRONG),
    "negative bytes": (shard(num_bytes=-1), SHARD_IS_WRONG),
    "huge bytes": (shard(num_bytes=10**300), SHARD_IS_WRONG),
    "other clips": (shard(num_clips=3), "num_clips 4, but 5 in its shards"),
    "extra field": (shard(url="x"), SHARD_IS_WRONG),
    "no shards": (field(shards=[]), "field shards"),
    "shards of numbers": (field(shards=[1, 2]), SHARD_IS_WRONG),
    "huge count": (field(num_clips=2**40), "field num_clips"),
    "float count": (field(num_clips=4.0), "field num_clips"),
    "kind": (field(kind=["audio"]), "field kind"),
    "codec": (field(codec="pickle"), "field codec"),
    "codec of list": (field(codec=["wav"]), "field codec"),
    "hop": (field(kind="labels", chunk_samples=10, hop_samples=20), "hop_samples 20"),
    "no rate": (lambda fields: fields.pop("sample_rate"), "field sample_rate"),
    "rate": (field(sample_rate=0), "field sample_rate"),
    "classes": (field(num_classes=0), "field num_classes"),
    "hash": (field(clips_sha256="x"), "field clips_sha256"),
    "provenance": (field(provenance="me"), "field provenance"),
    "deep": (field(x=[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]), "nested too deeply"),
    "surrogate": (field(x="\ud800"), "surrogates not allowed"),
    "NaN": (field(x=float("nan")), "NaN is not a number"),
}


@pytest.mark.parametrize("what", FORGED_FIELDS)
def test_a_forged_field_of_an_index_is_refused_by_name(audio: Index, what: str) -> None:
    """Else a shared dataset reads, or runs, what it likes on who opens it."""
    change, words = FORGED_FIELDS[what]
    forge(audio.paths[0].parent, fields=change)
    refused(audio.paths[0].parent, "index.json: ", words)


NOT_JSON = {
    "twice": (b'{"a": 1, "a": 2}', "duplicate field 'a'"),
    "many twice": (b"{%s}" % b",".join([b'"%d":0' % (n % 90000) for n in range(99999)]),
                   "duplicate field"),
    "deep": (b"[" * 100_000, "RecursionError"),
    "huge number": (b"1" * 10_000, "integer string"),
    "infinite": (b"1e999", "too large"),
    "UTF-16": ("{}".encode("utf-16"), "UnicodeDecodeError"),
    "byte order mark": (b"\xef\xbb\xbf{}", "BOM"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_JSON)
def test_json_that_others_read_in_their_own_way_is_refused(what: str) -> None:
    """Else two programs see two datasets, or one of them crashes."""
    data, words = NOT_JSON[what]
    with pytest.raises(ShardError, match=f"^here: not JSON as expected: .*{words}"):
        parse_json(data, where="here")


@pytest.mark.parametrize(
    "data",
    [
        b'{"id": "x", "start_seconds": 0, "num_samples": 1.5, "sample_rate": 1, '
        b'"labels": []}',
        b'{"id": 7, "start_seconds": 0, "num_samples": 1, "sample_rate": 1, '
        b'"labels": []}',
        b'{"id": "x", "start_seconds": 0, "num_samples": 1, "sample_rate": 1, '
        b'"labels": [["a"]]}',
        b'{"id": "x", "start_seconds": [], "num_samples": 1, "sample_rate": 1, '
        b'"labels": []}',
        b'["id"]',
        b"7",
    ],
)
def test_a_description_of_other_types_is_refused(data: bytes) -> None:
    """Else a number where a text should be ends verification in a traceback."""
    with pytest.raises(ShardError, match="^here: not a clip description"):
        ClipInfo.from_bytes(data, where="here")


# clips.npz


def value(name: str, row: int, content: Any) -> Callable[[Columns], None]:
    """Puts ``content`` into one row of a column."""

    def change(columns: Columns) -> None:
        column = columns[name].copy()
        if isinstance(content, bytes):
            column = column.astype(f"S{max(len(content), 5)}")
        column[row] = content
        columns[name] = column

    return change


def column(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    return lambda columns: columns.update({name: change(columns[name])})


BIG = 2**63 - 512
FORGED_COLUMNS: dict[str, tuple[Callable[[Columns], Any], str]] = {
    "shard too high": (value("shard", 3, 2), "row 3 (b'a3_0'): shard 2"),
    "shard negative": (value("shard", 0, -1), "row 0 (b'a0_0'): shard -1"),
    "shards mixed": (column("shard", lambda c: c[::-1].copy()), "row 0"),
    "offset negative": (value("offset", 1, -512), "row 1 (b'a1_0'): offset -512"),
    "offset in a header": (value("offset", 1, 0), "offset 0 is impossible"),
    "offset odd": (value("offset", 1, 1000), "offset 1000 is impossible"),
    "offset overflows": (value("offset", 1, BIG), f"offset {BIG} is impossible"),
    "same place twice": (value("offset", 1, 512), "row 1 (b'a1_0') begins before"),
    "size negative": (value("size", 1, -(2**63)), "size -9223372036854775808"),
    "size overflows": (value("size", 1, 2**63 - 1), "size 9223372036854775807"),
    "no bytes": (value("size", 1, 0), "size 0 is impossible"),
    "no samples": (value("count", 2, 0), "row 2 (b'a2_0'): count 0"),
    "negative samples": (value("count", 2, -1), "count -1 is impossible"),
    "hours": (value("count", 2, 2**31 - 1), "count 2147483647 is impossible"),
    "more than its bytes": (value("count", 2, 500), "count 500 is impossible"),
    "label too high": (value("label", 0, 3), "0 to 3, expected classes below 3"),
    "label negative": (value("label", 0, -1), "weak labels -1 to 2"),
    "label twice": (
        lambda c: c.update(label=np.array([1, 1, 2, 0], "<i4"),
                           label_start=np.array([0, 2, 2, 3, 4])),
        "row 0: weak labels [1 1] are not ascending",
    ),
    "labels go back": (value("label_start", 1, 3), "without going back"),
    "labels start late": (value("label_start", 0, 1), "run from 0 to 4"),
    "labels overflow": (value("label_start", 2, 2**63 - 1), "without going back"),
    "key climbs": (value("key", 1, b"../a"), "row 1: key '../a' is not allowed"),
    "key with a dot": (value("key", 1, b"a.b"), "row 1: key 'a.b' is not allowed"),
    "key reserved": (value("key", 1, b"__a__"), "row 1: key '__a__' is not allowed"),
    "key too long": (value("key", 1, b"k" * 91), "row 1: key 'kkk"),
    "key far too long": (value("key", 1, b"k" * 100), "expected |S"),
    "key not ASCII": (value("key", 1, b"\xc3\xa9"), "is not allowed"),
    "key with a NUL": (value("key", 1, b"a\0b"), "row 1: key 'a\\x00b'"),
    "no key": (value("key", 1, b""), "row 1: key '' is not allowed"),
    "key twice": (value("key", 3, b"a0_0"), "duplicate key b'a0_0' in rows 0 and 3"),
    "objects": (column("count", lambda c: c.astype(object)), "expected <i4"),
    "floats": (column("count", lambda c: c.astype(float)), "expected <i4"),
    "other end first": (column("count", lambda c: c.astype(">i4")), "expected <i4"),
    "two axes": (column("count", lambda c: c[None]), "expected <i4"),
    "too short": (column("count", lambda c: c[:3]), "expected"),
    "column missing": (lambda columns: columns.pop("crc32"), "expected the columns"),
    "column more": (lambda c: c.update(x=c["count"]), "expected the columns"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED_COLUMNS)
def test_a_forged_table_is_refused_by_row(audio: Index, what: str) -> None:
    """Else training reads other bytes than a clip's, or past the end of a file."""
    change, words = FORGED_COLUMNS[what]
    forge(audio.paths[0].parent, columns=change)
    refused(audio.paths[0].parent, "clips.npz", words)


def test_labels_in_a_label_dataset_and_chunks_past_its_members_are_refused(
    tmp_path: Path, audio: Index
) -> None:
    """Else weak labels come from where nobody looks for them, or memory runs out."""
    build_labels(tmp_path / "labels", audio)
    whole = (tmp_path / "labels" / "clips.npz").read_bytes()
    one_label = {
        "label": np.array([0], "<i4"),
        "label_start": np.array([0, 1, 1, 1, 1]),
    }
    attacks: list[tuple[Callable[[Columns], None], str]] = [
        (value("count", 0, 2**31 - 1), "count 2147483647 is impossible"),
        (lambda columns: columns.update(one_label), "expected classes below 0"),
    ]
    for change, words in attacks:
        (tmp_path / "labels" / "clips.npz").write_bytes(whole)
        forge(tmp_path / "labels", columns=change)
        refused(tmp_path / "labels", words)


def full_table(num_rows: int) -> tuple[Table, np.ndarray]:
    """A table like full AudioSet's, and its clips per shard."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789-=", "S1")
    keys = letters[rng.integers(0, len(letters), (num_rows, 17))].view("S17").ravel()
    hands = np.array_split(np.arange(num_rows), -(-num_rows // 500))
    clips = np.array([len(hand) for hand in hands])
    place = np.concatenate([np.arange(n) for n in clips])
    return (
        Table(
            key=keys,
            shard=np.repeat(np.arange(len(clips), dtype=np.int32), clips),
            offset=512 + place * 321_536,
            size=np.full(num_rows, 320_044),
            count=np.full(num_rows, 160_000, np.int32),
            crc32=np.zeros(num_rows, np.uint32),
            label_start=2 * np.arange(num_rows + 1),
            label=np.tile(np.array([3, 9], np.int32), num_rows),
        ),
        clips,
    )


def test_full_audioset_is_checked_within_a_moment_and_little_memory() -> None:
    """Else safety costs each of 512 ranks more than the rest of its start."""
    table, clips = full_table(2_084_320)
    start = time.process_time()
    with memory_bound(300 << 20):
        check_table(
            table,
            shard_clips=clips,
            shard_bytes=clips * 321_536 + 10240,
            num_classes=527,
            min_count=1,
            max_count=9_600_000,
            least_bytes=2,
            where="here",
        )
    assert time.process_time() - start < 3  # 0.3 s on an idle machine, 2026-11-22


# Bombs


def compressed(data: bytes) -> bytes:
    """The same archive, deflated: 100 MB of zeros would be 100 kB."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(100 << 20) * (name == "key.npy"))
    return packed.getvalue()


def claims_terabytes(data: bytes) -> bytes:
    """The same columns, with .npy headers of 10^11 rows over four."""
    claimed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(claimed, "w", zipfile.ZIP_STORED) as new,
    ):
        for name in old.namelist():
            four, many = b"(4,), }" + b" " * 11, b"(100000000000,), }"
            new.writestr(name, old.read(name).replace(four, many))
    return claimed.getvalue()


def a_lie_in_the_directory(data: bytes) -> bytes:
    """The same archive, whose directory gives the first column 4 GB."""
    place = data.index(b"PK\x01\x02") + 20
    sizes = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    return data[:place] + sizes + data[place + 8 :]


def test_tables_that_unfold_to_gigabytes_are_refused_in_little_memory(
    audio: Index,
) -> None:
    """Else 100 kB from a stranger take a node down."""
    folder = audio.paths[0].parent
    before = (folder / "clips.npz").read_bytes()
    bombs: list[tuple[Callable[[bytes], bytes], str]] = [
        (compressed, "is compressed"),
        (claims_terabytes, "a column of 100000000000"),
        (a_lie_in_the_directory, "more bytes than there are"),
    ]
    for bomb, words in bombs:
        (folder / "clips.npz").write_bytes(before)
        forge(folder, table=bomb)
        assert (folder / "clips.npz").read_bytes() != before
        with memory_bound(50 << 20):
            refused(folder, "clips.npz: not a clip table", words)


def test_a_clip_that_claims_hours_is_refused_in_little_memory(tmp_path: Path) -> None:
    """Else 200 kB of FLAC become gigabytes of samples on every rank."""
    hour = 3600 * RATE
    data = encode(np.zeros(hour, np.int16), codec="flac", sample_rate=RATE)
    described = ClipInfo("a0_0", 0.0, hour, RATE, ())
    row = Row("a0_0", "flac", data, hour, (), {"json": described.to_bytes()})
    assert len(data) < 1 << 20
    with pytest.raises(ShardError, match=f"count {hour} is impossible"):
        build(tmp_path / "hour", [row], codec="flac")
    forge(tmp_path / "hour", columns=value("count", 0, 1000))
    with (
        memory_bound(50 << 20),
        pytest.raises(ShardError, match="more than the 1000 samples"),
    ):
        verify(tmp_path / "hour")


def test_a_huge_description_is_not_read(tmp_path: Path) -> None:
    """Else a gigabyte of JSON is parsed for a clip of ten seconds."""
    row, *rest = audio_rows()
    row.extra["json"] += b" " * (2 << 20)
    build(tmp_path / "audio", [row, *rest])
    with pytest.raises(ShardError, match="'a0_0' at row 0: its .json member has 2097"):
        verify(tmp_path / "audio")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(audio: Index) -> None:
    """Else a job hangs for ever on a folder that somebody prepared."""
    folder = audio.paths[0].parent
    for name in ("index.json", "clips.npz", "classes.csv", "000000.tar"):
        (folder / name).rename(folder / "aside")
        os.mkfifo(folder / name)
        with pytest.raises(ShardError, match=name):
            open_index(folder, kind="audio")
        (folder / "aside").replace(folder / name)


# Members


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def npy_of_objects(path: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Canary(path)] * 6, object).reshape(2, 3))
    return stream.getvalue()


def append_member(path: Path, name: str, data: bytes, **header: Any) -> None:
    with tarfile.open(path, "a", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for attribute, content in header.items():
            setattr(member, attribute, content)
        tar.addfile(member, io.BytesIO(data))


def test_nothing_in_a_dataset_is_unpickled_or_run(tmp_path: Path, audio: Index) -> None:
    """Else who downloads a dataset runs the code of who made it."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(canary)))
    canary.unlink()  # so the canary sings when it is let out
    rows = label_rows()
    rows[0] = Row(KEYS[0], "npy", npy_of_objects(canary), 2)
    build_labels(tmp_path / "labels", audio, rows)
    with pytest.raises(ShardError, match="not a float16 label array"):
        verify(tmp_path / "labels")
    with pytest.raises(ShardError, match="not a float16 label array"):
        MemberReader(open_index(tmp_path / "labels", kind="labels")).labels(0)
    for suffix in ("pkl", "pickle", "pyd", "pth", "gz", "npy"):
        build(tmp_path / suffix, audio_rows())
        data = pickle.dumps(Canary(canary))
        append_member(tmp_path / suffix / "000000.tar", f"a1_0.{suffix}", data)
        forge(tmp_path / suffix)
        words = f"member 'a1_0.{suffix}' is not in the index"
        with pytest.raises(ShardError, match=words):
            verify(tmp_path / suffix)

    def hide(columns: Columns) -> None:
        columns["count"] = np.array([Canary(canary)] * 4, object)

    forge(tmp_path / "audio", columns=hide)
    refused(tmp_path / "audio", "expected <i4")
    assert not canary.exists()


UNSAFE: dict[str, dict[str, Any]] = {
    "symbolic link": {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "a0_0.wav"},
    "device": {"type": tarfile.BLKTYPE},
    "pipe": {"type": tarfile.FIFOTYPE},
    "sparse": {"type": tarfile.GNUTYPE_SPARSE},
}


@pytest.mark.parametrize("what", UNSAFE)
def test_what_is_no_plain_file_in_a_tar_is_refused(audio: Index, what: str) -> None:
    """Else whoever unpacks the shard gets links and devices of a stranger."""
    append_member(audio.paths[0], "x", b"", **UNSAFE[what])
    forge(audio.paths[0].parent)
    with pytest.raises(
        ShardError, match="000000.tar: at byte .* 'x' is not a plain file"
    ):
        verify(audio.paths[0].parent)


@pytest.mark.parametrize(
    "name", ["/x.wav", "../x.wav", "a/../../x.wav", "a\\x", "\x1bx"]
)
def test_a_name_that_leaves_its_folder_or_cannot_be_shown_is_refused(
    audio: Index, name: str
) -> None:
    """Else unpacking the shard writes where its maker likes."""
    append_member(audio.paths[0], name, b"")
    with pytest.raises(ShardError, match="would leave its folder|name .* is refused"):
        list(read_members(audio.paths[0]))


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_times_of_other_tar_writers_are_read(
    tmp_path: Path, format_: int
) -> None:
    """Else tars that circulate, written by other tools, cannot be adopted."""
    path, long = tmp_path / "x.tar", "folder/" + "n" * 150 + ".wav"
    with tarfile.open(path, "w", format=format_) as tar:
        for name, data in (("folder", None), (long, b"abc"), ("é.wav", b"")):
            member = tarfile.TarInfo(name)
            member.mtime = 1.5  # in PAX as text of its own
            if data is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert [(m.name, m.offset, m.size) for m in read_members(path)] == expected
    assert [name for name, _, _ in expected] == [long, "é.wav"]


@pytest.mark.parametrize(
    "record",
    [b"20 size=1000000000\n", b"22 GNU.sparse.major=1\n", b"9 path\n", b"99 a=b\n"],
)
def test_extended_headers_that_change_more_than_a_name_are_refused(
    tmp_path: Path, record: bytes
) -> None:
    """Else a size hidden in one makes readers skip members, or loop for ever."""
    path = tmp_path / "x.tar"
    path.write_bytes(b"")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, len(record)
        tar.addfile(header, io.BytesIO(record))
        tar.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(
        ShardError, match="at byte 0: (broken pax|pax field .* refused)"
    ):
        list(read_members(path))


def test_a_tar_that_ends_in_a_header_for_nothing_is_refused(tmp_path: Path) -> None:
    """Else a tar passes here that tarfile calls broken, and its last clip is lost."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        header = tarfile.TarInfo("long")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
        tar.addfile(header, io.BytesIO(b"a.wav"))
    with pytest.raises(ShardError, match="at byte 1024: ends after a header without"):
        list(read_members(path))


def test_a_tar_without_its_end_or_with_more_after_it_is_refused(audio: Index) -> None:
    """Else a copy that broke off at a member, or hidden bytes, pass for a tar."""
    path = audio.paths[0]
    whole = path.read_bytes()
    end = max(member.offset + 512 for member in read_members(path))
    for data, words in (
        (whole[:end], "ends without an end mark"),
        (whole[: end + 512], "ends without an end mark"),
        (whole[:-1] + b"x", "bytes after the end mark"),
        (whole + whole, "bytes after the end mark"),
    ):
        path.write_bytes(data)
        with pytest.raises(ShardError, match=words):
            list(read_members(path))


def wav(**form: Any) -> bytes:
    stream = io.BytesIO()
    channels, rate = form.pop("channels", 1), form.pop("rate", RATE)
    samples = np.zeros((400, channels), np.int16)
    soundfile.write(stream, samples, rate, format="WAV", **form)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        wav(rate=8000),
        wav(rate=655350),
        wav(channels=2),
        wav(subtype="PCM_U8") + bytes(400),
        wav(subtype="PCM_24"),
        wav(subtype="FLOAT"),
        wav()[:22] + struct.pack("<H", 0) + wav()[24:],
        wav()[:444] + b"x" * 400,
        b"garbage!" * 106,
    ],
)
def test_a_member_of_another_form_than_the_index_says_is_refused(
    tmp_path: Path, data: bytes
) -> None:
    """Else stereo or 8-bit audio is trained on as noise."""
    described = ClipInfo("a0_0", 0.0, 400, RATE, ())
    row = Row("a0_0", "wav", data, 400, (), {"json": described.to_bytes()})
    build(tmp_path / "audio", [row])
    if data.endswith(b"x" * 400):  # whole, and noise: nothing says it is not audio
        verify(tmp_path / "audio")
        return
    with pytest.raises(ShardError, match="000000.tar: key 'a0_0' at row 0: "):
        verify(tmp_path / "audio")


# Verification


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_names_the_first_bad_key_of_each_bad_shard(
    tmp_path: Path, workers: int
) -> None:
    """Else damage is mended one run of hours at a time."""
    rows = [
        Row(f"{row.key}-{n}", row.suffix, row.data, row.count, row.labels,
            {"json": row.extra["json"]})
        for n in range(3) for row in audio_rows()
    ]  # fmt: skip
    index = build(tmp_path / "audio", rows)
    flipped, cut, gone, header, _, _ = index.paths
    for path, place in ((flipped, int(index.table.offset[1]) + 100), (header, 0)):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    os.truncate(cut, 1024)
    gone.unlink()
    with pytest.raises(ShardError) as error:
        verify(tmp_path / "audio", workers=workers)
    first, *problems = str(error.value).split(": ", 1)
    assert first == "4 of 6 shards are bad"
    problems = problems[0].split("; ")
    text = " ".join(problems)
    for words in (
        "000000.tar: key 'a1_0-0' at row 1: bytes differ from those that were written",
        "000001.tar: 1024 bytes, expected 10240 bytes",
        "(from key 'a2_0-0' on)",
        "000002.tar: missing, expected 10240 bytes",
        "(from key 'a0_0-1' on)",
        "000003.tar: key 'a2_0-1' at row 0: ",
    ):
        assert words in text, text
    places = [text.index(f"00000{n}.tar") for n in range(4)]
    assert places == sorted(places)
    assert "000004" not in text and "000005" not in text


def test_a_seal_that_is_right_is_accepted(audio: Index) -> None:
    """Else the forgeries above are refused for their hashes, and test nothing."""
    folder = audio.paths[0].parent
    forge(folder, columns=lambda _: None, fields=field(provenance={"x": 1}))
    verify(folder)
    assert open_index(folder, kind="audio").provenances == ({"x": 1},)
    assert seal({"a": 1}) != seal({"a": 2})
