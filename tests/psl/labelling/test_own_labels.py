"""Labels of one's own, of others, and for another packing: checked like ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import psl
from psl import import_labels, label, reorder_labels, train
from psl.labelling.store import write_labels
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from shards.verify import verify
from tests.conftest import Run, Source, write_source
from tests.learning import folder_bytes, tiny_config

NUM_CLIPS, CHUNKS = 6, 3
"""Of 1.3 s: chunks of 0.5 s, the last one padded."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_source(
        tmp_path_factory.mktemp("source") / "s", num_clips=NUM_CLIPS, seconds=1.3
    )


def pack(run: Run, source: Source, out: Path, *words: str) -> Path:
    result = run("shards.pack", *source.pack_arguments(out), *words)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory, run: Run, source: Source) -> Path:
    """In two shards; not to be changed."""
    out = tmp_path_factory.mktemp("audio") / "packed"
    return pack(run, source, out, "--clips-per-shard", "3")


@pytest.fixture(scope="module")
def probs() -> dict[str, np.ndarray]:
    """By key [3, 3], exact in float16; every value tells clip, chunk and class."""
    return {
        f"clip{n}_0": (n * 9 + np.arange(9.0).reshape(3, 3) + 1) / 64
        for n in range(NUM_CLIPS)
    }


def stored(folder: Path) -> dict[str, np.ndarray]:
    """What a label dataset holds, by key."""
    reader = MemberReader(open_index(folder, kind="labels"))
    return {reader.index.key(r): reader.labels(r) for r in range(len(reader.index))}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values)


# NumPy


def test_arrays_become_a_label_dataset_that_trains(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """Labels that somebody has could not be used without copying our format by hand."""
    index = psl.write_labels(
        tmp_path / "own", audio, probs, chunk_seconds=0.5, made_by={"model": "mine"}
    )
    assert_same(stored(tmp_path / "own"), probs)
    verify(tmp_path / "own", audio=audio)
    assert index.provenances[0]["model"] == "mine"
    words = ["epochs=1", "data.chunk_seconds=0.5", f"data.labels=[{tmp_path}/own]"]
    train.main(tiny_config(tmp_path / "run", audio, *words))


def change(
    probs: dict[str, np.ndarray], key: str, values: object
) -> dict[str, np.ndarray]:
    return {**probs, key: np.asarray(values)}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing": (
        lambda p: {k: p[k] for k in p if k != "clip3_0"},
        "no labels for 1 of 6 clips of .*: 'clip3_0'; add them",
    ),
    "extra": (lambda p: {**p, "dog_0": p["clip1_0"]}, "1 keys are not in .*: 'dog_0'"),
    "logits": (
        lambda p: change(p, "clip2_0", p["clip2_0"] * 9),
        r"tar: key 'clip2_0' at row \d: .*in \[0, 1\]; apply the sigmoid first",
    ),
    "NaN": (
        lambda p: change(p, "clip2_0", p["clip2_0"] * np.nan),
        "key 'clip2_0' at row .: .*finite",
    ),
    "a chunk too many": (
        lambda p: change(p, "clip2_0", np.zeros((4, 3))),
        r"key 'clip2_0' at row .: labels of shape \[4, 3\] .*, expected \[3, 3\]",
    ),
    "a class too few": (
        lambda p: change(p, "clip2_0", np.zeros((3, 2))),
        r"of shape \[3, 2\] .*, expected \[3, 3\]",
    ),
    "text": (lambda p: change(p, "clip2_0", [["a"] * 3] * 3), "of shape .* type <U1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arrays_that_do_not_fit_are_named(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray], wrong: str
) -> None:
    """Labels of other clips, chunks or classes would teach nonsense."""
    change_them, message = WRONG[wrong]
    with pytest.raises(ShardError, match=message):
        write_labels(tmp_path / "own", audio, change_them(probs), chunk_seconds=0.5)
    assert not (tmp_path / "own" / "index.json").exists()


