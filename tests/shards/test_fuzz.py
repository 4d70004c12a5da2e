"""Thousands of damaged and forged datasets: an error that says where, or the same clip.

Each test takes seeded cases; FUZZ_ROUNDS=20 takes twenty times as many. A case may
neither take long, nor need much memory, nor end in anything but ShardError; and what
still passes for whole must be what an independent reader finds there.
"""

import contextlib
import copy
import io
import json
import os
import random
import signal
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile

from shards.audio.decode import load_segment
from shards.audio.members import decode
from shards.dataset.reader import MemberReader
from shards.dataset.tar import read_members
from shards.errors import ShardError
from shards.format.classes import Classes, read_classes
from shards.format.index import Index, open_index
from shards.format.label_codec import LabelForm, decode_labels, encode_labels
from shards.format.schema import ClipInfo
from shards.format.weak_labels import LABELS_ARE, LabelReader, LabelsAre
from shards.packing.segments import read_segments
from shards.packing.sources.webdataset import list_clips
from shards.verify import verify
from tests.hostile import Columns, forge, memory_bound
from tests.shards.audio.test_audio import sweep, write_with_ffmpeg
from tests.shards.test_bad_data import (
    CLASSES,
    KEYS,
    NUM_SAMPLES,
    RATE,
    audio_rows,
    build,
    build_labels,
    label_rows,
    wave,
)

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "1"))
SECONDS_PER_CASE = 30
BYTES_PER_TEST = 1 << 29

Content = dict[str, bytes]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A member's claims must not be believed."""
    with memory_bound(BYTES_PER_TEST):
        yield


def fuzz(name: str, count: int, case: Callable[[random.Random], None]) -> None:
    """Run ``case`` with ``count`` seeds; a failure names its seed."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS_PER_CASE} s")

    before = signal.signal(signal.SIGALRM, too_long)
    try:
        for number in range(count * ROUNDS):
            seed = f"{name} {number}"
            signal.alarm(SECONDS_PER_CASE)
            try:
                case(random.Random(seed))
            except ShardError:
                pass
            except BaseException as error:
                error.add_note(f"seed {seed!r}")
                raise
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# What may happen to bytes


def mutated(rng: random.Random, data: bytes, *, block: int = 512) -> bytes:
    """``data`` after one to three accidents or attacks."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice(ACCIDENTS)(rng, out, block)
    return bytes(out)


def flip(rng: random.Random, out: bytearray, _: int) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def cut(rng: random.Random, out: bytearray, block: int) -> None:
    end = rng.randrange(len(out) + 1)
    del out[end - end % rng.choice((1, block)) :]


def splice(rng: random.Random, out: bytearray, block: int) -> None:
    start, stop, to = (rng.randrange(len(out) + 1) for _ in range(3))
    out[to:to] = out[start : min(stop, start + 4 * block)]


def drop(rng: random.Random, out: bytearray, block: int) -> None:
    start = rng.randrange(len(out) + 1)
    del out[start : start + rng.choice((1, 7, block))]


