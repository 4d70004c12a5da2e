"""Packing and reading back, seen through readers that are not ours."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from shards.dataset.reader import MemberReader
from shards.dataset.writer import DatasetBuilder, Row
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.index import open_index
from shards.format.join import open_indexes
from shards.format.label_codec import decode_labels, encode_labels
from shards.format.schema import make_key
from shards.packing.audio_files import find_audio
from shards.packing.segments import Segment
from tests.conftest import MIDS, RATE, Run, Source, write_source

SHARD_NAMES = ["000000.tar", "000001.tar", "000002.tar"]
ODD_SECONDS = 2
ODD_SAMPLES = 32000


def read_with_webdataset(folder: Path) -> dict[str, dict[str, Any]]:
    """Members by key and suffix; fails if a key comes twice."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            assert sample["__key__"] not in found
            found[sample["__key__"]] = sample
    return found


def read_wav(data: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == RATE
    return samples


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def report_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "pack_report.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def classes_of_clip(number: int) -> list[str]:
    """The mids that conftest.write_source gives clip ``number``."""
    return [MIDS[c] for c in sorted({number % 3, number % 2})]


@pytest.fixture(scope="module", params=["wav", "flac"])
def packed(
    request: pytest.FixtureRequest,
    dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run: Run,
) -> Path:
    """The 24 clips of ``dataset`` in each codec."""
    if request.param == "wav":
        return dataset
    source, out = dataset.parent / "source", tmp_path_factory.mktemp("flac") / "out"
    words = Source(
        source / "audio", source / "segments.csv", source / "class_labels_indices.csv"
    ).pack_arguments(out)
    assert run("shards.pack", *words, "--codec", "flac").returncode == 0
    return out


# What another reader sees


def test_webdataset_reads_every_clip_bit_for_bit(packed: Path, dataset: Path) -> None:
    """Else shards are readable by this project alone, or hold other audio."""
    samples = read_with_webdataset(packed)
    codec = open_index(packed, kind="audio").properties["codec"]
    assert sorted(samples) == sorted(f"clip{n}_0" for n in range(24))
    for number in range(24):
        source = dataset.parent / "source" / "audio" / f"clip{number}.wav"
        expected, _ = soundfile.read(source, dtype="int16")
        found = read_wav(samples[f"clip{number}_0"][codec])
        np.testing.assert_array_equal(found, expected)


def test_the_json_member_says_what_the_clip_is(packed: Path) -> None:
    """Else other tools cannot tell a clip's id, rate and labels."""
    for key, sample in read_with_webdataset(packed).items():
        name = key.removesuffix("_0")
        assert json.loads(sample["json"]) == {
            "id": name,
            "start_seconds": 0.0,
            "num_samples": 32000,
            "sample_rate": 16000,
            "labels": classes_of_clip(int(name.removeprefix("clip"))),
        }


def test_tarfile_finds_each_member_where_the_table_says(packed: Path) -> None:
    """Else random access returns bytes of another clip."""
    with np.load(packed / "clips.npz", allow_pickle=False) as table:
        columns = {name: table[name].tolist() for name in table.files}
    found = []
    for number, name in enumerate(SHARD_NAMES):
        with tarfile.open(packed / name) as tar:
            for audio, description in zip(*[iter(tar.getmembers())] * 2, strict=True):
                key = audio.name.split(".")[0]
                assert description.name == f"{key}.json"
                found.append((key.encode(), number, audio.offset_data, audio.size))
    columns_used = (columns[name] for name in ("key", "shard", "offset", "size"))
    assert list(zip(*columns_used, strict=True)) == found
    assert columns["count"] == [32000] * 24


def test_index_json_says_what_lies_beside_it(dataset: Path) -> None:
    """Else a damaged copy of a dataset is not noticed."""
    meta = json.loads((dataset / "index.json").read_text())
    assert (meta["kind"], meta["codec"], meta["sample_rate"]) == ("audio", "wav", 16000)
    assert (meta["num_clips"], meta["num_classes"]) == (24, 3)
    assert [shard["name"] for shard in meta["shards"]] == SHARD_NAMES
    for shard in meta["shards"]:
        data = (dataset / shard["name"]).read_bytes()
        assert shard["num_clips"] == 8
        assert shard["num_bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
    table = (dataset / "clips.npz").read_bytes()
    assert meta["clips_sha256"] == hashlib.sha256(table).hexdigest()


def test_weak_targets_are_the_labels_of_the_csv(dataset: Path) -> None:
    """Else a student learns the labels of another clip."""
    index = open_index(dataset, kind="audio")
    targets = index.table.weak_targets(np.arange(24), 3)
    assert targets.dtype == np.float32
    for row in range(24):
        number = int(index.key(row).removeprefix("clip").removesuffix("_0"))
        mids = [MIDS[c] for c in np.flatnonzero(targets[row])]
        assert mids == classes_of_clip(number)


# Random access


def test_any_slice_of_a_clip_equals_the_source(packed: Path, dataset: Path) -> None:
    """Else chunks are cut in other places than their labels."""
    index = open_index(packed, kind="audio")
    reader, rng = MemberReader(index), np.random.default_rng(0)
    for row in range(24):
        name = index.key(row).removesuffix("_0")
        source = dataset.parent / "source" / "audio" / f"{name}.wav"
        cuts = sorted(rng.integers(0, 32001, 2).tolist())
        for start, stop in (cuts, (0, 32000), (0, 1), (31999, 32000)):
            expected, _ = soundfile.read(
                source, start=start, stop=stop, dtype="int16", always_2d=False
            )
            np.testing.assert_array_equal(reader.samples(row, start, stop), expected)


def test_a_slice_past_the_end_is_refused(packed: Path) -> None:
    """Else a short chunk passes for a whole one."""
    index = open_index(packed, kind="audio")
    with pytest.raises(ShardError, match=r"\.tar: key 'clip.*expected 2"):
        MemberReader(index).samples(0, 31999, 32001)


def test_threads_may_share_a_reader(packed: Path) -> None:
    """Else the loader's threads hand out wrong audio under load."""
    index = open_index(packed, kind="audio")
    reader = MemberReader(index)
    alone = [reader.samples(row, 0, 32000).copy() for row in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader.samples(i % 24, 0, 32000), range(240)))
    assert all((f == alone[i % 24]).all() for i, f in enumerate(found))


# The same bytes, whatever happens


def test_one_and_two_workers_write_the_same_bytes(
    dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else the order of an epoch depends on the machine that packed."""
    source = write_source(tmp_path / "source", num_clips=24)
    out = tmp_path / "packed"
    result = run("shards.pack", *source.pack_arguments(out), "--workers", "2")
    assert result.returncode == 0, result.stderr
    assert folder_bytes(out) == folder_bytes(dataset)


def test_packing_again_says_so_and_changes_nothing(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else a rerun job spends hours on finished work, or breaks it."""
    words = source.pack_arguments(tmp_path / "out")
    assert run("shards.pack", *words).returncode == 0
    files = list((tmp_path / "out").iterdir())
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    again = run("shards.pack", *words)
    assert again.returncode == 0
    assert "already packed" in again.stdout
    assert sorted((tmp_path / "out").iterdir()) == sorted(before)
    for path, (data, changed) in before.items():
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (data, changed)


def kill_when(words: list[str], out: Path, *, num_parts: int) -> None:
    """Start a packer and SIGKILL it, and only it, once shards are finished."""
    with subprocess.Popen(
        [sys.executable, "-m", "shards.pack", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as packer:
        deadline = time.monotonic() + 60
        while len(list(out.glob(".parts/0*.json"))) < num_parts:
            assert packer.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(packer.pid, signal.SIGKILL)
        # Workers hold stderr too, so it ends only when the last of them is gone.
        packer.communicate(timeout=120)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Source, Path]:
    """120 short clips and their undisturbed packing in 60 shards."""
    folder = tmp_path_factory.mktemp("many")
    source = write_source(folder / "source", num_clips=120, seconds=0.25)
    words = source.pack_arguments(folder / "whole")
    result = run("shards.pack", *words, "--clips-per-shard", "2")
    assert result.returncode == 0, result.stderr
    return source, folder / "whole"


@pytest.mark.parametrize("num_parts", [1, 20])
def test_a_killed_packer_leaves_whole_files_and_a_rerun_ends_the_same(
    many: tuple[Source, Path], tmp_path: Path, run: Run, num_parts: int
) -> None:
    """Else a preempted job leaves a dataset that nobody can trust, or idle workers."""
    source, whole = many
    out = tmp_path / "out"
    words = [*source.pack_arguments(out), "--clips-per-shard", "2", "--workers", "2"]
    kill_when(words, out, num_parts=num_parts)
    assert not (out / "index.json").exists()
    tars = sorted(out.glob("*.tar"))
    assert num_parts <= len(tars) < 60
    for path in tars:
        assert path.read_bytes() == (whole / path.name).read_bytes()
    assert run("shards.pack", *words).returncode == 0
    assert folder_bytes(out) == folder_bytes(whole)


def killed_before_publishing(
    many: tuple[Source, Path], tmp_path: Path
) -> tuple[Path, list[str]]:
    """A folder with some shards done, and the words that made it."""
    source, _ = many
    out = tmp_path / "out"
    words = [*source.pack_arguments(out), "--clips-per-shard", "2"]
    kill_when(words, out, num_parts=3)
    return out, words


@pytest.mark.parametrize("damage", ["record lost", "tar lost", "tar cut"])
def test_a_shard_that_lost_a_file_is_made_again(
    many: tuple[Source, Path], tmp_path: Path, run: Run, damage: str
) -> None:
    """Else one file lost with a disk means packing everything again."""
    out, words = killed_before_publishing(many, tmp_path)
    name = sorted(out.glob(".parts/0*.json"))[0].name
    if damage == "record lost":
        (out / ".parts" / name).unlink()
    elif damage == "tar lost":
        (out / name.removesuffix(".json")).unlink()
    else:
        os.truncate(out / name.removesuffix(".json"), 1000)
    assert run("shards.pack", *words).returncode == 0
    assert folder_bytes(out) == folder_bytes(many[1])


def test_a_rerun_with_other_files_present_loses_and_doubles_no_clip(
    tmp_path: Path, run: Run
) -> None:
    """Else a download that goes on between two runs leaves holes in the shards."""
    source = write_source(tmp_path / "source", num_clips=40, seconds=0.1)
    first, last = source.audio / "clip0.wav", source.audio / "clip39.wav"
    words = [*source.pack_arguments(tmp_path / "out"), "--max-missing", "0.1"]
    last.rename(tmp_path / "aside.wav")
    kill_when([*words, "--clips-per-shard", "1"], tmp_path / "out", num_parts=5)
    (tmp_path / "aside.wav").rename(last)
    first.unlink()
    result = run("shards.pack", *words, "--clips-per-shard", "1")
    assert result.returncode == 0, result.stderr
    keys = sorted(read_with_webdataset(tmp_path / "out"))
    assert keys == sorted(f"clip{n}_0" for n in range(1, 40))


def test_processes_may_publish_at_the_same_moment(tmp_path: Path) -> None:
    """Else ranks that finish labelling together crash each other."""
    classes = Classes(MIDS, MIDS)
    data = encode_labels(np.zeros((1, 3)))
    for round_ in range(10):
        builder = DatasetBuilder(tmp_path / str(round_), "labels", classes, {}, {})
        builder.begin()
        names = [f"{n:06d}.tar" for n in range(4)]
        for name in names:
            builder.add(name, [Row(f"clip-{name[:6]}", "npy", data, 1)])
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(builder.publish, [names] * 8))
        assert len(open_index(builder.folder, kind="labels")) == 4
        assert not list(builder.folder.glob(".*.tmp-*"))


# Names of files


@pytest.fixture(scope="module")
def odd(
    tmp_path_factory: pytest.TempPathFactory, run: Run
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Recordings of every odd kind, packed: samples and JSON by key."""
    folder = tmp_path_factory.mktemp("odd")
    source = write_source(folder / "source", num_clips=1)
    lines = ["# id, start, end, labels"]
    for clip_id, start, name, samples, kind in odd_files():
        path = source.audio / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, **kind)
        lines.append(f'{clip_id}, {start:.3f}, {start + ODD_SECONDS:.3f}, "/m/mid"')
    source.segments.write_text("\n".join(lines))
    result = run("shards.pack", *source.pack_arguments(folder / "out"))
    assert result.returncode == 0, result.stderr
    found = read_with_webdataset(folder / "out")
    return (
        {key: read_wav(sample["wav"]) for key, sample in found.items()},
        {key: json.loads(sample["json"]) for key, sample in found.items()},
    )


NAMES = {
    "plain": (0, "plain.wav"),
    "prefixed": (30, "Yprefixed.flac"),
    "cut": (30, "cut_30.000_32.000.wav"),
    "prefixed_cut": (30, "Yprefixed_cut_30.000_32.000.wav"),
    "tenths": (5, "tenths_5.0_7.0.wav"),
    "whole_seconds": (5, "whole_seconds_5_7.wav"),
    "millis": (5, "millis_5000_7000.wav"),
    "deep": (0, "below/deep.wav"),
    "loud": (0, "loud.WAV"),
    "-dash": (0, "-dash.wav"),
    "--two_dashes": (0, "--two_dashes.wav"),
    "a.b": (0, "a.b.wav"),
    "a b": (0, "a b.wav"),
    "a_b": (0, "a_b.wav"),
    "a=b": (0, "a=b.wav"),
    "é": (0, "é.wav"),
}
KEYS = {
    "a.b": "a=2Eb_0",
    "a b": "a=20b_0",
    "a=b": "a=3Db_0",
    "é": "=C3=A9_0",
}


def odd_files() -> list[tuple[str, float, str, np.ndarray, dict[str, Any]]]:
    """Id, start, file name, samples and soundfile.write's arguments of each file."""
    pcm: dict[str, Any] = {"samplerate": RATE, "subtype": "PCM_16"}
    ramp = np.arange(20 * RATE) // 10
    time_44k = np.arange(2 * 44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time_44k)
    tone_16k = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(ODD_SAMPLES) / RATE)
    floats = np.full(ODD_SAMPLES, 0.25)
    floats[:2] = 2.0, -2.0
    files = [
        (clip_id, start, name, np.full(ODD_SAMPLES, number + 1, np.int16), pcm)
        for number, (clip_id, (start, name)) in enumerate(NAMES.items())
    ]
    stereo = np.tile(np.array([1000, 3000], np.int16), (ODD_SAMPLES, 1))
    deep = np.full(ODD_SAMPLES, 5000 << 16, np.int32)
    other = [
        ("recording", 5, "recording.wav", ramp.astype(np.int16), pcm),
        ("ends_inside", 19, "ends_inside.wav", ramp.astype(np.int16), pcm),
        ("longer", 100, "longer.wav", ramp[:40000].astype(np.int16), pcm),
        ("shorter", 100, "shorter.wav", ramp[:16000].astype(np.int16), pcm),
        ("stereo", 0, "stereo.wav", stereo, pcm),
        ("float", 0, "float.wav", floats, {"samplerate": RATE, "subtype": "FLOAT"}),
        (
            "deep_pcm",
            0,
            "deep_pcm.wav",
            deep,
            {"samplerate": RATE, "subtype": "PCM_24"},
        ),
        ("fast", 0, "fast.wav", tone, {"samplerate": 44100, "subtype": "PCM_16"}),
        ("vorbis", 0, "vorbis.ogg", tone_16k, {"samplerate": RATE}),
    ]
    return [*files, *other]


@pytest.mark.parametrize("clip_id", NAMES)
def test_each_form_of_file_name_is_found(clip_id: str, odd: Any) -> None:
    """Else the files of a common downloader count as missing."""
    samples, described = odd
    start = NAMES[clip_id][0]
    key = KEYS.get(clip_id, f"{clip_id}_{start * 1000}")
    assert described[key]["id"] == clip_id
    assert described[key]["start_seconds"] == start
    value = list(NAMES).index(clip_id) + 1
    np.testing.assert_array_equal(samples[key], np.full(ODD_SAMPLES, value))


def test_two_segments_of_one_short_recording_are_two_sounds(
    tmp_path: Path, run: Run
) -> None:
    """Else the second gets the sound of the first: 3 s look like a cut 2 s segment."""
    source = write_source(tmp_path / "source", num_clips=1)
    samples = np.repeat(np.array([1, 2, 3], np.int16), RATE)
    soundfile.write(source.audio / "rec.wav", samples, RATE)
    rows = ['rec, 0.000, 2.000, "/m/low"', 'rec, 1.000, 3.000, "/m/high"']
    source.segments.write_text("\n".join(rows) + "\n")
    assert run("shards.pack", *source.pack_arguments(tmp_path / "out")).returncode == 0
    index = open_index(tmp_path / "out", kind="audio")
    reader = MemberReader(index)
    sounds = {index.key(r): reader.samples(r, 0, 2 * RATE) for r in range(2)}
    np.testing.assert_array_equal(sounds["rec_0"], samples[: 2 * RATE])
    np.testing.assert_array_equal(sounds["rec_1000"], samples[RATE:])


def test_reading_does_not_look_up_the_place_of_a_clip(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each read of a set of two million clips searches through all of them."""
    reader = MemberReader(open_index(dataset, kind="audio"))
    monkeypatch.setattr(type(reader.index), "place", None)
    assert len(reader.samples(3, 0, 100)) == 100


def test_a_packing_does_not_go_on_with_another_class_list(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else half of the clips carry the labels of other classes."""
    words = source.pack_arguments(tmp_path / "out")
    assert run("shards.pack", *words).returncode == 0
    source.class_labels.write_text(
        'index,mid,display_name\n0,/m/mid,"b"\n1,/m/low,"a"\n2,/m/high,"c"\n'
    )
    again = run("shards.pack", *words)
    assert again.returncode == 78 and "classes_sha256" in again.stderr


def test_removing_a_rejected_file_and_accepting_its_loss_completes_the_set(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else the advice of the error message leads into another error."""
    (source.audio / "clip3.wav").write_bytes(b"")
    words = source.pack_arguments(tmp_path / "out")
    assert run("shards.pack", *words).returncode == 78
    (source.audio / "clip3.wav").unlink()
    result = run("shards.pack", *words, "--max-missing", "0.05")
    assert result.returncode == 0, result.stderr
    assert len(open_index(tmp_path / "out", kind="audio")) == 23


def test_a_full_disk_leaves_no_half_written_shard(
    source: Source, tmp_path: Path
) -> None:
    """Else a reader meets a shard that ends in the middle of a clip."""
    code = (
        "import resource, sys; from shards.pack import main;"
        "from shards.system.exits import *;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "run_main(lambda: main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *source.pack_arguments(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "File too large" in result.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".parts"}


def test_a_file_that_belongs_to_another_id_is_not_taken(tmp_path: Path) -> None:
    """Else clip `abc`, whose file is missing, gets the sound of clip `Yabc`."""
    (tmp_path / "Yabc.wav").write_bytes(b"")
    segments = [Segment("abc", 0.0, 1.0, ()), Segment("Yabc", 0.0, 1.0, ())]
    found = find_audio(tmp_path, segments, Classes((), ()), where="segments.csv")
    assert [one.path for one in found] == [None, tmp_path / "Yabc.wav"]


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(0, 10**6)), unique=True))
def test_keys_hold_no_dot_and_different_clips_have_different_keys(
    clips: list[tuple[str, int]],
) -> None:
    """Else webdataset mixes up members, or one clip hides another."""
    keys = [make_key(clip_id, millis / 1000) for clip_id, millis in clips]
    assert not any(set(key) & set("./\\ ") for key in keys)
    assert len(set(keys)) == len(keys)


# Forms of audio


def peak_hz(samples: np.ndarray) -> float:
    """Frequency of the strongest bin; 0.5 Hz a bin for 2 s at 16 kHz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def test_a_whole_recording_is_cut_at_its_segment(odd: Any) -> None:
    """Else a student hears the start of a video under labels of its middle."""
    samples, _ = odd
    expected = np.arange(5 * RATE, 7 * RATE) // 10
    np.testing.assert_array_equal(samples["recording_5000"], expected)


def test_a_recording_that_ends_inside_its_segment_gives_what_there_is(odd: Any) -> None:
    """Else the last seconds of videos are lost, or padded with invented silence."""
    samples, _ = odd
    expected = np.arange(19 * RATE, 20 * RATE) // 10
    np.testing.assert_array_equal(samples["ends_inside_19000"], expected)


def test_a_cut_file_a_little_too_long_is_taken_from_its_start(odd: Any) -> None:
    """Else files that ffmpeg cut at a packet boundary are thrown away."""
    samples, _ = odd
    expected = np.arange(ODD_SAMPLES) // 10
    np.testing.assert_array_equal(samples["longer_100000"], expected)


def test_a_cut_file_that_is_too_short_keeps_its_length(odd: Any) -> None:
    """Else silence that nobody recorded is averaged into scores."""
    samples, described = odd
    np.testing.assert_array_equal(samples["shorter_100000"], np.arange(16000) // 10)
    assert described["shorter_100000"]["num_samples"] == 16000


def test_channels_are_averaged(odd: Any) -> None:
    """Else stereo clips lose a channel or change in loudness."""
    samples, _ = odd
    np.testing.assert_array_equal(samples["stereo_0"], np.full(ODD_SAMPLES, 2000))


def test_float_audio_is_scaled_and_clipped(odd: Any) -> None:
    """Else a loud float file wraps round to noise."""
    samples, _ = odd
    assert samples["float_0"][:2].tolist() == [32767, -32768]
    np.testing.assert_array_equal(samples["float_0"][2:], np.full(31998, 8192))


def test_24_bit_audio_keeps_its_level(odd: Any) -> None:
    """Else studio recordings are packed as silence or noise."""
    samples, _ = odd
    np.testing.assert_array_equal(samples["deep_pcm_0"], np.full(ODD_SAMPLES, 5000))


def test_another_rate_is_resampled(odd: Any) -> None:
    """Else 44.1 kHz clips play at a third of their speed."""
    samples, described = odd
    assert len(samples["fast_0"]) == described["fast_0"]["num_samples"] == 32000
    assert peak_hz(samples["fast_0"]) == 1000.0
    middle = samples["fast_0"][4000:-4000].astype(float)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 * 32768 / 2**0.5, rel=0.01)


def test_ogg_is_decoded(odd: Any) -> None:
    """Else a dataset of compressed files has to be converted first."""
    samples, _ = odd
    assert len(samples["vorbis_0"]) == 32000
    assert peak_hz(samples["vorbis_0"]) == 1000.0


def test_a_resampled_clip_is_never_longer_than_its_segment(
    tmp_path: Path, run: Run
) -> None:
    """Else one sample too many makes one chunk too many."""
    source = write_source(tmp_path / "source", num_clips=1)
    soundfile.write(source.audio / "clip0.wav", np.zeros(8000, np.int16), 8000)
    source.segments.write_text('clip0, 0.000, 0.12345, "/m/low"')
    assert run("shards.pack", *source.pack_arguments(tmp_path / "out")).returncode == 0
    (sample,) = read_with_webdataset(tmp_path / "out").values()
    assert len(read_wav(sample["wav"])) == 1975  # 0.12345 s x 16 kHz = 1975.2


# Missing and rejected segments


def test_missing_files_are_listed_and_refused_past_the_limit(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else a half-downloaded dataset is trained on unnoticed."""
    for number in (3, 5, 11):
        (source.audio / f"clip{number}.wav").unlink()
    out = tmp_path / "out"
    words = source.pack_arguments(out)
    refused = run("shards.pack", *words, "--max-missing", "0.12")  # 2.88 of 24
    assert refused.returncode == 78
    assert "3 of 24 clips have no audio" in refused.stderr
    assert not (out / "index.json").exists()
    expected = [(f"clip{number}_0", "missing") for number in (3, 5, 11)]
    assert [(row["key"], row["status"]) for row in report_of(out)] == expected
    accepted = run("shards.pack", *words, "--max-missing", "0.125")
    assert accepted.returncode == 0, accepted.stderr
    assert "packed 21 clips in 3 shards, 3 missing, 0 rejected" in accepted.stdout
    assert [(row["key"], row["status"]) for row in report_of(out)] == expected
    assert len(read_with_webdataset(out)) == 21


def test_missing_files_can_be_mended_in_place(
    source: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else who follows the advice to fetch a file is told to choose another folder."""
    words = source.pack_arguments(tmp_path / "out")
    (source.audio / "clip3.wav").rename(tmp_path / "aside.wav")
    assert run("shards.pack", *words).returncode == 78
    (tmp_path / "aside.wav").rename(source.audio / "clip3.wav")
    assert run("shards.pack", *words).returncode == 0
    assert folder_bytes(tmp_path / "out") == folder_bytes(dataset)


def test_rejected_files_are_listed_and_refused_past_the_limit(
    source: Source, tmp_path: Path, run: Run
) -> None:
    """Else broken downloads vanish from the dataset without a word."""
    for number in (2, 7):
        (source.audio / f"clip{number}.wav").write_bytes(b"")
    out = tmp_path / "out"
    words = source.pack_arguments(out)
    refused = run("shards.pack", *words, "--max-rejected", "0.08")  # 1.92 of 24
    assert refused.returncode == 78
    assert "2 of 24 clips cannot be used" in refused.stderr
    assert not (out / "index.json").exists()
    accepted = run("shards.pack", *words, "--max-rejected", "0.09")
    assert accepted.returncode == 0, accepted.stderr
    assert "packed 22 clips in 3 shards, 0 missing, 2 rejected" in accepted.stdout
    rows = {row["key"]: row for row in report_of(out)}
    assert sorted(rows) == ["clip2_0", "clip7_0"]
    assert {row["status"] for row in rows.values()} == {"rejected"}
    assert f"{source.audio / 'clip7.wav'}: empty file" in rows["clip7_0"]["reason"]
    assert not set(rows) & set(read_with_webdataset(out))


def test_rejected_files_can_be_mended_in_place(
    source: Source, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else who follows the advice to mend a file gets the same error for ever."""
    words, path = source.pack_arguments(tmp_path / "out"), source.audio / "clip3.wav"
    good = path.read_bytes()
    path.write_bytes(good[:1000])
    assert run("shards.pack", *words).returncode == 78
    path.write_bytes(good)
    assert run("shards.pack", *words).returncode == 0
    assert folder_bytes(tmp_path / "out") == folder_bytes(dataset)


# Labels


def test_numpy_reads_label_members_without_pickle() -> None:
    """Else labels need this project to be read, or run code when they are."""
    probs = np.random.default_rng(0).random((5, 527))
    data = encode_labels(probs)
    found = np.load(io.BytesIO(data), allow_pickle=False)
    assert found.dtype == np.dtype("<f2")
    np.testing.assert_array_equal(found, probs.astype(np.float16))
    decoded = decode_labels(data, 5, 527)
    np.testing.assert_array_equal(decoded, found)


@pytest.mark.parametrize(
    "bad", [[0.5, 0.5], [[0.5, np.nan]], [[0.5, np.inf]], [[-0.01]], [[1.01]]]
)
def test_what_is_no_probability_is_not_written(bad: list[Any]) -> None:
    """Else a diverged teacher poisons every student after it."""
    with pytest.raises(ValueError, match="labels must be"):
        encode_labels(np.array(bad))


# Several datasets as one


def test_several_datasets_read_as_one(source: Source, dataset: Path, run: Run) -> None:
    """Else balanced and unbalanced AudioSet cannot be trained on together."""
    other = source.audio.parent / "other"
    text = source.segments.read_text().replace("0.000, 2.000", "10.000, 12.000")
    source.segments.write_text(text)
    assert run("shards.pack", *source.pack_arguments(other)).returncode == 0
    both = open_indexes([dataset, other], kind="audio")
    reader = MemberReader(both)
    assert (len(both), len(both.shards)) == (48, 6)
    assert [p.parent for p in both.paths] == [dataset] * 3 + [other] * 3
    for row in range(48):
        name, start = both.key(row).split("_")
        assert start == ("0" if row < 24 else "10000")
        expected, _ = soundfile.read(source.audio / f"{name}.wav", dtype="int16")
        np.testing.assert_array_equal(reader.samples(row, 0, 32000), expected)
        (targets,) = both.table.weak_targets(np.array([row]), 3)
        mids = classes_of_clip(int(name.removeprefix("clip")))
        assert [MIDS[c] for c in np.flatnonzero(targets)] == mids


def test_a_clip_that_stands_in_two_datasets_is_refused(dataset: Path) -> None:
    """Else its labels are joined to the wrong copy, and it counts twice."""
    with pytest.raises(ShardError, match=r"'clip\d+_0' at row \d is a duplicate of"):
        open_indexes([dataset, dataset], kind="audio")


# What the data plane needs


def test_the_data_plane_imports_neither_torch_nor_psl() -> None:
    """Else packing needs gigabytes of CUDA, and every worker starts in seconds."""
    program = (
        "import importlib, pkgutil, sys, shards\n"
        "found = pkgutil.walk_packages(shards.__path__, 'shards.')\n"
        "names = [m.name for m in found]\n"
        "assert {'shards.pack', 'shards.dataset.reader'} <= set(names)\n"
        "for name in names: importlib.import_module(name)\n"
        "print(sorted({'torch', 'torchaudio', 'psl'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
