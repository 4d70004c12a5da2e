"""Tars used where they lie, and indexes made again from tars."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from shards.dataset.reader import MemberReader
from shards.format.index import open_index
from tests.conftest import RATE, Run, Source, write_source
from tests.shards.packing.test_sources import NAMES, add, classes_of, write_tars

FIELD = ("--label-field", "original.tag")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(tmp_path_factory.mktemp("plain"), num_clips=24)


def adopt(run: Run, source: Source, tars: Path, *words: str) -> Any:
    labels = ("--class-labels", str(source.class_labels))
    return run("shards.adopt", str(tars), *labels, *FIELD, "--workers", "1", *words)


def samples_of(folder: Path) -> dict[str, np.ndarray]:
    index = open_index(folder, kind="audio")
    reader = MemberReader(index)
    counts = index.table.count
    return {
        index.key(row): reader.samples(row, 0, int(counts[row]))
        for row in range(len(index))
    }


@pytest.mark.parametrize("place", ["beside", "elsewhere"])
def test_adopted_tars_give_the_clips_and_labels_of_a_packed_set(
    plain: Source, dataset: Path, tmp_path: Path, run: Run, place: str
) -> None:
    """Else who has AudioSet as tars must copy terabytes, or gets other clips."""
    tars = write_tars(plain, tmp_path / "tars")
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    out = tars if place == "beside" else tmp_path / "index"
    result = adopt(run, plain, tars, "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "adopted 24 clips in 3 tars, 0 rejected" in result.stdout
    assert {name: (tars / name).read_bytes() for name in before} == before
    expected, found = samples_of(dataset), samples_of(out)
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in expected)
    index = open_index(out, kind="audio")
    for row in range(len(index)):
        number = int(index.key(row)[4:-2])
        labels = index.table.weak_targets(np.array([row]), 3)[0]
        assert list(np.flatnonzero(labels)) == classes_of(number)
    verified = run("shards.verify", str(out))
    assert verified.returncode == 0, verified.stderr


def test_adopted_audio_of_another_rate_is_converted_when_read(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else 48 kHz tars play at a third of their speed."""
    time = np.arange(2 * 48000) / 48000
    tone = np.stack([0.6 * np.sin(2 * np.pi * 440 * time)] * 2, axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, 48000, format="FLAC", subtype="PCM_24")
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "0.tar", "w") as tar:
        add(tar, "a.json", json.dumps({"original": {"tag": [NAMES[0]]}}).encode())
        add(tar, "a.flac", buffer.getvalue())
    result = adopt(run, plain, tmp_path / "tars")
    assert result.returncode == 0, result.stderr
    (samples,) = samples_of(tmp_path / "tars").values()
    expected = 0.6 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert len(samples) == 2 * RATE
    assert np.abs(samples / 32768 - expected)[200:-200].max() < 1e-3


def test_a_clip_that_does_not_decode_is_refused_or_left_out(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else it is found by the training run, a day later."""
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "0.tar", "w") as tar:
        for name, data in (("a", b"RIFF no audio"), ("b", None)):
            if data is None:
                data = (plain.audio / "clip0.wav").read_bytes()
            add(tar, f"{name}.json", json.dumps({"original": {"tag": ""}}).encode())
            add(tar, f"{name}.wav", data)
    refused = adopt(run, plain, tars)
    assert refused.returncode == 78
    assert "1 of 2 clips cannot be used (first: a_0" in refused.stderr
    assert not (tars / "index.json").exists()
    accepted = adopt(run, plain, tars, "--max-rejected", "0.5")
    assert accepted.returncode == 0, accepted.stderr
    assert list(samples_of(tars)) == ["b_0"]
    assert run("shards.verify", str(tars)).returncode == 0


def test_adopting_again_says_so_and_other_settings_are_refused(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else a second index silently replaces the one that labels were made for."""
    tars = write_tars(plain, tmp_path / "tars")
    assert adopt(run, plain, tars).returncode == 0
    assert "adopted already" in adopt(run, plain, tars).stdout
    refused = adopt(run, plain, tars, "--sample-rate", "32000")
    assert refused.returncode == 78
    assert "sample_rate = 16000, not 32000" in refused.stderr


@pytest.mark.parametrize("lost", [("clips.npz",), ("index.json", "clips.npz")])
def test_a_lost_index_is_made_again_from_the_tars(
    dataset: Path, tmp_path: Path, run: Run, lost: tuple[str, ...]
) -> None:
    """Else a deleted file of a few megabytes costs a week of packing and labelling."""
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    for name in lost:
        (copy / name).unlink()
    assert run("shards.verify", str(copy)).returncode == 78
    result = run("shards.verify", str(copy), "--rebuild")
    assert result.returncode == 0, result.stderr
    assert (copy / "clips.npz").read_bytes() == (dataset / "clips.npz").read_bytes()
    old = json.loads((dataset / "index.json").read_text())
    new = json.loads((copy / "index.json").read_text())
    assert new["fingerprint"] == old["fingerprint"]
    assert (new == old) == (lost == ("clips.npz",))


def test_a_damaged_tar_is_named_when_an_index_is_made_again(
    dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else the new index vouches for broken clips."""
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    before = (copy / "index.json").read_bytes()
    path = copy / "000001.tar"
    with tarfile.open(path) as tar:
        info = tar.getmembers()[2]
    data = bytearray(path.read_bytes())
    data[info.offset_data : info.offset_data + 4] = b"XXXX"
    path.write_bytes(data)
    result = run("shards.verify", str(copy), "--rebuild")
    assert result.returncode == 78
    assert info.name in result.stderr and "000001.tar" in result.stderr
    assert (copy / "index.json").read_bytes() == before


def test_other_tars_are_not_taken_for_those_adopted(
    plain: Source, tmp_path: Path, run: Run
) -> None:
    """Else tars that were downloaded later never appear."""
    tars = write_tars(plain, tmp_path / "tars")
    late = (tars / "part-2.tar").rename(tmp_path / "late.tar")
    assert adopt(run, plain, tars).returncode == 0
    late.rename(tars / "part-2.tar")
    result = adopt(run, plain, tars)
    assert result.returncode == 78 and "part-2.tar" in result.stderr


def test_what_is_not_whole_is_not_made_an_index_of(
    dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Else half a dataset is trained on as the whole."""
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    (copy / "clips.npz").unlink()
    (copy / "000002.tar").unlink()
    result = run("shards.verify", str(copy), "--rebuild")
    assert result.returncode == 78 and "000002.tar" in result.stderr
    (copy / "index.json").unlink()
    (copy / ".parts").mkdir()
    result = run("shards.verify", str(copy), "--rebuild")
    assert result.returncode == 78 and "not packed to its end" in result.stderr