def swap(rng: random.Random, out: bytearray, block: int) -> None:
    one, two = (rng.randrange(len(out) // block + 1) * block for _ in range(2))
    a, b = out[one : one + block], out[two : two + block]
    if len(a) == len(b):
        out[one : one + block], out[two : two + block] = b, a


def overwrite(rng: random.Random, out: bytearray, _: int) -> None:
    words = (
        b"\xff" * 4,
        b"\0" * 8,
        b"\x80" + b"\xff" * 7,
        b"9" * 9,
        b"-1",
        b"\n,\"'{[",
    )
    start, word = rng.randrange(len(out) + 1), rng.choice(words)
    out[start : start + len(word)] = word[: max(0, len(out) - start)]


ACCIDENTS = (flip, cut, splice, drop, swap, overwrite)


# Datasets, and what is in them


@pytest.fixture(params=["wav", "flac", "labels"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    """Four clips, or four rows of labels, in two shards."""
    if request.param == "labels":
        audio = build(tmp_path / "audio", audio_rows())
        return build_labels(tmp_path / "set", audio, label_rows())
    rows = audio_rows(codec=request.param)
    return build(tmp_path / "set", rows, codec=request.param)


def content_of(folder: Path) -> Content:
    """Bytes of each clip or label row, by key, as training reads them."""
    index = open_index(folder, kind=None)
    reader = MemberReader(index)
    if index.kind == "labels":
        return {index.key(r): reader.labels(r).tobytes() for r in range(len(index))}
    return {
        index.key(row): reader.samples(row, 0, int(index.table.count[row])).tobytes()
        for row in range(len(index))
    }


def content_by_others(folder: Path) -> Content:
    """The same through json, tarfile, soundfile and numpy.load."""
    found = {}
    for shard in json.loads((folder / "index.json").read_bytes())["shards"]:
        with tarfile.open(folder / shard["name"], "r:") as tar:
            for member in tar:
                assert member.isreg()
                key, suffix = member.name.split(".")
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                if suffix == "npy":
                    found[key] = np.load(io.BytesIO(data)).tobytes()
                elif suffix != "json":
                    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
                    assert (samples.ndim, rate) == (1, RATE)
                    found[key] = samples.tobytes()
    return found


def expected_content(kind: str) -> Content:
    """What ``index`` was made of."""
    if kind == "labels":
        return {key: np.full((2, 3), 0.5, np.float16).tobytes() for key in KEYS}
    return {key: wave(number).tobytes() for number, key in enumerate(KEYS)}


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def restore(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)


def test_the_two_ways_to_read_agree_on_what_is_whole(index: Index) -> None:
    """Else the tests below compare nothing."""
    folder = index.paths[0].parent
    verify(folder)
    assert content_of(folder) == expected_content(index.kind)
    assert content_by_others(folder) == expected_content(index.kind)


def test_a_damaged_dataset_is_refused_or_reads_as_before(index: Index) -> None:
    """Else a bad disk or copy puts other audio or labels into training."""
    folder = index.paths[0].parent
    files = files_of(folder)

    def case(rng: random.Random) -> None:
        restore(files)
        path = rng.choice(list(files))
        path.write_bytes(mutated(rng, files[path]))
        with contextlib.suppress(ShardError):  # nothing else, verified or not
            content_of(folder)
        verify(folder)
        assert content_of(folder) == expected_content(index.kind)

    fuzz(f"damage {index.kind}", 200, case)


def test_forged_tars_are_refused_or_hold_what_others_read(index: Index) -> None:
    """Else a shard whose hashes are right feeds this reader what nobody else sees."""
    folder = index.paths[0].parent
    files = files_of(folder)

    def case(rng: random.Random) -> None:
        restore(files)
        path = rng.choice(index.paths)
        path.write_bytes(forged_tar(rng, files[path]))
        forge(folder, columns=lambda columns: trust_tars(folder, columns))
        with contextlib.suppress(ShardError):
            content_of(folder)
        verify(folder)
        assert content_of(folder) == content_by_others(folder)

    fuzz(f"tar {index.kind}", 150, case)


def forged_tar(rng: random.Random, data: bytes) -> bytes:
    """A mutation, of headers with their checksum made right again as a rule."""
    if rng.random() < 0.3:
        return mutated(rng, data)
    out = bytearray(data)
    start = rng.choice([at for at in range(0, len(out), 512) if out[at + 257 :][:5]])
    header = bytearray(out[start : start + 512])
    field, word = rng.choice(HEADER_EDITS)
    header[field : field + len(word)] = word
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    out[start : start + 512] = header
    return bytes(out) if rng.random() < 0.7 else mutated(rng, bytes(out))


HEADER_EDITS = [
    (0, b"../../etc/x.wav\0"),
    (0, b"/etc/passwd\0"),
    (0, b"a1_0.wav\0"),
    (0, b"\0"),
    (0, b"\x1b[2J.wav\0"),
    *((124, b"%011o\0" % size) for size in (0, 1, 511, 512, 513, 4096, 8**11 - 1)),
    (124, b"\x80" + bytes(10) + b"\x01"),
    (124, b"\xff" * 12),
    (124, b"-0000000001\0"),
    (124, b"            "),
    *((156, bytes([kind])) for kind in b"\x001234567ALKxgSDVMN"),
    (345, b"../up\0"),
    (345, b"prefix\0"),
    (257, b"ustar  \0"),
    (257, bytes(8)),
]


def trust_tars(folder: Path, columns: Columns) -> None:
    """Make the checksum column agree with what lies where the table points."""
    meta = json.loads((folder / "index.json").read_bytes())
    tars = [(folder / shard["name"]).read_bytes() for shard in meta["shards"]]
    places = zip(columns["shard"], columns["offset"], columns["size"], strict=True)
    crcs = [zlib.crc32(tars[s][o : o + n]) for s, o, n in places]
    columns["crc32"] = np.array(crcs, np.uint32)


# The index


HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 4, 255, 400, 8000, 2**31, 2**63, 10**400),
    *(0.5, 1e308, float("nan"), float("inf")),
    *("", "..", "/etc/passwd", "../x.tar", "a/b.tar", "pipe:touch canary", "\0.tar"),
    *("\ud800", "http://x/y.tar", "000001.tar", "wav", "flac", "labels", "x" * 10_000),
    *([], {}, [[]], {"a": {}}, [None]),
)


def forge_fields(rng: random.Random, fields: dict[str, Any]) -> None:
    """Replace, remove, repeat or swap something anywhere in the fields."""
    for _ in range(rng.randint(1, 2)):
        node: Any = fields
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not places:
                node.update(x=1) if isinstance(node, dict) else node.append(1)
                break
            place = rng.choice(places)
            if not isinstance(node[place], dict | list) or rng.random() < 0.3:
                change_at(rng, node, place)
                break
            node = node[place]


def change_at(rng: random.Random, node: Any, place: Any) -> None:
    action = rng.randrange(5)
    if action == 0:
        del node[place]
    elif action == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[place]))
    elif action == 2:
        other = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[place], node[other] = node[other], node[place]
    else:
        node[place] = copy.deepcopy(rng.choice(HOSTILE_VALUES))


