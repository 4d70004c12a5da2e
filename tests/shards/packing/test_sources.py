"""Every form of dataset that people have becomes the same shards."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.weak_labels import LabelReader
from shards.packing.names import parse_stem
from shards.packing.sources import hdf5, parquet
from shards.packing.sources.listing import Clip, Listing
from tests.conftest import MIDS, RATE, Run, Source, write_source

NUM_CLIPS = 24
NAMES = ("Tone low", "Tone mid", "Tone high")


def classes_of(number: int) -> list[int]:
    """The classes that conftest.write_source gives clip ``number``."""
    return sorted({number % 3, number % 2})


def tar_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def words_for(source: Source, out: Path) -> list[str]:
    return [
        *("--class-labels", str(source.class_labels), "--out", str(out)),
        *("--workers", "1", "--clips-per-shard", "8"),
    ]


def write_hdf5(source: Source, folder: Path, *, with_folders: bool = False) -> Path:
    """The clips as the published code keeps them; the TSV."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["filename\tlabels\tduration\thdf5path"]
    with h5py.File(folder / "train.h5", "w") as file:
        for number in range(NUM_CLIPS):
            path = source.audio / f"clip{number}.wav"
            samples, _ = soundfile.read(path, dtype="int16")
            file[str(path) if with_folders else path.name] = samples
            labels = ";".join(map(str, classes_of(number)))
            lines.append(f"{path}\t{labels}\t2.0\t{folder / 'train.h5'}")
    tsv = folder / "train.csv"
    tsv.write_text("\n".join(lines) + "\n")
    return tsv


def add(tar: tarfile.TarFile, name: str, data: bytes, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def write_tars(source: Source, folder: Path, label: Any = None) -> Path:
    """The clips as three WebDataset tars of FLAC and JSON, JSON first, some stereo."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as tar:
            for number in range(8 * shard, 8 * shard + 8):
                samples, _ = soundfile.read(
                    source.audio / f"clip{number}.wav", dtype="int16"
                )
                if number % 2:  # both channels alike, so the mean is exact
                    samples = np.stack([samples, samples], axis=1)
                buffer = io.BytesIO()
                soundfile.write(buffer, samples, RATE, format="FLAC")
                tags = [NAMES[c] for c in classes_of(number)]
                value = tags if label is None else label(number)
                text = json.dumps({"text": "a tone", "original": {"tag": value}})
                add(tar, f"./clip{number}.json", text.encode())
                add(tar, f"./clip{number}.flac", buffer.getvalue())
    return folder


def write_parquet(source: Source, folder: Path) -> Path:
    """The clips as two Parquet files in row groups of 5."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        numbers = range(12 * part, 12 * part + 12)
        audio = [
            {
                "bytes": (source.audio / f"clip{number}.wav").read_bytes(),
                "path": f"clip{number}.wav",
            }
            for number in numbers
        ]
        table = pa.table(
            {
                "video_id": [f"clip{number}" for number in numbers],
                "audio": audio,
                "labels": [[MIDS[c] for c in classes_of(number)] for number in numbers],
            }
        )
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=5)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("plain"), num_clips=NUM_CLIPS)


# HDF5


@pytest.mark.parametrize("with_folders", [False, True])
def test_the_published_hdf5_form_gives_the_same_shards(
    plain: Source, dataset: Path, tmp_path: Path, run: Run, with_folders: bool
) -> None:
    """Else who comes from the published code must find the audio files again."""
    tsv = write_hdf5(plain, tmp_path, with_folders=with_folders)
    words = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--tsv", str(tsv), *words)
    assert result.returncode == 0, result.stderr
    assert tar_bytes(tmp_path / "out") == tar_bytes(dataset)


