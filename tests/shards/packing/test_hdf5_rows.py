"""HDF5 of PANNs, PaSST and EfficientAT becomes clips; hostile HDF5 does not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile

from shards.audio.decode import load_clip
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.weak_labels import LabelReader
from shards.packing.sources import hdf5, hdf5_rows
from shards.packing.sources.hdf5_file import find_dataset, read_bytes
from shards.packing.sources.listing import Clip
from tests.conftest import Run
from tests.hostile import memory_bound
from tests.shards.test_fuzz import fuzz, mutated

RATE = 16000
NUM_SAMPLES = RATE // 2
MIDS = [f"/m/{number:02d}" for number in range(11)]
CLASSES = Classes(tuple(MIDS), tuple(MIDS))
NAMES = ("Y-0123456789.wav", "eval_segments/Yabcdefghijk.wav", "other.name.wav", "Ya")
IDS = ("-0123456789", "abcdefghijk", "other.name", "Ya")
LABELS = ((0, 10), (3,), (), (7, 8, 9))
WAVES = np.stack([np.arange(NUM_SAMPLES) * n for n in (1, 2, 3, -4)]).astype(np.int16)


def targets(labels: tuple[tuple[int, ...], ...] = LABELS) -> np.ndarray:
    flags = np.zeros((len(labels), len(CLASSES)), bool)
    for row, classes in enumerate(labels):
        flags[row, list(classes)] = True
    return flags


def write(path: Path, *, rate: int | None = RATE, **datasets: Any) -> Path:
    """A file as PANNs' utils/dataset.py makes it, with other datasets or without."""
    content = {
        "audio_name": np.array([name.encode() for name in NAMES], "S40"),
        "waveform": WAVES,
        "target": targets(),
    }
    with h5py.File(path, "w") as file:
        for name, value in (content | datasets).items():
            if value is not None:
                file[name] = value
        if rate is not None:
            file.attrs.create("sample_rate", data=rate, dtype=np.int32)
    return path


def encoded(samples: np.ndarray, form: str = "MP3") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 32000, format=form)
    return buffer.getvalue()


def write_mp3(path: Path, **datasets: Any) -> Path:
    """A file as PaSST's preparation makes it: bytes, and eight classes to a byte."""
    bits = np.packbits(targets(), axis=-1)
    write(path, rate=None, waveform=None, target=bits, **datasets)
    with h5py.File(path, "a") as file:
        rows = file.create_dataset("mp3", (4,), h5py.vlen_dtype(np.uint8))
        for row, wave in enumerate(WAVES):
            rows[row] = np.frombuffer(encoded(wave), np.uint8)
    return path


def listed(path: Path, rate: int | None = None) -> list[Clip]:
    return hdf5_rows.list_clips([path], CLASSES, rate=rate).clips


@pytest.fixture
def class_labels(tmp_path: Path) -> Path:
    lines = [f"{number},{mid},{mid}" for number, mid in enumerate(MIDS)]
    path = tmp_path / "classes.csv"
    path.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    return path


def test_files_of_panns_become_clips_with_ids_and_labels(
    class_labels: Path, tmp_path: Path, run: Run
) -> None:
    """Else who has AudioSet packed for PANNs must find the audio files again."""
    write(tmp_path / "panns.h5")
    result = run(
        *("shards.pack", "--panns", str(tmp_path / "panns.h5")),
        *("--class-labels", str(class_labels), "--out", str(tmp_path / "out")),
        *("--workers", "1"),
    )
    assert result.returncode == 0, result.stderr
    index = open_index(tmp_path / "out", kind="audio")
    assert json.loads((tmp_path / "out/index.json").read_text())["sample_rate"] == RATE
    reader = MemberReader(index)
    found = {index.key(row): reader.samples(row, 0, NUM_SAMPLES) for row in range(4)}
    assert set(found) == {"-0123456789_0", "abcdefghijk_0", "other=2Ename_0", "Ya_0"}
    for key, wave in zip(
        ("-0123456789_0", "abcdefghijk_0", "other=2Ename_0", "Ya_0"), WAVES, strict=True
    ):
        np.testing.assert_array_equal(found[key], wave)


