"""shards.open_dataset and psl.read_labels: what is stored, as NumPy."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

import psl
import shards
from shards.dataset.cache import ShardCache
from shards.dataset.clips import split_key
from shards.errors import ShardError
from shards.format.index import open_index
from shards.format.label_codec import LabelForm
from shards.format.schema import make_key
from tests.api.conftest import probs_of, write_labels
from tests.conftest import MIDS, RATE, Run, Source


def test_clips_are_there_by_row_and_by_key(dataset: Path) -> None:
    """Else a notebook reads tars and npz files by itself."""
    clips = shards.open_dataset(dataset)
    assert len(clips) == 24 and clips.sample_rate == RATE
    assert clips.classes.mids == MIDS
    assert sorted(clips.keys) == sorted(f"clip{number}_0" for number in range(24))
    clip = clips["clip5_0"]
    assert clips[clip.row] == clip and clips.keys[clip.row] == "clip5_0"
    assert (clip.id, clip.start_seconds) == ("clip5", 0.0)
    assert (clip.num_samples, clip.seconds) == (2 * RATE, 2.0)
    assert clip.labels == (1, 2)  # conftest.write_source: 5 % 2 and 5 % 3
    assert clip.label_names == ("Tone mid", "Tone high")
    assert [c.row for c in clips] == list(range(24))
    assert clips[-1] == clips[23] == clips[np.int64(23)]
    assert "clip5_0" in clips and "clip24_0" not in clips and 5 not in clips
    np.testing.assert_array_equal(clips.seconds, np.full(24, 2.0))
    assert "24 clips" in repr(clips)


def test_waveforms_are_the_samples_of_the_files(
    tmp_path: Path, source: Source, run: Run
) -> None:
    """Else what a notebook shows is not what was packed."""
    result = run("shards.pack", *source.pack_arguments(tmp_path / "packed"))
    assert result.returncode == 0, result.stderr
    clips = shards.open_dataset(tmp_path / "packed")
    for key in ("clip0_0", "clip23_0"):
        path = source.audio / f"{key.removesuffix('_0')}.wav"
        stored, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(clips.pcm(key), stored)
        floats, _ = soundfile.read(path, dtype="float32")
        found = clips.waveform(key)
        assert found.dtype == np.float32 and found.flags.writeable
        np.testing.assert_array_equal(found, floats)
        np.testing.assert_array_equal(clips.waveform(key, 100, 300), floats[100:300])


def test_weak_labels_are_a_matrix(dataset: Path) -> None:
    """Else everybody writes the loop from class numbers to zeros and ones."""
    clips = shards.open_dataset(dataset)
    rows = [clips["clip0_0"].row, clips["clip5_0"].row]
    np.testing.assert_array_equal(clips.weak_labels(rows), [[1, 0, 0], [0, 1, 1]])
    assert clips.weak_labels().shape == (24, 3)
    with pytest.raises(IndexError):
        clips.weak_labels([24])


def test_what_is_not_there_is_named(dataset: Path, labels: Path) -> None:
    """Else a mistyped key or row gives another clip."""
    clips = shards.open_dataset(dataset)
    for row in (24, -25):
        with pytest.raises(IndexError, match=f"no row {row} in 24 clips"):
            clips[row]
    for key in ("", "clip", "clip5_0\0", "clip5_00", "x" * 200, "Hütte", "\ud800"):
        assert key not in clips
        with pytest.raises(KeyError, match="no clip with the key"):
            clips.waveform(key)
    with pytest.raises(TypeError):
        clips[1.0]  # type: ignore[index]
    for start, stop in ((-1, 5), (5, 4), (0, 2 * RATE + 1)):
        with pytest.raises(ValueError, match=f"samples {start} to {stop} of 32000"):
            clips.waveform(0, start, stop)
    with pytest.raises(ShardError, match="holds labels, expected audio"):
        shards.open_dataset(labels)
    with pytest.raises(ShardError, match="not found; expected a finished audio"):
        shards.open_dataset(dataset / "nothing")


def test_a_dataset_at_a_url_reads_the_same(dataset: Path, tmp_path: Path) -> None:
    """Else a notebook has to copy a dataset before it can look at one clip."""
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset), "/api/packed", recursive=True)
    cache = ShardCache(tmp_path / "cache")
    clips = shards.open_dataset("memory://api/packed", cache=cache)
    local = shards.open_dataset(dataset)
    np.testing.assert_array_equal(clips.pcm("clip7_0"), local.pcm("clip7_0"))
    again = pickle.loads(pickle.dumps(clips))
    np.testing.assert_array_equal(again.pcm("clip7_0"), local.pcm("clip7_0"))
    assert len(list((tmp_path / "cache").glob("[0-9a-f]*"))) >= 1


@pytest.mark.parametrize(
    "clip_id, start",
    [("Yabc-_x", 30.0), ("a b/c.d", 0.0), ("Grüße", 1.5), ("=41", 0.0), ("a_1", 2.0)],
)
def test_ids_come_back_from_keys(clip_id: str, start: float) -> None:
    """Else clips cannot be matched with the list that they were packed from."""
    assert split_key(make_key(clip_id, start)) == (clip_id, start)


def test_other_keys_are_ids() -> None:
    """Else a key that was not made here raises, or loses a part."""
    for key in ("plain", "_5", "a_b", "a_", "=FF_x"):
        assert split_key(key) == (key, 0.0)
    assert split_key("=FF=GG_5") == ("=FF=GG", 0.005)  # not UTF-8, not hexadecimal


def test_datasets_open_without_torch(dataset: Path, labels: Path) -> None:
    """Else a look at a dataset costs seconds, and needs a GPU library."""
    code = (
        "import sys, psl, shards\n"
        f"clips = shards.open_dataset({str(dataset)!r})\n"
        f"found = psl.read_labels({str(labels)!r}, audio={str(dataset)!r})\n"
        "print(clips.waveform(0).shape, found[0].shape)\n"
        "print([name for name in ('torch', 'accelerate', 'webdataset') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(32000,) (2, 3)\n[]\n", done.stderr


def test_labels_are_the_probabilities_that_were_stored(
    dataset: Path, labels: Path
) -> None:
    """Else what a notebook plots is not what a student learns."""
    found = psl.read_labels(labels, audio=dataset)
    assert len(found) == 24 and found.views == 1 and found.classes.mids == MIDS
    for row, probs in enumerate(found):
        assert probs.dtype == np.float32 and probs.flags.writeable
        np.testing.assert_array_equal(probs, probs_of(row))
    key = found.keys[7]
    assert key in found and "nobody_0" not in found
    np.testing.assert_array_equal(found[key], found[7])
    np.testing.assert_array_equal(found.num_chunks, np.full(24, 2))
    starts, ends = found.times(key)
    assert (starts.tolist(), ends.tolist()) == ([0.0, 1.0], [1.0, 2.0])
    with pytest.raises(IndexError, match="no view 1 of 1"):
        found.of_view(0, 1)
    with pytest.raises(KeyError, match="nobody"):
        found["nobody_0"]


def test_top_k_labels_are_dense_and_views_are_apart(
    dataset: Path, tmp_path: Path
) -> None:
    """Else top-k labels look like something else than in training."""
    index = open_index(dataset, kind="audio")
    top = write_labels(tmp_path / "top", index, LabelForm(top_k=1, tail="mean"))
    found, probs = psl.read_labels(top)[3], probs_of(3)
    for chunk in range(2):
        best = probs[chunk].argmax()
        others = np.delete(probs[chunk], best).sum() / 2
        expected = np.full(3, np.float16(others), np.float32)
        expected[best] = probs[chunk, best]
        np.testing.assert_array_equal(found[chunk], expected)
    views = psl.read_labels(write_labels(tmp_path / "v", index, LabelForm(views=3)))
    assert views.views == 3
    every = probs_of(3, views=3).reshape(3, 2, 3)
    for view in range(3):
        np.testing.assert_array_equal(views.of_view(3, view), every[view])
    np.testing.assert_array_equal(views[3], every[0])


def test_a_clip_without_labels_has_none_and_other_audio_is_refused(
    dataset: Path, tmp_path: Path, labels: Path
) -> None:
    """Else a clip that could not be labelled shows another clip's labels."""
    index = open_index(dataset, kind="audio")
    some = psl.read_labels(write_labels(tmp_path / "some", index, unlabelled=4))
    assert some[4].shape == (0, 3) and some.times(4)[0].shape == (0,)
    np.testing.assert_array_equal(some[5], probs_of(5))
    with pytest.raises(ShardError, match="holds audio, expected labels"):
        psl.read_labels(dataset)
    with pytest.raises(ShardError, match="holds labels, expected audio"):
        psl.read_labels(labels, audio=labels)