def test_forged_index_fields_are_refused_or_change_no_clip(index: Index) -> None:
    """Else a shared index reads files outside its folder, or crashes every rank."""
    folder = index.paths[0].parent
    files = files_of(folder)

    def case(rng: random.Random) -> None:
        restore(files)
        forge(folder, fields=lambda fields: forge_fields(rng, fields))
        with contextlib.suppress(ShardError):
            content_of(folder)
        verify(folder)
        assert content_of(folder) == expected_content(index.kind)

    fuzz(f"fields {index.kind}", 250, case)


def forge_columns(rng: random.Random, columns: Columns) -> None:
    """Change values, types or lengths of a column or two."""
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(list(columns))
        column = columns[name].copy()
        action = rng.randrange(8)
        if action < 4 and len(column) and column.dtype.kind in "iu":
            info = np.iinfo(column.dtype)
            values = (info.min, info.max, info.max - 511, -1, 0, 1, 2, 3, 512, 1024)
            value = rng.choice([v for v in values if v >= info.min])
            column[rng.randrange(len(column))] = value
        elif action < 4 and len(column) and column.dtype.kind == "S":
            words = (
                b"",
                b"../x",
                b"a0_0",
                b"__x__",
                b"a\0b",
                b"\xff",
                b"a.b",
                b"k" * 91,
            )
            column = column.astype("S91")
            column[rng.randrange(len(column))] = rng.choice(words)
        elif action == 4 and len(column) > 1:
            one, two = rng.sample(range(len(column)), 2)
            column[[one, two]] = column[[two, one]]
        elif action == 5:
            column = np.append(column, column[:1])
        elif action == 6:
            column = column[:-1]
        else:
            dtype = rng.choice(
                ("<i4", "<i8", "<u8", ">i4", "<f8", "O", "S8", "U4", "?")
            )
            try:
                column = column.astype(dtype)
            except ValueError:  # a key that is no number
                column = column.astype("O").reshape(1, -1)
        columns[name] = column