@pytest.mark.parametrize("dtype", [bool, "uint8", "int64", "float32"])
def test_targets_of_any_type_are_read(tmp_path: Path, dtype: Any) -> None:
    """Else a file that differs from PANNs' in a type must be converted."""
    clips = listed(write(tmp_path / "x.h5", target=targets().astype(dtype)))
    assert tuple(clip.labels for clip in clips) == LABELS
    assert tuple(clip.clip_id for clip in clips) == IDS
    assert [clip.start_seconds for clip in clips] == [0.0] * 4


def test_files_of_passt_are_decoded_at_their_own_rate(tmp_path: Path) -> None:
    """Else the MP3 form of PaSST and EfficientAT has another pitch, or no source."""
    clips = listed(write_mp3(tmp_path / "x.hdf"))
    assert tuple((clip.clip_id, clip.labels) for clip in clips) == tuple(
        zip(IDS, LABELS, strict=True)
    )
    for clip, wave in zip(clips, WAVES, strict=True):
        found = hdf5_rows.load(clip, RATE)
        assert len(found) == NUM_SAMPLES // 2  # 8000 samples at 32 kHz
        np.testing.assert_array_equal(found, load_clip(encoded(wave), sample_rate=RATE))


@pytest.mark.parametrize(
    "layout", [{}, {"maxshape": (None,), "chunks": (3,)}, {"userblock_size": 512}]
)
def test_bytes_and_names_are_those_that_h5py_reads(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    """Else another layout of the same values gives other sound, or none."""
    path, rng = tmp_path / "x.h5", np.random.default_rng(0)
    values = [rng.bytes(size) for size in (1, 7, 5000, 0, 70_000, 8, 9, 100)]
    block = {k: layout.pop(k) for k in list(layout) if k == "userblock_size"}
    with h5py.File(path, "w", **block) as file:
        dtype = h5py.vlen_dtype(np.uint8)
        rows = file.create_dataset("mp3", (len(values),), dtype, **layout)
        for row, value in enumerate(values):
            rows[row] = np.frombuffer(value, np.uint8)
        names = file.create_dataset("audio_name", (8,), h5py.string_dtype(), **layout)
        names[:] = [f"Yé{row}.mp3" for row in range(8)]
        file["target"] = np.zeros((8, len(CLASSES)), bool)
    data = find_dataset(path, "mp3")
    for row, value in enumerate(values):
        if value:
            assert read_bytes(path, data, row) == value == data[row].tobytes()
    assert [clip.clip_id for clip in listed(path)] == [f"Yé{row}" for row in range(8)]


def test_compressed_references_are_refused_with_what_to_do(tmp_path: Path) -> None:
    """Else they are read by the library, which may never return."""
    path = write(tmp_path / "x.h5", waveform=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            *("mp3", (4,), h5py.vlen_dtype(np.uint8)), chunks=(4,), compression="gzip"
        )
    with pytest.raises(ShardError, match="x.h5: mp3 of row 0: compressed.* again with"):
        hdf5_rows.load(listed(path)[0], RATE)


def test_a_list_may_name_the_rows_of_such_files(tmp_path: Path) -> None:
    """Else the command that reads the published code's form ends at PANNs'."""
    path = write(tmp_path / "x.h5")
    tsv = tmp_path / "x.tsv"
    rows = [f"{name}\t{n}\t{path}\n" for n, name in enumerate((NAMES[0], "gone.wav"))]
    tsv.write_text("filename\tlabels\thdf5path\n" + "".join(rows))
    listing = hdf5.list_clips(tsv, LabelReader(CLASSES), file=None, rate=None)
    (clip,) = listing.clips
    assert (clip.clip_id, clip.labels) == (IDS[0], (0,))
    np.testing.assert_array_equal(hdf5.load(clip, RATE), WAVES[0])
    assert [line[0] for line in listing.missing] == ["gone_0"]


def test_the_rate_must_be_known(tmp_path: Path) -> None:
    """Else 32 kHz of PANNs are trained on at half their pitch."""
    known, unknown = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", rate=None)
    assert len(hdf5_rows.load(listed(unknown, 2 * RATE)[0], RATE)) == NUM_SAMPLES // 2
    assert len(hdf5_rows.load(listed(known, RATE)[0], RATE)) == NUM_SAMPLES
    with pytest.raises(ShardError, match="b.h5: no attribute sample_rate; .*source-ra"):
        listed(unknown)
    with pytest.raises(ShardError, match="a.h5: sample_rate 16000 Hz, and .* 32000"):
        listed(known, 32000)
    tsv = tmp_path / "x.tsv"
    tsv.write_text(f"filename\tlabels\thdf5path\n{NAMES[0]}\t0\t{unknown}\n")
    with pytest.raises(ShardError, match="no attribute sample_rate"):
        hdf5.list_clips(tsv, LabelReader(CLASSES), file=None, rate=None)


def test_rows_that_panns_left_empty_are_missing(tmp_path: Path) -> None:
    """Else zeros stand for the videos that nobody could download."""
    names = np.array([b"Ya.wav", b"", b"Yb.wav", b""], "S20")
    path = write(tmp_path / "x.h5", audio_name=names)
    listing = hdf5_rows.list_clips([path], CLASSES, rate=None)
    assert [clip.clip_id for clip in listing.clips] == ["Ya", "Yb"]
    assert [line[:2] for line in listing.missing] == [
        ["row 1", "missing"],
        ["row 3", "missing"],
    ]


SOFT = targets().astype(np.float32) * 0.5
WIDE = np.zeros((4, 16), bool)
SPARE = np.packbits(targets(), axis=-1) | np.array([0, 1], np.uint8)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no names": (
        {"audio_name": None},
        "expected datasets audio_name, target, and wave",
    ),
    "no audio": ({"waveform": None}, "expected datasets audio_name"),
    "no target": ({"target": None}, "target none, expected \\[4, 11\\]"),
    "other classes": ({"target": WIDE}, "\\[4, 16\\] of bool, expected \\[4, 11\\]"),
    "soft targets": ({"target": SOFT}, "row 0 of target is not 0 and 1 for 11 classes"),
    "bits of more classes": ({"target": SPARE}, "row 0 of target is not 0 and 1"),
    "other rows": ({"waveform": WAVES[:3]}, "expected \\[4, samples\\] as there are 4"),
    "numbers as names": (
        {"audio_name": np.arange(4)},
        "expected at most 4194304 names",
    ),
    "too long": (
        {"waveform": np.zeros((4, 700 * RATE), np.int8)},
        "clips of 700 s, and a clip may have 600 s",
    ),
    "int32": ({"waveform": WAVES.astype(np.int32)}, "never leave 16 bits"),
    "latin-1": ({"audio_name": np.array([b"\xe9"] * 4, "S20")}, "audio_name cannot be"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_not_in_the_form_is_refused_by_name(
    tmp_path: Path, what: str
) -> None:
    """Else labels of other classes, or noise, are packed, or h5py's words are shown."""
    changes, reason = BAD[what]
    path = write(tmp_path / "x.h5", **changes)
    with pytest.raises(ShardError, match=reason) as caught:
        for clip in listed(path):
            hdf5_rows.load(clip, RATE)
    assert str(caught.value).startswith(str(path))


# Files of strangers


def outside(path: Path) -> Path:
    """A file whose waveform is that of a private file next to it."""
    (path.parent / "private").write_bytes(WAVES.tobytes())
    write(path, waveform=None)
    with h5py.File(path, "a") as file:
        size = WAVES.nbytes
        place = [(str(path.parent / "private"), 0, size)]
        file.create_dataset("waveform", WAVES.shape, WAVES.dtype, external=place)
    return path


def virtual(path: Path) -> Path:
    other = write(path.with_suffix(".other"))
    layout = h5py.VirtualLayout(WAVES.shape, WAVES.dtype)
    layout[:] = h5py.VirtualSource(str(other), "waveform", WAVES.shape)
    write(path, waveform=None)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("waveform", layout)
    return path


def linked(path: Path) -> Path:
    other = write(path.with_suffix(".other"))
    write(path, waveform=None)
    with h5py.File(path, "a") as file:
        file["waveform"] = h5py.ExternalLink(str(other), "waveform")
    return path


def giant_chunk(path: Path) -> Path:
    write(path, waveform=None)
    with h5py.File(path, "a") as file:
        shape = (4, 60 * RATE)
        chunks = (400, 60 * RATE)
        file.create_dataset(
            *("waveform", shape, "i2"), chunks=chunks, maxshape=(None, None)
        )
    return path


def giant_shape(path: Path) -> Path:
    write(path, audio_name=None, waveform=None)
    with h5py.File(path, "a") as file:
        for name, shape, dtype in (
            ("audio_name", (1 << 40,), "S20"),
            ("waveform", (1 << 40, RATE), "i2"),
        ):
            file.create_dataset(
                name, shape, dtype, chunks=(1, *shape[1:]), maxshape=(None, *shape[1:])
            )
    return path


HOSTILE = {
    outside: "values lie in other files",
    virtual: "values lie in other files",
    linked: "lies in another file",
    giant_chunk: "chunks of 768000000 bytes, expected at most 268435456",
    giant_shape: "expected at most 4194304 names",
}


@pytest.mark.parametrize("make", HOSTILE)
def test_a_forged_file_reads_no_other_and_takes_no_memory(
    tmp_path: Path, make: Any
) -> None:
    """Else a shared file packs the private files of who reads it, or kills the node."""
    path = make(tmp_path / "x.h5")
    with memory_bound(1 << 29), pytest.raises(ShardError, match=HOSTILE[make]):
        for clip in listed(path):
            hdf5_rows.load(clip, RATE)


def test_a_dataset_of_a_billion_channels_is_not_read(tmp_path: Path) -> None:
    """Else one dataset of the published code's form, that holds nothing, takes all."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (RATE, 1 << 30), "i2", chunks=(1, 1 << 10))
    clip = Clip("a_0", "a", 0.0, (), (str(path), "a", RATE))
    with memory_bound(1 << 29), pytest.raises(ShardError, match="at most 32 channels"):
        hdf5.load(clip, RATE)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_bytes_are_not_taken_for_samples(tmp_path: Path, dtype: str) -> None:
    """Else who stored FLAC files as bytes trains on noise."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.frombuffer(encoded(WAVES[1], "FLAC"), dtype)
    clip = Clip("a_0", "a", 0.0, (), (str(path), "a", RATE))
    with pytest.raises(ShardError, match="bytes, which may be an encoded file"):
        hdf5.load(clip, RATE)


@pytest.mark.parametrize("make", [write, write_mp3])
def test_a_damaged_file_is_refused_or_gives_clips(tmp_path: Path, make: Any) -> None:
    """Else one bad byte among hundreds of gigabytes ends a packing in a traceback."""
    whole = make(tmp_path / "x.h5").read_bytes()
    number = iter(range(10**6))

    def case(rng: Any) -> None:
        path = tmp_path / f"{next(number)}.h5"  # open files are kept by name
        path.write_bytes(mutated(rng, whole, block=16))
        try:
            for clip in listed(path):
                assert set(clip.labels) <= set(range(11)) and clip.key
                try:
                    samples = hdf5_rows.load(clip, RATE)
                except ShardError as error:
                    assert str(path) in str(error)
                    continue
                assert samples.dtype == np.int16 and 1 <= len(samples) <= 600 * RATE
        finally:
            path.unlink()

    with memory_bound(1 << 29):
        fuzz(f"hdf5 {make.__name__}", 150, case)