def test_arrays_do_not_go_into_a_folder_that_holds_others(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """New labels would be taken to be there already, and the old ones be used."""
    write_labels(tmp_path / "own", audio, probs, chunk_seconds=0.5)
    with pytest.raises(ShardError, match="own: not empty; choose another folder"):
        write_labels(tmp_path / "own", audio, probs, chunk_seconds=0.5)
    with pytest.raises(ValueError, match="provenance is not plain JSON"):
        bad = {"score": float("nan")}
        write_labels(tmp_path / "x", audio, probs, chunk_seconds=0.5, made_by=bad)


def test_clips_without_labels_are_allowed_up_to_a_limit_and_listed(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """One clip that the other program could not read would spoil a million."""
    some = {key: values for key, values in probs.items() if key != "clip3_0"}
    out = tmp_path / "own"
    write_labels(out, audio, some, chunk_seconds=0.5, max_unlabelled=0.2)
    assert stored(out)["clip3_0"].shape == (0, 3)
    report = (out / "unlabelled.csv").read_text()
    assert report == (
        "key,status,reason\nclip3_0,unlabelled,not in the source of the labels\n"
    )


# Parquet and HDF5


def table(probs: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """A row for each chunk, in a random order."""
    rows = [(key, k, row) for key, v in probs.items() for k, row in enumerate(v)]
    order = np.random.default_rng(0).permutation(len(rows))
    keys, chunks, values = zip(*(rows[n] for n in order), strict=True)
    return {"key": list(keys), "chunk": list(chunks), "probabilities": list(values)}


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    if path.suffix == ".parquet":
        # row groups of 5, so that a clip is in several
        pq.write_table(pa.table(columns), path, row_group_size=5)
        return path
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            is_text = isinstance(values[0], str)
            file[name] = values if is_text else np.asarray(values)
    return path


def import_words(source: Path, audio: Path, out: Path, *more: str) -> list[str]:
    words = [f"source={source}", f"audio={audio}", f"out={out}", "chunk_seconds=0.5"]
    return [*words, *more]


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_a_table_of_chunks_in_any_order_becomes_a_label_dataset(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray], suffix: str
) -> None:
    """Published soft labels could not be used, or would go to other chunks."""
    source = write_table(tmp_path / f"soft{suffix}", table(probs))
    import_labels.main(import_words(source, audio, tmp_path / "out"))
    assert_same(stored(tmp_path / "out"), probs)
    verify(tmp_path / "out", audio=audio)
    assert not (tmp_path / "out" / ".parts").exists()


def test_an_import_that_was_killed_continues_and_one_that_is_done_stays(
    audio: Path,
    tmp_path: Path,
    probs: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A long import would begin again, or leave half a set that looks whole."""
    source = write_table(tmp_path / "soft.parquet", table(probs))
    words = import_words(source, audio, tmp_path / "out")
    import_labels.main(words)
    whole = folder_bytes(tmp_path / "out")
    import_labels.main(words)
    assert "already there" in capsys.readouterr().out
    (tmp_path / "out" / "index.json").unlink()
    (tmp_path / "out" / "000001.tar").unlink()
    import_labels.main(words)
    assert folder_bytes(tmp_path / "out") == whole
    other = write_table(tmp_path / "other.parquet", table({**probs}) | {"x": [0] * 18})
    with pytest.raises(ShardError, match="already holds labels made with source"):
        import_labels.main(import_words(other, audio, tmp_path / "out"))


def test_columns_of_another_order_are_put_right_by_their_class_list(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """Every column would mean another class."""
    more = {k: np.column_stack([v[:, [2, 0, 1]], v[:, 0]]) for k, v in probs.items()}
    source = write_table(tmp_path / "soft.parquet", table(more))
    words = import_words(source, audio, tmp_path / "out")
    with pytest.raises(ShardError, match="4 probabilities in a row, expected 3, one"):
        import_labels.main(words)
    classes = tmp_path / "classes.csv"
    lines = [f"{n},/m/{m},{m}" for n, m in enumerate(["high", "low", "mid", "more"])]
    classes.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    import_labels.main([*words, f"classes={classes}"])
    assert_same(stored(tmp_path / "out"), probs)


def edit(columns: dict[str, list[Any]], name: str, at: int, value: Any) -> None:
    columns[name][at] = value


def halve(columns: dict[str, list[Any]]) -> None:
    columns["chunk"] = [n / 2 for n in columns["chunk"]]


def drop(columns: dict[str, list[Any]], key: str, chunk: int | None = None) -> None:
    rows = zip(columns["key"], columns["chunk"], strict=True)
    kept = [n for n, (k, c) in enumerate(rows) if (k, chunk or c) != (key, c)]
    for name in columns:
        columns[name] = [columns[name][n] for n in kept]


def rename(columns: dict[str, list[Any]]) -> None:
    columns["number"] = columns.pop("chunk")


def repeat(columns: dict[str, list[Any]]) -> None:
    for column in columns.values():
        column[1] = column[0]


FAULTS: dict[str, tuple[Callable[[dict[str, list[Any]]], None], str]] = {
    "unknown key": (lambda c: edit(c, "key", 4, "dog_0"), "key 'dog_0' is not in"),
    "past the end": (lambda c: edit(c, "chunk", 4, 3), "which has chunks 0 to 2 of"),
    "negative": (lambda c: edit(c, "chunk", 4, -1), "chunk -1 of key 'clip"),
    "twice": (repeat, "duplicate chunk . of key 'clip"),
    "logit": (
        lambda c: edit(c, "probabilities", 4, np.array([0.5, 3.5, 0.5])),
        r"3.5 for output 1 of chunk . of key 'clip._0', expected a probability",
    ),
    "NaN": (
        lambda c: edit(c, "probabilities", 4, np.array([0.5, np.nan, 0.5])),
        "nan for output 1 of chunk",
    ),
    "half a clip": (
        lambda c: drop(c, "clip2_0", 1),
        "no row for chunk 1 of key 'clip2_0', which has 3 chunks",
    ),
    "no clip": (
        lambda c: drop(c, "clip2_0"),
        "no rows for 1 of 6 clips of .*: 'clip2_0'; add",
    ),
    "no column": (rename, "no 'chunk' among .*; name the right one with chunk="),
    "halves": (halve, "values of type float64, expected whole numbers"),
}


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_that_does_not_fit_is_named_with_key_and_chunk(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray], fault: str, suffix: str
) -> None:
    """Labels of other chunks would teach nonsense; joins must be as strict as ours."""
    columns = table(probs)
    spoil, message = FAULTS[fault]
    spoil(columns)
    source = write_table(tmp_path / f"soft{suffix}", columns)
    with pytest.raises(ShardError, match=f"soft{suffix}: .*{message}"):
        import_labels.main(import_words(source, audio, tmp_path / "out"))
    assert not (tmp_path / "out" / "index.json").exists()


def test_a_clip_without_rows_may_be_allowed(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """One clip that the other program could not read would spoil a million."""
    columns = table(probs)
    drop(columns, "clip2_0")
    source = write_table(tmp_path / "soft.h5", columns)
    words = import_words(source, audio, tmp_path / "out", "max_unlabelled=0.2")
    import_labels.main(words)
    found = stored(tmp_path / "out")
    assert found.pop("clip2_0").shape == (0, 3)
    assert_same(found, {k: v for k, v in probs.items() if k != "clip2_0"})


def test_hdf5_that_points_elsewhere_or_claims_terabytes_is_refused(
    audio: Path, tmp_path: Path, probs: dict[str, np.ndarray]
) -> None:
    """A stranger's file would read others of the user's, or fill the memory."""
    inner = write_table(tmp_path / "inner.h5", table(probs))
    linked, out = tmp_path / "linked.h5", tmp_path / "out"
    shutil.copy(inner, linked)
    with h5py.File(linked, "a") as file:
        del file["probabilities"]
        file["probabilities"] = h5py.ExternalLink(str(inner), "probabilities")
    with pytest.raises(ShardError, match="'probabilities' is not a dataset with val"):
        import_labels.main(import_words(linked, audio, out))
    with h5py.File(linked, "a") as file:
        del file["probabilities"]
        file.create_dataset("probabilities", (1 << 40, 3), "f8", chunks=(1 << 10, 3))
    with pytest.raises(ShardError, match="1099511627776 rows, but the audio has 18 ch"):
        import_labels.main(import_words(linked, audio, out))
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ShardError, match="bad.parquet: not readable as Parquet"):
        import_labels.main(import_words(bad, audio, out))
    (tmp_path / "soft.csv").touch()
    with pytest.raises(ValueError, match=r"soft.csv: expected a file named \*.parq"):
        import_labels.main(import_words(tmp_path / "soft.csv", audio, out))


# Another packing


def reorder(labels: Sequence[Path], audio: Path, out: Path, *more: str) -> None:
    named = ",".join(map(str, labels))
    reorder_labels.main([f"labels=[{named}]", f"audio={audio}", f"out={out}", *more])


@pytest.fixture(scope="module")
def labels(
    tmp_path_factory: pytest.TempPathFactory, audio: Path, probs: dict[str, np.ndarray]
) -> Path:
    """For ``audio``; not to be changed."""
    out = tmp_path_factory.mktemp("labels") / "own"
    write_labels(out, audio, probs, chunk_seconds=0.5)
    return out


@pytest.mark.parametrize("rate", ["16000", "32000", "8000"])
def test_labels_follow_their_clips_into_another_packing(
    tmp_path: Path,
    run: Run,
    source: Source,
    labels: Path,
    probs: dict[str, np.ndarray],
    rate: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Repacking at another rate or seed would cost a month of labelling again."""
    words = ["--clips-per-shard", "2", "--seed", "7", "--sample-rate", rate]
    other = pack(run, source, tmp_path / "other", *words)
    index = open_index(other, kind="audio")
    reorder([labels], other, tmp_path / "out")
    assert_same(stored(tmp_path / "out"), probs)
    made = open_index(tmp_path / "out", kind="labels")
    assert (made.table.key == index.table.key).all()
    assert made.properties["chunk_samples"] == int(rate) // 2
    verify(tmp_path / "out", audio=other)
    assert "number of chunks only" not in capsys.readouterr().out
    reorder([labels], other, tmp_path / "out")
    assert "already there" in capsys.readouterr().out


def test_reordered_labels_are_those_that_the_teacher_would_give(
    tmp_path: Path, run: Run, source: Source, audio: Path
) -> None:
    """They would be refused, or be taken as labels of another teacher.

    psl.label on the new packing is the referee; top-k labels come as they are.
    """
    train.main(tiny_config(tmp_path, audio, "epochs=1", "global_batch_size=2"))
    words = [f"teacher={tmp_path}/run", "chunk_seconds=0.5", "batch_size=1", "top_k=2"]
    other = pack(run, source, tmp_path / "other", "--clips-per-shard", "4")
    label.main([*words, f"audio={audio}", f"out={tmp_path}/old"])
    label.main([*words, f"audio={other}", f"out={tmp_path}/label"])
    reorder([tmp_path / "old"], other, tmp_path / "out")
    found, expected = folder_bytes(tmp_path / "out"), folder_bytes(tmp_path / "label")
    for name in ("000000.tar", "000001.tar", "clips.npz"):
        assert found[name] == expected[name]
    provenances = [
        json.loads((tmp_path / name / "index.json").read_text())["provenance"]
        for name in ("out", "label")
    ]
    assert provenances[0].pop("reordered_from")
    assert provenances[0] == provenances[1]


def subset(source: Source, folder: Path, keep: Callable[[int], bool]) -> Source:
    """The same clips, some of them only."""
    lines = source.segments.read_text().splitlines(keepends=True)
    path = folder / "segments.csv"
    path.write_text("".join(t for n, t in enumerate(lines) if n == 0 or keep(n - 1)))
    return Source(source.audio, path, source.class_labels)


def test_a_key_that_is_missing_or_extra_is_named(
    tmp_path: Path, run: Run, source: Source, labels: Path, audio: Path
) -> None:
    """Clips would silently be without labels, or have those of others."""
    fewer = pack(run, subset(source, tmp_path, lambda n: n != 2), tmp_path / "fewer")
    with pytest.raises(ShardError, match="1 keys are not in .*fewer: 'clip2_0'"):
        reorder([labels], fewer, tmp_path / "out")
    some = {k: v for k, v in stored(labels).items() if k != "clip2_0"}
    write_labels(tmp_path / "some", fewer, some, chunk_seconds=0.5)
    with pytest.raises(ShardError, match="no labels for 1 of 6 clips .*: 'clip2_0'"):
        reorder([tmp_path / "some"], audio, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_label_sets_become_one(
    tmp_path: Path,
    run: Run,
    source: Source,
    audio: Path,
    probs: dict[str, np.ndarray],
) -> None:
    """Audio packed in parts, and later as a whole, could not keep its labels."""
    folders = []
    for part in (0, 1):
        (tmp_path / f"{part}").mkdir()
        mine = range(part, NUM_CLIPS, 2)
        half = subset(source, tmp_path / f"{part}", mine.__contains__)
        packed = pack(run, half, tmp_path / f"audio{part}")
        own = {f"clip{n}_0": probs[f"clip{n}_0"] for n in mine}
        folders.append(tmp_path / f"labels{part}")
        write_labels(folders[-1], packed, own, chunk_seconds=0.5)
    reorder(folders[::-1], audio, tmp_path / "out")
    assert_same(stored(tmp_path / "out"), probs)
    write_labels(
        tmp_path / "x", packed, own, chunk_seconds=0.5, made_by={"model": "other"}
    )
    with pytest.raises(ValueError, match="made with model = None and 'other'; reorder"):
        reorder([folders[0], tmp_path / "x"], audio, tmp_path / "y")


def test_clips_of_another_length_are_refused(
    tmp_path: Path,
    run: Run,
    labels: Path,
    audio: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Chunks of another recording of the same name would get these labels.

    1.27 s have as many chunks as 1.3 s, so only the old audio tells; 1.8 s have more.
    """
    for seconds, message in (
        (1.27, "1.27 s, but 1.3 s in .*; so with 6 of 6 clips; pack the same audio"),
        (1.8, "has 4 chunks, but labels for 3 in .*; so with 6 of 6 clips"),
    ):
        folder = tmp_path / f"{seconds}"
        source = write_source(folder / "s", num_clips=NUM_CLIPS, seconds=seconds)
        other = pack(run, source, folder / "packed")
        with pytest.raises(ShardError, match=f"key 'clip._0' at row .: {message}"):
            reorder([labels], other, folder / "out")
    moved = shutil.copytree(labels, tmp_path / "moved")
    (moved / "made.json").unlink()
    other = tmp_path / "1.27" / "packed"
    with pytest.raises(ShardError, match="1.27 s, but 1.3 s in"):
        reorder([moved], other, tmp_path / "out", f"old_audio=[{audio}]")
    with pytest.raises(ShardError, match="not the audio that .* was made for"):
        reorder([moved], other, tmp_path / "out", f"old_audio=[{other}]")
    reorder([moved], other, tmp_path / "out")
    assert "lengths compared by number of chunks only" in capsys.readouterr().out


def test_chunks_that_are_no_whole_samples_at_the_new_rate_are_refused(
    tmp_path: Path, run: Run, source: Source, audio: Path, probs: dict[str, np.ndarray]
) -> None:
    """Every chunk would begin a fraction of a sample later than the one before."""
    two = {key: values[:2] for key, values in probs.items()}
    write_labels(tmp_path / "own", audio, two, chunk_seconds=10401 / 16000)
    other = pack(run, source, tmp_path / "other", "--sample-rate", "8000")
    with pytest.raises(ValueError, match="not a whole number of samples at 8000 Hz"):
        reorder([tmp_path / "own"], other, tmp_path / "out")