def test_forged_tables_are_refused_or_change_no_clip(index: Index) -> None:
    """Else a table of someone else points training at other bytes, or out of them."""
    folder = index.paths[0].parent
    files = files_of(folder)

    def case(rng: random.Random) -> None:
        restore(files)
        if rng.random() < 0.7:
            forge(folder, columns=lambda columns: forge_columns(rng, columns))
        else:
            forge(folder, table=lambda data: mutated(rng, data, block=64))
        with contextlib.suppress(ShardError):
            content_of(folder)
        verify(folder)
        assert content_of(folder) == expected_content(index.kind)

    fuzz(f"table {index.kind}", 250, case)


# Single parsers


def test_a_damaged_label_member_is_refused_or_reads_as_numpy_reads_it() -> None:
    """Else a student learns from bytes that are no probabilities."""
    row, *_ = label_rows()

    def case(rng: random.Random) -> None:
        data = mutated(rng, row.data, block=2)
        found = decode_labels(data, 2, 3)
        expected = np.load(io.BytesIO(data), allow_pickle=False)
        assert expected.dtype == np.float16
        np.testing.assert_array_equal(found, expected)
        assert (expected >= 0).all() and (expected <= 1).all()

    fuzz("labels", 1000, case)


@pytest.mark.parametrize("tail", ["zero", "mean"])
def test_a_damaged_top_k_member_is_refused_or_reads_as_its_fields_say(
    tail: Literal["zero", "mean"],
) -> None:
    """Else labels from anyone write past an array, or are no probabilities."""
    form = LabelForm(views=2, top_k=2, tail=tail)
    probs = np.random.default_rng(0).random((2, 3, 5))
    whole = encode_labels(probs, form)

    def case(rng: random.Random) -> None:
        data, view = mutated(rng, whole, block=2), rng.randrange(2)
        found = decode_labels(data, 3, 5, form, view=view)
        assert found.shape == (3, 5)
        assert (found >= 0).all() and (found <= 1).all()
        records = np.load(io.BytesIO(data), allow_pickle=False)[view]
        for row, record in zip(found, records, strict=True):
            assert len(set(record["classes"].tolist())) == 2
            rest = record["rest"] if tail == "mean" else 0
            expected = dict.fromkeys(range(5), rest)
            expected.update(
                zip(record["classes"].tolist(), record["probs"], strict=True)
            )
            assert row.tolist() == [expected[n] for n in range(5)]

    fuzz(f"top-k {tail}", 1000, case)


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_a_damaged_member_is_refused_or_decodes_as_it_should(codec: str) -> None:
    """Else a header read in another way than others read it becomes noise.

    FLAC has a checksum a frame, so that what is not refused is as it was; WAV has none.
    """
    row, *_ = audio_rows(codec=codec)

    def case(rng: random.Random) -> None:
        data = mutated(rng, row.data, block=4)
        for start, stop in ((100, NUM_SAMPLES), (0, NUM_SAMPLES)):
            found = decode(data, codec=codec, start=start, stop=stop, sample_rate=RATE)
            source = io.BytesIO(row.data if codec == "flac" else data)
            expected, rate = soundfile.read(source, dtype="int16")
            assert rate == RATE
            np.testing.assert_array_equal(found, expected[start:stop])

    fuzz(f"member {codec}", 500, case)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "au"])
def test_a_damaged_audio_file_is_refused_or_gives_no_more_than_asked(
    suffix: str, tmp_path: Path
) -> None:
    """Else one broken download ends a packing of days, or fills its log."""
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, wave(1), RATE)
    whole = path.read_bytes()

    def case(rng: random.Random) -> None:
        path.write_bytes(mutated(rng, whole, block=16))
        samples = load_segment(
            path, start_seconds=0, end_seconds=0.02, sample_rate=RATE
        )
        assert samples.dtype == np.int16 and samples.ndim == 1
        assert 1 <= len(samples) <= 320

    fuzz(f"file {suffix}", 100, case)


MORE_AUDIO: dict[str, tuple[str, str]] = {
    "MP3": ("mp3", "libmp3lame"),
    "AAC": ("adts", "aac"),
    "M4A": ("ipod", "aac"),
    "WebM": ("webm", "libopus"),
    "WMA": ("asf", "wmav2"),
    "Ogg FLAC": ("ogg", "flac"),
    "W64": ("w64", "pcm_s16le"),
    "CAF": ("caf", "pcm_s16le"),
}


