"""Bad input: every command names the place and a remedy, and leaves nothing half-made.

Commands run in this process through ``run_main``, which ends them as it ends the real
ones; some run as a user runs them.
"""

import io
import json
import os
import re
import shutil
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shards import pack, verify
from shards.audio.members import encode
from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import Index, open_index
from shards.format.join import check_join, open_indexes
from shards.format.label_codec import encode_labels
from shards.format.schema import ClipInfo
from shards.system.exits import run_main
from tests.conftest import MIDS, RATE, Run, Source, write_source
from tests.hostile import forge


def verify_main(words: Sequence[str]) -> None:
    """``shards.verify`` in this process alone, which is faster for few clips."""
    verify.main([*words, "--workers", "1"])


CLASSES = Classes(MIDS, ("Low", "Mid", "High"))
NUM_SAMPLES = 400
KEYS = ["a0_0", "a1_0", "a2_0", "a3_0"]
EXIT_BAD_INPUT = 78

Refused = Callable[..., str]


def error_line(stderr: str) -> str:
    """The one line that ``stderr`` holds beside progress bars."""
    assert "Traceback" not in stderr
    lines = [line for line in re.split(r"[\r\n]+", stderr) if line.strip()]
    (line,) = [line for line in lines if not re.search(r"\d+%\||\dit/s|\?it/s", line)]
    assert line.startswith("error: ")
    return line


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with ``status`` and one line that holds words."""

    def check(
        main: Callable[[Sequence[str]], None],
        words: Sequence[object],
        *expected: str,
        status: int = EXIT_BAD_INPUT,
    ) -> str:
        with pytest.raises(SystemExit) as ended:
            run_main(lambda: main([str(word) for word in words]))
        line = error_line(capsys.readouterr().err)
        assert ended.value.code == status, line
        assert all(word in line for word in expected), line
        return line

    return check


def assert_nothing_half_made(out: Path) -> None:
    """No index, no leftovers, and every tar that is there is whole."""
    left = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in left if path.name in ("index.json", "clips.npz")]
    assert not [path for path in left if ".tmp-" in path.name]
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert all(tar.extractfile(m) for m in tar)


@pytest.fixture
def small(tmp_path: Path) -> Source:
    """Three clips of 0.1 s that the test may break."""
    return write_source(tmp_path / "small", num_clips=3, seconds=0.1)


# Datasets made by hand


def wave(number: int) -> np.ndarray:
    return np.arange(NUM_SAMPLES, dtype=np.int16) + 1000 * number


def audio_rows(*, value: int = 0, codec: str = "wav") -> list[Row]:
    """One row for each of KEYS; row n holds class n % 3."""
    return [
        Row(
            key,
            codec,
            encode(wave(number) + value, codec=codec, sample_rate=RATE),
            NUM_SAMPLES,
            (number % 3,),
            {
                "json": ClipInfo(
                    key, 0.0, NUM_SAMPLES, RATE, (MIDS[number % 3],)
                ).to_bytes()
            },
        )
        for number, key in enumerate(KEYS)
    ]


def label_rows(keys: Sequence[str] = KEYS) -> list[Row]:
    data = encode_labels(np.full((2, 3), 0.5))
    return [Row(key, "npy", data, 2) for key in keys]


def build(
    folder: Path,
    rows: list[Row],
    *,
    kind: str = "audio",
    classes: Classes = CLASSES,
    codec: str = "wav",
    **provenance: Any,
) -> Index:
    """A dataset of two rows a shard."""
    properties = {"codec": codec, "sample_rate": RATE} if kind == "audio" else {}
    builder = DatasetBuilder(folder, kind, classes, properties, provenance)
    builder.begin()
    names = []
    for start in range(0, len(rows), 2):
        names.append(f"{start // 2:06d}.tar")
        builder.add(names[-1], rows[start : start + 2])
    assert builder.publish(names)
    return open_index(folder, kind=kind)


@pytest.fixture
def audio(tmp_path: Path) -> Index:
    """Four clips in two shards, in ``tmp_path / "audio"``."""
    return build(tmp_path / "audio", audio_rows())


def build_labels(
    folder: Path, audio: Index, rows: list[Row] | None = None, **changes: Any
) -> Index:
    rows = label_rows() if rows is None else rows
    changes.setdefault("audio_fingerprint", audio.fingerprint)
    return build(folder, rows, kind="labels", **changes)


def rewrite_header(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change the header of a tar's first member and make its checksum right again."""
    data = bytearray(path.read_bytes())
    header = data[:512]
    change(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(header + data[512:])


def test_the_datasets_made_by_hand_are_good(
    tmp_path: Path, audio: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the tests below see errors that have nothing to do with them."""
    build_labels(tmp_path / "labels", audio)
    verify_main([str(tmp_path / "audio")])
    verify_main([str(tmp_path / "labels"), "--audio", str(tmp_path / "audio")])
    verify_main([str(tmp_path / "labels")])
    assert capsys.readouterr().out.count("4 clips in 2 shards are as indexed") == 3


# Audio files


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_nan(path: Path) -> None:
    samples = np.zeros(1600, np.float32)
    samples[800] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def write_truncated_flac(path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9999, 9999, 1600).astype(np.int16)
    soundfile.write(path, noise, RATE, format="FLAC")
    truncate(path)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no audio file in"),
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "truncated": (truncate, "truncated: 3244 bytes announced, 1622 present"),
    "header only": (lambda path: os.truncate(path, 30), "no data chunk"),
    "text": (lambda path: path.write_text("not audio\n" * 99), "not decodable audio"),
    "NaN": (write_nan, "NaN or infinite samples"),
    "truncated FLAC": (write_truncated_flac, "not decodable audio"),
    "no samples": (
        lambda path: soundfile.write(path, np.zeros(0, np.int16), RATE),
        "no audio samples",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_audio_file_stops_packing(
    small: Source, tmp_path: Path, run: Run, what: str
) -> None:
    """Else broken downloads become silence, noise or holes in the training set."""
    spoil, reason = BAD_FILES[what]
    spoil(small.audio / "clip1.wav")
    out = tmp_path / "out"
    result = run("shards.pack", *small.pack_arguments(out))
    assert result.returncode == EXIT_BAD_INPUT
    line = error_line(result.stderr)
    for word in ("1 of 3", "clip1_0", reason, "fix them", "--max-", "pack_report.csv"):
        assert word in line, line
    assert_nothing_half_made(out)
    assert "clip1_0" in (out / "pack_report.csv").read_text()


def test_a_recording_that_ends_before_its_segment_stops_packing(
    small: Source, tmp_path: Path, refused: Refused
) -> None:
    """Else another part of the video is packed under the segment's labels."""
    soundfile.write(small.audio / "clip1.wav", np.zeros(3 * RATE, np.int16), RATE)
    rows = small.segments.read_text().replace("clip1, 0.000, 0.1", "clip1, 60.0, 60.1")
    small.segments.write_text(rows)
    words = ("clip1.wav: 3.00 s of audio is neither", "reaches 60.00 s")
    refused(pack.main, small.pack_arguments(tmp_path / "out"), *words)
    assert_nothing_half_made(tmp_path / "out")


def test_two_files_for_one_segment_are_refused(
    small: Source, tmp_path: Path, refused: Refused
) -> None:
    """Else which of two recordings is packed depends on the order of a folder."""
    (small.audio / "again").mkdir()
    shutil.copy(small.audio / "clip1.wav", small.audio / "again" / "clip1.wav")
    places = [str(small.audio / name) for name in ("clip1.wav", "again/clip1.wav")]
    words = small.pack_arguments(tmp_path / "out")
    refused(pack.main, words, *places, "keep one")
    assert not (tmp_path / "out").exists()


def test_a_missing_audio_folder_is_refused(
    small: Source, tmp_path: Path, refused: Refused
) -> None:
    """Else a typing error reads as 'all clips are missing'."""
    shutil.rmtree(small.audio)
    words = small.pack_arguments(tmp_path / "out")
    refused(pack.main, words, f"{small.audio}: no such folder", "give the one with")


@pytest.mark.parametrize("accept", ["missing", "rejected"])
def test_a_dataset_without_a_single_clip_is_not_made(
    small: Source, tmp_path: Path, refused: Refused, accept: str
) -> None:
    """Else a wrong folder packs to nothing and training fails a day later."""
    for path in small.audio.iterdir():
        path.write_bytes(b"") if accept == "rejected" else path.unlink()
    words = [*small.pack_arguments(tmp_path / "out"), f"--max-{accept}", "1"]
    refused(pack.main, words, str(small.audio))
    assert_nothing_half_made(tmp_path / "out")


# CSVs

GOOD_ROW = 'clip0, 0.000, 0.100, "/m/low"\n'
BAD_SEGMENTS = {
    "too few fields": (GOOD_ROW + "clip1, 0.0\n", "line 2", "expected id, start"),
    "unquoted mids": (GOOD_ROW + "clip1, 0, 1, /m/low,/m/mid\n", "line 2", "expected"),
    "no number": (GOOD_ROW + 'clip1, zero, 1, "/m/low"\n', "line 2", "expected id"),
    "not a time": (
        GOOD_ROW + 'clip1, nan, 1, "/m/low"\n',
        "line 2",
        "0 <= start < end",
    ),
    "backwards": ('# x\n\nclip0, 1, 0.5, "/m/low"\n', "line 3", "0 <= start < end"),
    "unknown mid": (GOOD_ROW + 'clip1, 0, 1, "/m/x"\n', "line 2", "'/m/x'", "give the"),
    "repeated id": ("# x\n" + GOOD_ROW * 2, "line 3", "'clip0'", "line 2", "keep one"),
    "only comments": ("# YTID, start, end\n", "no segments", "expected rows like"),
    "nothing": ("", "no segments"),
    "not UTF-8": (b"clip\xff0, 0, 1, x\n", "cannot read segments"),
    "huge field": (f'clip0, 0, 1, "{"x" * 200_000}"\n', "cannot read segments"),
}


@pytest.mark.parametrize("what", BAD_SEGMENTS)
def test_a_bad_segments_csv_is_refused_by_line(
    small: Source, tmp_path: Path, refused: Refused, what: str
) -> None:
    """Else labels go to the wrong clips, or 2 million lines must be searched by eye."""
    content, *words = BAD_SEGMENTS[what]
    data = content if isinstance(content, bytes) else content.encode()
    small.segments.write_bytes(data)
    line = refused(pack.main, small.pack_arguments(tmp_path / "out"), *words)
    assert str(small.segments) in line
    assert not (tmp_path / "out").exists()


HEADER = "index,mid,display_name\n"
BAD_CLASSES = {
    "repeated mid": (HEADER + "0,/m/a,A\n1,/m/a,B\n", "'/m/a'", "list it once"),
    "out of order": (HEADER + "1,/m/a,A\n0,/m/b,B\n", "line 2", "'1'", "expected 0"),
    "a gap": (HEADER + "0,/m/a,A\n2,/m/b,B\n", "line 3", "'2'", "expected 1"),
    "no header": ("0,/m/a,A\n1,/m/b,B\n", "expected index,mid,display_name"),
    "unquoted comma": (HEADER + "0,/m/a,Male speech, man\n", "line 2", "quote"),
    "no name": (HEADER + "0,/m/a,A\n1,/m/b\n", "line 3", "display_name"),
    "no mid": (HEADER + "0,,A\n", "line 2"),
    "no rows": (HEADER, "no classes"),
    "nothing": ("", "no classes"),
    "not UTF-8": (HEADER.encode() + b"0,/m/a,\xff\n", "cannot read class list"),
    "huge field": (HEADER + "0,/m/a," + "x" * 200_000, "cannot read class list"),
}


@pytest.mark.parametrize("what", BAD_CLASSES)
def test_a_bad_class_list_is_refused(
    small: Source, tmp_path: Path, refused: Refused, what: str
) -> None:
    """Else every label of a dataset means another class."""
    content, *words = BAD_CLASSES[what]
    data = content if isinstance(content, bytes) else content.encode()
    small.class_labels.write_bytes(data)
    words = [str(small.class_labels), *words]
    refused(pack.main, small.pack_arguments(tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segments", "PATH: cannot read segments: "),
        (
            "class_labels",
            "cannot read class list: PATH: No such file or directory; check",
        ),
    ],
)
def test_a_missing_csv_is_refused_by_name(
    small: Source, tmp_path: Path, refused: Refused, name: str, message: str
) -> None:
    """Else a typing error ends in a traceback."""
    path = getattr(small, name)
    path.unlink()
    words = small.pack_arguments(tmp_path / "out")
    refused(pack.main, words, message.replace("PATH", str(path)), "No such file")


# Settings and places


@pytest.mark.parametrize(
    "words",
    [
        ("--clips-per-shard", "0"),
        ("--sample-rate", "0"),
        ("--workers", "0"),
        ("--max-missing", "20"),
        ("--max-rejected", "nan"),
        ("--seed", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    small: Source, tmp_path: Path, refused: Refused, words: tuple[str, str]
) -> None:
    """Else 20 percent, meant, is read as 'accept anything'."""
    arguments = [*small.pack_arguments(tmp_path / "out"), *words]
    name = words[0].removeprefix("--").replace("-", "_")
    refused(pack.main, arguments, name, words[1])
    assert_nothing_half_made(tmp_path / "out")


def test_other_settings_do_not_go_into_a_finished_folder(
    dataset: Path, tmp_path: Path, refused: Refused
) -> None:
    """Else a dataset is half one codec, half another."""
    source = write_source(tmp_path / "source", num_clips=24)
    before = {path: path.read_bytes() for path in dataset.iterdir() if path.is_file()}
    words = [*source.pack_arguments(dataset), "--codec", "flac"]
    expected = "codec = 'wav', not 'flac'; choose another folder"
    refused(pack.main, words, str(dataset), expected)
    assert {p: p.read_bytes() for p in dataset.iterdir() if p.is_file()} == before


def test_other_settings_do_not_go_into_a_folder_in_the_making(
    small: Source, tmp_path: Path, refused: Refused
) -> None:
    """Else a rerun with a changed seed mixes two orders of clips."""
    (small.audio / "clip1.wav").write_bytes(b"")
    words = small.pack_arguments(tmp_path / "out")
    refused(pack.main, words, "1 of 3")
    refused(pack.main, [*words, "--seed", "1"], "seed = 0, not 1; choose another")


def test_an_output_that_is_a_file_is_refused(
    small: Source, tmp_path: Path, refused: Refused
) -> None:
    """Else a typing error overwrites a file or ends in a traceback."""
    (tmp_path / "out").write_text("precious")
    words = small.pack_arguments(tmp_path / "out")
    refused(pack.main, words, str(tmp_path / "out"), status=1)
    assert (tmp_path / "out").read_text() == "precious"


# Index


@pytest.mark.parametrize("cut", range(0, 10240, 512))
def test_a_tar_cut_at_any_block_is_refused_when_opened(
    audio: Index, refused: Refused, cut: int
) -> None:
    """Else a copy that broke off is found out hours into an epoch."""
    path = audio.paths[1]
    assert path.stat().st_size == 10240
    os.truncate(path, cut)
    words = (f"{path}: {cut} bytes, expected 10240", "copy or make it again")
    refused(verify_main, [path.parent], *words)
    with pytest.raises(ShardError, match="000001.tar"):
        open_index(path.parent, kind="audio")


def test_a_missing_tar_is_refused_when_opened(audio: Index, refused: Refused) -> None:
    """Else a half-copied dataset is found out hours into an epoch."""
    audio.paths[0].unlink()
    refused(verify_main, [audio.paths[0].parent], "000000.tar: missing", "copy or make")


@pytest.mark.parametrize(
    "name, value",
    [("num_clips", 5), ("codec", "flac"), ("sample_rate", 8000), ("format_version", 1)],
)
def test_an_edited_index_is_refused(
    audio: Index, refused: Refused, name: str, value: object
) -> None:
    """Else audio is read at another rate than it was packed at."""
    path = audio.paths[0].with_name("index.json")
    meta = json.loads(path.read_text())
    assert name in meta
    path.write_text(json.dumps({**meta, name: value}))
    refused(verify_main, [path.parent], str(path))


def test_swapped_shards_in_an_index_are_refused(audio: Index, refused: Refused) -> None:
    """Else rows are looked up in another tar."""
    path = audio.paths[0].with_name("index.json")
    meta = json.loads(path.read_text())
    meta["shards"].reverse()
    path.write_text(json.dumps(meta))
    refused(verify_main, [path.parent], f"{path}: fields do not match", "restore it")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe"])
def test_an_index_that_is_none_is_refused(
    audio: Index, refused: Refused, content: bytes
) -> None:
    """Else a damaged folder ends in a traceback."""
    path = audio.paths[0].with_name("index.json")
    path.write_bytes(content)
    refused(verify_main, [path.parent], f"{path}: not a dataset index")


@pytest.mark.parametrize("name", ["clips.npz", "classes.csv"])
@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
def test_a_damaged_file_beside_the_index_is_refused(
    audio: Index, refused: Refused, name: str, how: str
) -> None:
    """Else clips are read from wrong offsets, or classes shift by one."""
    path = audio.paths[0].with_name(name)
    data = bytearray(path.read_bytes())
    data[data.index(b"low" if name == "classes.csv" else b"a1_0")] ^= 1
    path.write_bytes(data if how == "flipped" else data[:30])
    if how == "missing":
        path.unlink()
    refused(verify_main, [path.parent], str(path))


def test_a_folder_without_index_is_refused(tmp_path: Path, refused: Refused) -> None:
    """Else an unfinished packing is trained on."""
    words = ("index.json: not found", "expected a finished audio or label", "the path")
    refused(verify_main, [tmp_path / "nowhere"], *words)


def test_a_dataset_of_another_kind_is_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else swapped --audio and labels end in a puzzling error."""
    folder = tmp_path / "audio"
    words = [folder, "--audio", folder]
    refused(verify_main, words, "index.json: holds audio, expected labels")


def test_datasets_of_other_classes_or_rates_are_not_read_as_one(
    tmp_path: Path, audio: Index
) -> None:
    """Else label columns of two datasets mean different classes."""
    other = Classes(MIDS[::-1], MIDS)
    build(tmp_path / "other", audio_rows(), classes=other)
    build(tmp_path / "flac", audio_rows(codec="flac"), codec="flac")
    for name in ("other", "flac"):
        with pytest.raises(
            ShardError, match=f"{name}: .*pack them (alike|with one class list)"
        ):
            open_indexes([tmp_path / "audio", tmp_path / name], kind="audio")


def test_a_key_that_stands_twice_is_never_published(tmp_path: Path) -> None:
    """Else one clip's labels are joined to another clip."""
    rows = audio_rows()
    rows[3] = rows[0]
    words = r"000001.tar: key 'a0_0' at row 1 is a duplicate of .*000000.tar: .* row 0"
    with pytest.raises(ShardError, match=words):
        build(tmp_path / "twice", rows)
    assert_nothing_half_made(tmp_path / "twice")


# Contents of tars


@pytest.mark.parametrize("place", range(0, 10240, 97))
def test_verify_finds_every_flipped_bit(
    audio: Index, refused: Refused, place: int
) -> None:
    """Else a bad disk changes audio or labels unnoticed."""
    path = audio.paths[1]
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << place % 8
    path.write_bytes(data)
    refused(verify_main, [path.parent], "1 of 2 shards are bad", str(path))


def test_verify_names_the_clip_whose_description_differs(
    tmp_path: Path, refused: Refused
) -> None:
    """Else other tools read other labels than this project trains on."""
    rows = audio_rows()
    rows[2].extra["json"] = rows[3].extra["json"]
    build(tmp_path / "audio", rows)
    refused(
        verify_main, [tmp_path / "audio"], "000001.tar: key 'a2_0' at row 0", "json"
    )


def test_verify_finds_a_tar_replaced_by_another_of_its_size(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else shards of two datasets get mixed by a wrong copy."""
    other = build(tmp_path / "other", audio_rows(value=1))
    shutil.copy(other.paths[1], audio.paths[1])
    place = f"{audio.paths[1]}: key 'a2_0' at row 0"
    words = (f"{place}: bytes differ from those that were written", "1 of 2 shards")
    refused(verify_main, [tmp_path / "audio"], *words)


def test_verify_names_every_bad_shard(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else shards are mended one run at a time."""
    for path in audio.paths:
        path.write_bytes(bytes(path.stat().st_size))
    paths = map(str, audio.paths)
    refused(verify_main, [tmp_path / "audio"], "2 of 2 shards are bad", *paths)


def make_symlink(header: bytearray) -> None:
    header[156:157] = b"2"
    header[157:168] = b"/etc/passwd"


def make_climb(header: bytearray) -> None:
    header[0:8] = b"../0.wav"


@pytest.mark.parametrize(
    "change, words",
    [(make_symlink, "is not a plain file"), (make_climb, "'../0.wav' would leave")],
)
def test_verify_refuses_a_member_that_leaves_its_folder(
    audio: Index, refused: Refused, change: Callable[[bytearray], None], words: str
) -> None:
    """Else whoever unpacks a shared shard overwrites files of theirs."""
    rewrite_header(audio.paths[0], change)
    refused(verify_main, [audio.paths[0].parent], str(audio.paths[0]), words)


def test_a_key_that_leaves_its_folder_is_neither_written_nor_read(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else an index made to match such a member lets it through."""
    row, *rest = audio_rows()
    climbing = Row("../a0_0", "wav", row.data, row.count)
    with pytest.raises(ShardError, match="'../a0_0' is not allowed"):
        build(tmp_path / "other", [climbing, *rest])
    rewrite_header(audio.paths[0], make_climb)

    def climb(columns: dict[str, np.ndarray]) -> None:
        columns["key"] = np.array([b"../0", *columns["key"][1:]])

    forge(tmp_path / "audio", columns=climb)
    words = ("clips.npz: row 0: key '../0' is not allowed", "expected 1 to 90")
    refused(verify_main, [tmp_path / "audio"], *words)


# The reader


def test_the_reader_names_the_clip_when_a_tar_shrinks_under_it(audio: Index) -> None:
    """Else a tar replaced during training ends in a bus error or wrong audio."""
    os.truncate(audio.paths[1], 1024)
    with pytest.raises(ShardError, match="000001.tar: key 'a2_0' at row 0: ends at"):
        MemberReader(audio).samples(2, 0, NUM_SAMPLES)


@pytest.mark.parametrize("codec", ["wav", "flac"])
def test_the_reader_names_the_clip_whose_member_is_damaged(
    tmp_path: Path, codec: str
) -> None:
    """Else noise is trained on, or an error says nothing of the place."""
    index = build(tmp_path / "audio", audio_rows(codec=codec), codec=codec)
    data = bytearray(index.paths[1].read_bytes())
    data[512:1024] = bytes(512)
    index.paths[1].write_bytes(data)
    with pytest.raises(ShardError, match="000001.tar: key 'a2_0' at row 0"):
        MemberReader(index).samples(2, 0, NUM_SAMPLES)


# Labels and their audio


def join_is_refused(refused: Refused, tmp_path: Path, *words: str) -> None:
    arguments = [tmp_path / "labels", "--audio", tmp_path / "audio"]
    refused(verify_main, arguments, str(tmp_path / "labels"), *words)


def test_a_missing_label_shard_is_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else clips train on no labels, or on those of others."""
    build_labels(tmp_path / "labels", audio, label_rows(KEYS[:2]))
    words = (
        f"no labels for 2 of 4 clips of {tmp_path / 'audio'}: 2 in",
        "audio/000001.tar (first: 'a2_0')",
        "relabel",
    )
    join_is_refused(refused, tmp_path, *words)


def test_labels_short_by_one_clip_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else every label after the gap goes to the clip before."""
    build_labels(tmp_path / "labels", audio, label_rows([KEYS[0], *KEYS[2:]]))
    words = ("no labels for 1 of 4", "000000.tar (first: 'a1_0'); relabel")
    join_is_refused(refused, tmp_path, *words)


def test_reordered_labels_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else clips swap labels in silence."""
    order = [KEYS[n] for n in (0, 1, 3, 2)]
    build_labels(tmp_path / "labels", audio, label_rows(order))
    words = (
        "000001.tar: key 'a3_0' at row 0, expected 'a2_0'",
        "so with 2 of 4 clips",
        "relabel",
    )
    join_is_refused(refused, tmp_path, *words)


def test_labels_of_more_clips_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else labels of a larger set pass for those of this one."""
    build_labels(tmp_path / "labels", audio, label_rows([*KEYS, "a4_0"]))
    words = ("labels for 1 clips that are not in", "000002.tar (first: 'a4_0')")
    join_is_refused(refused, tmp_path, *words)


def test_labels_of_other_audio_with_the_same_keys_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else labels of another cut or rate of the clips are trained on."""
    other = build(tmp_path / "other", audio_rows(value=1))
    build_labels(tmp_path / "labels", other)
    words = (audio.fingerprint, other.fingerprint, "same keys, other content")
    join_is_refused(refused, tmp_path, *words)


def test_labels_of_other_classes_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else a student learns cats from the probabilities of dogs."""
    build_labels(tmp_path / "labels", audio, classes=Classes(MIDS[::-1], MIDS))
    found = f"number 0 is {MIDS[2]}, expected {MIDS[0]}"
    words = ("the 3 classes in another order", found, "relabel")
    join_is_refused(refused, tmp_path, *words)


def test_labels_of_one_class_more_are_refused(
    tmp_path: Path, audio: Index, refused: Refused
) -> None:
    """Else a teacher of a newer class list teaches columns that nobody has."""
    mids = (*MIDS, "/m/more")
    rows = [Row(key, "npy", encode_labels(np.full((2, 4), 0.5)), 2) for key in KEYS]
    build_labels(tmp_path / "labels", audio, rows, classes=Classes(mids, mids))
    words = ("4 classes, expected 3: 1 more (/m/more)", "relabel")
    join_is_refused(refused, tmp_path, *words)


def test_labels_of_several_folders_must_come_in_the_order_of_the_audio(
    tmp_path: Path, audio: Index
) -> None:
    """Else labels=[b,a] with audio=[a,b] trains on swapped labels."""
    keys = ["b0_0", "b1_0", "b2_0", "b3_0"]
    rows = [
        Row(key, "wav", row.data, row.count)
        for key, row in zip(keys, audio_rows(), strict=True)
    ]
    second = build(tmp_path / "second", rows)
    build_labels(tmp_path / "labels", audio)
    build_labels(tmp_path / "labels2", second, label_rows(keys))
    both = open_indexes([tmp_path / "audio", tmp_path / "second"], kind="audio")
    folders = [tmp_path / "labels", tmp_path / "labels2"]
    check_join(both, open_indexes(folders, kind="labels"))
    with pytest.raises(ShardError, match="key 'b0_0' at row 0, expected 'a0_0'"):
        check_join(both, open_indexes(folders[::-1], kind="labels"))


def npy(values: Any, dtype: Any = np.float16) -> bytes:
    """A .npy file as numpy writes it."""
    stream = io.BytesIO()
    np.save(stream, np.array(values, dtype), allow_pickle=True)
    return stream.getvalue()


BAD_LABELS = {
    "one class less": (npy([[0.5] * 2] * 2), "shape [2, 3]"),
    "infinite": (npy([[np.inf] * 3] * 2), "outside [0, 1] or not finite"),
    "claims terabytes": (
        npy([[0.5] * 3] * 2).replace(b"(2, 3), }          ", b"(2000000, 3000000)}"),
        "shape [2, 3]",
    ),
    "another shape": (npy([[0.5, 0.5, 0.5]]), "shape [2, 3]"),
    "transposed": (npy([[0.5, 0.5]] * 3), "shape [2, 3]"),
    "float32": (npy([[0.5] * 3] * 2, np.float32), "shape [2, 3]"),
    "pickled": (npy([[None] * 3] * 2, object), "shape [2, 3]"),
    "cut": (npy([[0.5] * 3] * 2)[:-1], "shape [2, 3]"),
    "no values": (npy([[0.5] * 3] * 2)[:-12], "shape [2, 3]"),
    "NaN": (npy([[np.nan] * 3] * 2), "outside [0, 1] or not finite"),
    "above one": (npy([[1.5] * 3] * 2), "outside [0, 1] or not finite"),
    "negative": (npy([[-0.5] * 3] * 2), "outside [0, 1] or not finite"),
}


def test_all_shards_that_are_missing_are_named_when_opened(
    tmp_path: Path, audio: Index
) -> None:
    """Else a label set copied without some shards is mended one error at a time."""
    index = build_labels(tmp_path / "labels", audio)
    for path in index.paths:
        path.unlink()
    words = "000000.tar: missing, expected 10240 bytes.*; the same with 000001.tar"
    with pytest.raises(ShardError, match=words):
        open_index(tmp_path / "labels", kind="labels")


@pytest.mark.parametrize("what", BAD_LABELS)
def test_a_bad_label_member_is_refused_by_key(
    tmp_path: Path, audio: Index, refused: Refused, what: str
) -> None:
    """Else a student trains on NaN, or a pickle from elsewhere runs as code."""
    data, reason = BAD_LABELS[what]
    rows = label_rows()
    rows[3] = Row(KEYS[3], "npy", data, 2)
    build_labels(tmp_path / "labels", audio, rows)
    words = ("000001.tar: key 'a3_0' at row 1", reason, "relabel this shard")
    join_is_refused(refused, tmp_path, *words)


# Odd, but good


def test_a_wav_streamed_without_its_length_is_packed_whole(
    small: Source, tmp_path: Path, run: Run
) -> None:
    """Else files piped out of ffmpeg are refused as truncated."""
    path = small.audio / "clip1.wav"
    expected, _ = soundfile.read(path, dtype="int16")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
    path.write_bytes(data)
    result = run("shards.pack", *small.pack_arguments(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        member = tar.extractfile("clip1_0.wav")
        assert member is not None
        found, _ = soundfile.read(io.BytesIO(member.read()), dtype="int16")
    np.testing.assert_array_equal(found, expected)