def test_a_clip_that_its_hdf5_file_lacks_is_missing(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else a list and a file that do not match lose clips in silence."""
    tsv = write_hdf5(plain, tmp_path)
    with h5py.File(tmp_path / "train.h5", "a") as file:
        del file["clip3.wav"]
    words = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--tsv", str(tsv), *words)
    assert result.returncode == 78
    assert "1 of 24 clips have no audio (first: clip3_0" in result.stderr
    result = run("shards.pack", "--tsv", str(tsv), *words, "--max-missing", "0.05")
    assert "packed 23 clips in 3 shards, 1 missing" in result.stdout


def test_hdf5_floats_at_another_rate_are_converted(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else features of a wrong pitch or level are trained on."""
    time = np.arange(2 * 32000) / 32000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a.wav"] = tone.astype(np.float32)
    tsv = tmp_path / "x.tsv"
    tsv.write_text("filename\tlabels\na.wav\t2\n")
    words = words_for(plain, tmp_path / "out")
    result = run(
        *("shards.pack", "--tsv", str(tsv), "--hdf5", str(tmp_path / "x.h5")),
        *("--source-rate", "32000", *words),
    )
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        stream = tar.extractfile("a_0.wav")
        assert stream is not None
        samples, rate = soundfile.read(io.BytesIO(stream.read()))
    assert (rate, len(samples)) == (16000, 32000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert np.abs(samples - expected)[100:-100].max() < 1e-3


def test_encoded_files_in_hdf5_are_not_taken_for_samples(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else whoever stored FLAC files as bytes trains on noise."""
    flac = io.BytesIO()
    soundfile.write(flac, np.zeros(32000), 16000, format="FLAC")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a.wav"] = np.frombuffer(flac.getvalue(), np.uint8)
    tsv = tmp_path / "x.tsv"
    tsv.write_text("filename\tlabels\na.wav\t2\n")
    source = ("--tsv", str(tsv), "--hdf5", str(tmp_path / "x.h5"))
    result = run("shards.pack", *source, *words_for(plain, tmp_path / "out"))
    assert result.returncode == 78
    report = (tmp_path / "out" / "pack_report.csv").read_text()
    assert "x.h5: dataset 'a.wav': bytes, which may be an encoded file" in report


def test_a_name_that_gives_no_key_is_refused_by_place() -> None:
    """Else one file name among two million has to be guessed."""
    reader = LabelReader(Classes(("/m/a",), ("A",)))
    with pytest.raises(ShardError, match="^list.tsv: line 7: .*not valid Unicode"):
        Clip.named("caf\udce9", [], (), reader=reader, where="list.tsv: line 7")


BAD_TSV = {
    "no labels": ("filename\thdf5path\na.wav\tx.h5\n", "line 2", "labels"),
    "no path": ("filename\tlabels\na.wav\t1\n", "line 2", "hdf5path"),
    "nothing": ("filename\tlabels\thdf5path\n", "no clips"),
    "no file": ("filename\tlabels\thdf5path\na.wav\t1\tgone.h5\n", "gone.h5"),
}


@pytest.mark.parametrize("what", BAD_TSV)
def test_a_bad_list_of_hdf5_clips_is_refused_by_line(
    plain: Source, tmp_path: Path, run: Run, what: str
) -> None:
    """Else the first error comes from a library and names nothing."""
    content, *expected = BAD_TSV[what]
    tsv = tmp_path / "x.tsv"
    tsv.write_text(content)
    result = run("shards.pack", "--tsv", str(tsv), *words_for(plain, tmp_path / "out"))
    assert result.returncode == 78
    assert all(word in result.stderr for word in expected), result.stderr


# WebDataset


def test_tars_of_others_give_the_same_shards(
    plain: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else the AudioSet tars that circulate must be unpacked to files first."""
    tars = write_tars(plain, tmp_path / "tars")
    words = words_for(plain, tmp_path / "out")
    result = run(
        *("shards.pack", "--webdataset", str(tars), "--label-field", "original.tag"),
        *words,
    )
    assert result.returncode == 0, result.stderr
    assert tar_bytes(tmp_path / "out") == tar_bytes(dataset)


BAD_TARS: dict[str, tuple[list[tuple[str, dict[str, Any]]], str]] = {
    "outside": ([("../clip.json", {}), ("../clip.flac", {})], "leave its folder"),
    "absolute": ([("/tmp/clip.json", {})], "leave its folder"),
    "symlink": (
        [("clip.flac", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})],
        "not a plain file",
    ),
    "hard link": (
        [("clip.flac", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
        "not a plain file",
    ),
    "device": ([("clip.flac", {"type": tarfile.CHRTYPE})], "not a plain file"),
    "no JSON": ([("clip.flac", {})], "no JSON member"),
    "two audios": ([("clip.flac", {}), ("clip.wav", {})], "keep one"),
    "other field": ([("clip.json", {}), ("clip.flac", {})], "no field 'labels'"),
}


@pytest.mark.parametrize("what", BAD_TARS)
def test_a_tar_that_is_not_in_the_form_is_refused_by_member(
    plain: Source, tmp_path: Path, run: Run, what: str
) -> None:
    """Else a hostile or mistaken tar is half used."""
    members, expected = BAD_TARS[what]
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        for name, fields in members:
            add(tar, name, b"" if fields else b'{"tag": []}', **fields)
    words = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--webdataset", str(tmp_path / "bad.tar"), *words)
    assert result.returncode == 78
    assert expected in result.stderr and "bad.tar" in result.stderr


@pytest.mark.parametrize("cut", ["between members", "in a member", "end missing"])
def test_a_tar_cut_anywhere_is_refused(
    plain: Source, tmp_path: Path, run: Run, cut: str
) -> None:
    """Else half a download is taken for the whole; webdataset itself does that."""
    path = write_tars(plain, tmp_path / "tars") / "part-1.tar"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    last = members[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    size = {
        "between members": members[4].offset,
        "in a member": members[5].offset_data + 700,
        "end missing": end,
    }[cut]
    path.write_bytes(path.read_bytes()[:size])
    words = words_for(plain, tmp_path / "out")
    result = run(
        *("shards.pack", "--webdataset", str(tmp_path / "tars")),
        *("--label-field", "original.tag", *words),
    )
    assert result.returncode == 78
    assert "part-1.tar" in result.stderr


# Parquet


def test_parquet_of_the_hub_gives_the_same_clips(
    plain: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else the copy on the Hugging Face hub cannot be used."""
    folder = write_parquet(plain, tmp_path / "parquet")
    words = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--parquet", str(folder), *words)
    assert result.returncode == 0, result.stderr

    def members(folder: Path) -> dict[str, bytes]:
        found = {}
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as tar:
                for info in tar:
                    stream = tar.extractfile(info)
                    assert stream is not None
                    found[info.name] = stream.read()
        return found

    assert members(tmp_path / "out") == members(dataset)
    by_id = [*("--parquet", str(folder), "--id-column", "video_id")]
    words = words_for(plain, tmp_path / "by_id")
    assert run("shards.pack", *by_id, *words).returncode == 0
    assert tar_bytes(tmp_path / "by_id") == tar_bytes(tmp_path / "out")


def test_clips_of_row_groups_are_shuffled_across_them(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else a class-sorted Parquet file gives shards of one class."""
    folder = write_parquet(plain, tmp_path / "parquet")
    words = words_for(plain, tmp_path / "out")
    assert run("shards.pack", "--parquet", str(folder), *words).returncode == 0
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        numbers = [int(n[4:-6]) for n in tar.getnames() if n.endswith(".wav")]
    groups = {number // 12 * 3 + number % 12 // 5 for number in numbers}
    assert len(numbers) == 8 and len(groups) >= 4  # of 6


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--label-column", "tags"), "no column 'tags' among video_id, audio, labels"),
        (("--audio-column", "sound"), "no column 'sound'"),
        (("--id-column", "id"), "no column 'id'"),
    ],
)
def test_a_column_that_is_not_there_is_refused(
    plain: Source, tmp_path: Path, run: Run, words: tuple[str, str], expected: str
) -> None:
    """Else the error is a traceback from inside Arrow."""
    folder = write_parquet(plain, tmp_path / "parquet")
    out = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--parquet", str(folder), *words, *out)
    assert result.returncode == 78 and expected in result.stderr


def list_parquet(path: Path, columns: dict[str, Any], **schema: Any) -> Listing:
    """The clips of one Parquet file of empty audio files."""
    table = pa.table(columns).replace_schema_metadata(schema.get("metadata"))
    pq.write_table(table, path / "0.parquet")
    return parquet.list_clips(
        [path],
        LabelReader(Classes(("cat", "dog", "cow"), ("Cat", "Dog", "Cow"))),
        audio_column="audio",
        label_column="label",
        id_column=None,
    )


def audio_of(*paths: str) -> list[dict[str, Any]]:
    return [{"bytes": b"", "path": path} for path in paths]


def test_class_numbers_of_parquet_mean_what_the_file_says(tmp_path: Path) -> None:
    """Else a class list in another order than the hub's puts each label elsewhere."""
    feature = {"_type": "ClassLabel", "names": ["dog", "cat"]}
    stored = {"info": {"features": {"label": feature}}}
    listing = list_parquet(
        tmp_path,
        {"audio": audio_of("a.wav", "b.wav"), "label": [0, 1]},
        metadata={"huggingface": json.dumps(stored)},
    )
    assert [clip.labels for clip in listing.clips] == [(1,), (0,)]
    unknown = {"label": {"_type": "ClassLabel", "names": ["dog", "horse"]}}
    (tmp_path / "other").mkdir()
    with pytest.raises(ShardError, match=r"'horse' .*--labels-are indices"):
        list_parquet(
            tmp_path / "other",
            {"audio": audio_of("a.wav", "b.wav"), "label": [0, 1]},
            metadata={"huggingface": json.dumps({"info": {"features": unknown}})},
        )


def test_parquet_of_class_folders_has_ids_with_folders(tmp_path: Path) -> None:
    """Else sounds numbered in each class folder count as one clip."""
    (tmp_path / "._0.parquet").write_bytes(b"what macOS adds")
    paths = ("cat/1.wav", "dog/1.wav", "dog/2.wav")
    columns = {"audio": audio_of(*paths), "label": ["cat", "dog", "dog"]}
    listing = list_parquet(tmp_path, columns)
    assert [clip.clip_id for clip in listing.clips] == ["cat/1", "dog/1", "dog/2"]


def test_a_parquet_row_whose_label_is_not_one_is_rejected_alone(tmp_path: Path) -> None:
    """Else one NaN of a million rows refuses them all."""
    columns = {"audio": audio_of("a.wav", "b.wav"), "label": [1.5, float("nan")]}
    assert [line[0] for line in list_parquet(tmp_path, columns).rejected] == [
        "a_0",
        "b_0",
    ]


def list_hdf5(folder: Path, datasets: list[str], names: list[str]) -> Listing:
    """Clips that a list names, of an HDF5 file with these datasets.

    Each holds its number from 1 throughout.
    """
    with h5py.File(folder / "x.h5", "w") as file:
        for number, name in enumerate(datasets):
            file[name] = np.full(RATE, number + 1, np.int16)
    lines = [f"{name}\t{number}" for number, name in enumerate(names)]
    (folder / "x.tsv").write_text("\n".join(["filename\tlabels", *lines]) + "\n")
    reader = LabelReader(Classes(("/m/a", "/m/b", "/m/c"), ("a", "b", "c")))
    return hdf5.list_clips(folder / "x.tsv", reader, file=folder / "x.h5", rate=RATE)


def test_names_in_hdf5_that_differ_by_folder_or_unicode_form_are_told_apart(
    tmp_path: Path,
) -> None:
    """A label would sit on the audio of another file, or a clip be called missing."""
    datasets = ["dog/1.wav", "cat/1.wav", "cafe\u0301.wav"]
    names = ["cat/1.wav", "dog/1.wav", "audio/caf\u00e9.wav"]
    clips = list_hdf5(tmp_path, datasets, names).clips
    ids = [clip.clip_id for clip in clips]
    assert ids == ["cat/1", "dog/1", "audio/caf\u00e9"]
    assert [int(hdf5.load(clip, RATE)[0]) for clip in clips] == [2, 1, 3]


@pytest.mark.parametrize(
    ("datasets", "names", "message"),
    [
        (["1.wav"], ["dog/1.wav", "cat/1.wav"], "line 3: 'cat/1.wav' and 'dog/1.wav'"),
        (["a/1.wav", "b/1.wav"], ["1.wav"], "line 2: '1.wav' may be 'a/1.wav' or"),
    ],
)
def test_names_that_fit_more_than_one_hdf5_dataset_are_refused(
    tmp_path: Path, datasets: list[str], names: list[str], message: str
) -> None:
    """The labels of a dog and a cat were joined on one waveform (2026-11-28)."""
    with pytest.raises(ShardError, match=message):
        list_hdf5(tmp_path, datasets, names)


def test_rows_of_one_hdf5_clip_add_their_labels(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else whoever keeps one row, as the error said, loses a label."""
    write_hdf5(plain, tmp_path)
    tsv = tmp_path / "list.tsv"
    tsv.write_text("filename\tlabels\nclip1.wav\t0\nclip1.wav\t2\n")
    reader = LabelReader(Classes(MIDS, NAMES))
    listing = hdf5.list_clips(tsv, reader, file=tmp_path / "train.h5", rate=RATE)
    assert [clip.labels for clip in listing.clips] == [(0, 2)]


# Labels and names


CLASSES = Classes(("/m/a", "/m/b", "/m/c"), ("Dog", "Male speech, man", "Cat"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["/m/c", "/m/a"], (0, 2)),
        ("/m/c,/m/a", (0, 2)),
        ("0;2", (0, 2)),
        ([2, 0, 2], (0, 2)),
        ("Male speech, man", (1,)),
        (["Male speech, man", "Dog"], (0, 1)),
        ("Male speech, man; Cat", (1, 2)),
        (1, (1,)),
        ("", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_labels_are_read_as_people_write_them(
    value: object, expected: tuple[int, ...]
) -> None:
    """Else every dataset needs a script of its own."""
    assert LabelReader(CLASSES).parse(value, where="here") == expected


@pytest.mark.parametrize("value", ["Bird", 3, -1, ["Dog", 1.0], [True], [["Dog"]], {}])
def test_what_is_no_label_is_refused(value: object) -> None:
    """Else a label is lost, or put on another class."""
    with pytest.raises(ShardError, match="here: label"):
        LabelReader(CLASSES).parse(value, where="here")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("--aaILOrkII_200.000_210.000", ("--aaILOrkII", 200.0)),
        ("Y--aaILOrkII_200.000_210.000", ("--aaILOrkII", 200.0)),
        ("YaaaaILOrkII_0.0_10.0", ("aaaaILOrkII", 0.0)),
        ("YaaaILOrkII_0.0_10.0", ("YaaaILOrkII", 0.0)),  # 11 characters with its Y
        ("a_b_1.5_3.5", ("a_b", 1.5)),
        ("YaaaaILOrkII", ("YaaaaILOrkII", 0.0)),
        ("clip_30_40", ("clip_30_40", 0.0)),
    ],
)
def test_a_name_tells_id_and_start(stem: str, expected: tuple[str, float]) -> None:
    """Else one clip has another key from each source, and labels do not fit."""
    assert parse_stem(stem) == expected


# Parts


def test_parts_packed_in_any_order_merge_to_the_same_bytes(
    plain: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else a SLURM array and one machine make different datasets."""
    words = plain.pack_arguments(tmp_path / "out")
    for part in ("1/2", "0/2"):
        result = run("shards.pack", *words, "--part", part)
        assert result.returncode == 0, result.stderr
        assert not (tmp_path / "out" / "index.json").exists()
    result = run("shards.pack", *words, "--merge")
    assert result.returncode == 0, result.stderr
    for name in ("index.json", "clips.npz", "pack_report.csv", *tar_bytes(dataset)):
        assert (tmp_path / "out" / name).read_bytes() == (dataset / name).read_bytes()
    assert not (tmp_path / "out" / ".parts").exists()


def test_a_merge_refuses_while_a_part_is_missing_or_damaged(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else an array task that died leaves a hole in the dataset."""
    out = tmp_path / "out"
    words = plain.pack_arguments(out)
    assert run("shards.pack", *words, "--part", "0/2").returncode == 0
    result = run("shards.pack", *words, "--merge")
    assert result.returncode == 78
    assert re.search(
        r"1 of \d shards are not packed yet.*: 000001\.tar;", result.stderr
    )
    assert run("shards.pack", *words, "--part", "1/2").returncode == 0
    data = bytearray((out / "000002.tar").read_bytes())
    data[5000] ^= 1
    (out / "000002.tar").write_bytes(data)
    result = run("shards.pack", *words, "--merge")
    assert result.returncode == 78
    assert "000002.tar: bytes differ" in result.stderr
    assert run("shards.pack", *words, "--part", "0/2").returncode == 0
    assert run("shards.pack", *words, "--merge").returncode == 0


def test_parts_with_other_settings_are_refused(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else one array task with another flag spoils the dataset."""
    words = plain.pack_arguments(tmp_path / "out")
    assert run("shards.pack", *words, "--part", "0/2").returncode == 0
    result = run("shards.pack", *words, "--part", "1/2", "--seed", "1")
    assert result.returncode == 78
    assert "seed = 0, not 1" in result.stderr


@pytest.mark.parametrize("part", ["2/2", "1", "-1/2", "a/b", "0/0", "1/2/3"])
def test_a_part_that_is_none_is_refused(
    plain: Source, tmp_path: Path, run: Run, part: str
) -> None:
    """Else an array numbered from 1 leaves out the shards of task 0."""
    words = plain.pack_arguments(tmp_path / "out")
    result = run("shards.pack", *words, f"--part={part}")
    assert result.returncode == 78
    assert f"--part {part}" in result.stderr


def test_a_merge_may_accept_what_the_parts_rejected(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else the advice to accept some loss means packing everything again."""
    source = write_source(tmp_path / "source", num_clips=NUM_CLIPS)
    (source.audio / "clip3.wav").write_bytes(b"")
    words = source.pack_arguments(tmp_path / "out")
    for part in ("0/2", "1/2"):
        assert run("shards.pack", *words, "--part", part).returncode == 0
    refused = run("shards.pack", *words, "--merge")
    assert refused.returncode == 78 and "1 of 24 clips cannot be used" in refused.stderr
    accepted = run("shards.pack", *words, "--merge", "--max-rejected", "0.05")
    assert accepted.returncode == 0, accepted.stderr
    assert "packed 23 clips in 3 shards, 0 missing, 1 rejected" in accepted.stdout


def test_audio_that_came_after_packing_is_not_called_packed(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else who fetches the missing files trains without them."""
    source = write_source(tmp_path / "source", num_clips=NUM_CLIPS)
    (source.audio / "clip3.wav").rename(tmp_path / "aside.wav")
    words = [*source.pack_arguments(tmp_path / "out"), "--max-missing", "0.1"]
    assert run("shards.pack", *words).returncode == 0
    (tmp_path / "aside.wav").rename(source.audio / "clip3.wav")
    result = run("shards.pack", *words)
    assert result.returncode == 78
    assert "1 of these clips had audio (first: clip3_0)" in result.stderr


def test_audio_behind_a_linked_folder_is_found(
    plain: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else audio on another disk counts as missing."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "elsewhere").symlink_to(plain.audio)
    (tmp_path / "audio" / "loop").symlink_to(tmp_path / "audio")
    linked = Source(tmp_path / "audio", plain.segments, plain.class_labels)
    result = run("shards.pack", *linked.pack_arguments(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert tar_bytes(tmp_path / "out") == tar_bytes(dataset)


def test_an_id_that_stands_twice_is_refused_before_packing(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else it is found after all has been decoded."""
    tsv = write_hdf5(plain, tmp_path)
    tsv.write_text(tsv.read_text() + tsv.read_text().splitlines()[1] + "\n")
    result = run("shards.pack", "--tsv", str(tsv), *words_for(plain, tmp_path / "out"))
    assert result.returncode == 78
    assert "'clip0_0' is both" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_json_member_without_audio_is_refused(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else clips of a suffix we do not know vanish."""
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        add(tar, "a.pcm", b"1234")
        add(tar, "a.json", b'{"labels": []}')
    words = words_for(plain, tmp_path / "out")
    result = run("shards.pack", "--webdataset", str(tmp_path / "odd.tar"), *words)
    assert result.returncode == 78
    assert "a.json has no audio member" in result.stderr