@pytest.mark.parametrize("form", [*MORE_AUDIO, "GSM", "G.721"])
def test_a_damaged_file_of_any_form_is_refused_or_gives_no_more_than_asked(
    form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else a tag in another alphabet, or a bad byte, ends a packing in a traceback."""
    samples = sweep(48000 if form == "WebM" else 16000, 2.0)
    if form in MORE_AUDIO:
        container, codec = MORE_AUDIO[form]
        rate = len(samples) // 2
        whole = write_with_ffmpeg(
            tmp_path / "x", samples, format=container, codec=codec, rate=rate
        )
    else:
        kind, subtype = {"GSM": ("WAV", "GSM610"), "G.721": ("AU", "G721_32")}[form]
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 8000, format=kind, subtype=subtype)
        whole = buffer.getvalue()

    def case(rng: random.Random) -> None:
        data = mutated(rng, whole, block=rng.choice((4, 64)))
        if rng.random() < 0.5:  # most of what can go wrong is in headers
            data = mutated(rng, whole[:300], block=4) + whole[300:]
        samples = load_segment(
            data,
            start_seconds=rng.choice((0.0, 1.2)),
            end_seconds=1.7,
            sample_rate=RATE,
            is_recording=rng.choice((True, False, None)),
        )
        assert samples.dtype == np.int16 and samples.ndim == 1
        assert 1 <= len(samples) <= round(1.7 * RATE)

    fuzz(f"form {form}", 60, case)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_description_is_refused_or_of_plain_values() -> None:
    """Else a crafted member crashes verification."""
    whole = audio_rows()[0].extra["json"]

    def case(rng: random.Random) -> None:
        info = ClipInfo.from_bytes(mutated(rng, whole, block=8), where="here")
        assert type(info.num_samples) is int and type(info.sample_rate) is int
        assert {type(text) for text in (info.clip_id, *info.labels)} == {str}

    fuzz("description", 1000, case)


def test_a_damaged_segments_list_is_refused_or_makes_good_keys(tmp_path: Path) -> None:
    """Else one odd line of 2 million ends in a traceback, or in a bad member name."""
    path = tmp_path / "segments.csv"
    mids = ",".join(CLASSES.mids)
    rows = [f'id-{n}, {n}.000, {n + 10}.000, "{mids}"' for n in range(5)]
    whole = ("# YTID, start\n" + "\n".join(rows) + "\n").encode()

    def case(rng: random.Random) -> None:
        path.write_bytes(mutated(rng, whole, block=8))
        segments = read_segments(path, LabelReader(CLASSES))
        keys = [segment.key for segment in segments]
        assert len(set(keys)) == len(keys) > 0
        assert not any(set(key) & set("./\\\0\n ") for key in keys)
        for segment in segments:
            assert 0 <= segment.start_seconds < segment.end_seconds
            assert set(segment.labels) <= {0, 1, 2}

    fuzz("segments", 1000, case)


HOSTILE_LABELS: tuple[Any, ...] = (
    *(None, True, 0, 1, 2, 3, -1, 10**30, 0.0, 1.0, 0.5, float("nan"), [], {}, [[0]]),
    *("", " ", ";", "0", "1", "2", "03", "+1", "١", "Low", "/m/low", "low;mid", "\0"),
    *("\ud800", "x" * 10_000, "é", "e\u0301"),
)


@pytest.mark.parametrize("labels_are", [None, *LABELS_ARE])
def test_any_label_is_refused_or_read_as_classes_in_order(
    labels_are: LabelsAre | None,
) -> None:
    """Else a label of an odd type crashes a packing, or stands for a class too far."""
    names = ("/m/low", "1", "é", "x;y", "0", "Mid")

    def case(rng: random.Random) -> None:
        mids = tuple(rng.sample(names, 3))
        classes = Classes(mids, tuple(rng.choices(names, k=3)))
        value = rng.choices(HOSTILE_LABELS, k=rng.choice((1, 2, 3, 3, 5)))
        reader = LabelReader(classes, labels_are)
        found = reader.parse(rng.choice((value, value[0])), where="here")
        assert list(found) == sorted(set(found))
        assert set(found) <= {0, 1, 2}

    fuzz(f"labels are {labels_are}", 1000, case)


def test_a_damaged_description_of_others_rejects_a_clip_or_gives_its_labels(
    tmp_path: Path,
) -> None:
    """Else one member of a million, made by anyone, ends a packing of them all."""
    path = tmp_path / "others.tar"
    whole = json.dumps({"labels": ["Low", "Mid"], "x": {"labels": [1.5]}}).encode()

    def case(rng: random.Random) -> None:
        data = mutated(rng, whole, block=8)
        with tarfile.open(path, "w") as tar:
            for name, content in (("0.wav", b""), ("0.json", data)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        field = rng.choice(("labels", "x.labels", "x", "cls"))
        reader = LabelReader(CLASSES)
        listing = list_clips([path], reader, label_field=field)
        assert len(listing.clips) + len(listing.rejected) == 1
        for clip in listing.clips:
            assert list(clip.labels) == sorted(set(clip.labels))
        for line in listing.rejected:
            assert line[2].startswith(f"{path}: 0.wav: ")

    fuzz("others", 500, case)


def test_members_of_any_names_are_clips_or_listed(tmp_path: Path) -> None:
    """Else a name from another system ends a packing, or a clip vanishes."""
    path = tmp_path / "others.tar"
    stems = ("a", "a.b", "dog/1", "._a", "x_1.0_2.0", "caf\udce9", "é" * 40, "..c", "_")
    suffixes = (".wav", ".WAV", ".x.wav", ".json", ".meta.json", ".cls", ".txt", "")

    def case(rng: random.Random) -> None:
        names = {rng.choice(stems) + rng.choice(suffixes) for _ in range(6)}
        with tarfile.open(path, "w") as tar:
            for name in sorted(names):
                info = tarfile.TarInfo(name)
                info.size = 2
                tar.addfile(info, io.BytesIO(b"{}"))
        listing = list_clips([path], LabelReader(CLASSES), label_field="labels")
        audio = [name for name in names if name.lower().endswith(".wav")]
        seen = [name for name in audio if not name.startswith((".", "dog/."))]
        reasons = "\n".join(line[2] for line in listing.rejected)
        for name in seen:
            shown = name.encode("utf-8", "surrogateescape")
            assert shown.decode("utf-8", "backslashreplace") in reasons
        assert not listing.clips  # no description has labels

    fuzz("names", 300, case)


def test_a_damaged_class_list_is_refused_or_names_each_class_once(
    tmp_path: Path,
) -> None:
    """Else label columns shift, or a name steers the terminal it is printed on."""
    path = tmp_path / "classes.csv"
    whole = (
        "index,mid,display_name\n" + '0,/m/a,A\n1,/m/b,"B, b"\n2,/m/c,C\n'
    ).encode()

    def case(rng: random.Random) -> None:
        path.write_bytes(mutated(rng, whole, block=8))
        classes = read_classes(path)
        assert len(set(classes.mids)) == len(classes.mids) == len(classes.names) > 0
        assert "".join(classes.mids + classes.names).isprintable()

    fuzz("classes", 1000, case)


def test_members_found_in_a_forged_tar_are_those_that_tarfile_finds(
    tmp_path: Path,
) -> None:
    """Else a tar means one thing to this project and another to everybody else."""
    path = build(tmp_path / "set", audio_rows()).paths[0]
    whole = path.read_bytes()
    passed = []

    def case(rng: random.Random) -> None:
        path.write_bytes(forged_tar(rng, whole))
        found = [(m.name, m.offset, m.size) for m in read_members(path)]
        with tarfile.open(path, "r:") as tar:
            files = [m for m in tar if not m.isdir()]
        assert all(member.isreg() and not member.issparse() for member in files)
        assert found == [(m.name, m.offset_data, m.size) for m in files]
        passed.append(len(found))

    fuzz("members", 1000, case)
    assert len(passed) > 50  # else nothing was compared
