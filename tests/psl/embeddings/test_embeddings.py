"""Embeddings of windows are written in bounded memory, searched and suggested from."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from sklearn.metrics.pairwise import cosine_similarity

from psl.adapting.job import adapt
from psl.embeddings.finding import nearest, suggest
from psl.embeddings.job import search, suggest_table
from psl.embeddings.making import Embedder, make
from psl.embeddings.store import (
    About,
    Embeddings,
    Part,
    open_embeddings,
    save_part,
    write_npz,
)
from psl.tagging.windows import Cut
from shards.errors import ShardError
from tests.conftest import Run
from tests.psl.adapting.sounds_made import CLASSES, RATE, write_sounds, write_tone
from tests.psl.exporting.made import make_checkpoint

CUT = Cut(1.0, 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "m", "cnn14")


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Three recordings of 3 s, each of one tone; the second half of one is silent."""
    folder = tmp_path / "recordings"
    for number, (name, hertz) in enumerate(CLASSES.items()):
        write_tone(folder / f"{name}.wav", hertz, number, seconds=3.0)
    samples, _ = soundfile.read(folder / "low.wav")
    samples[RATE:] = 0
    soundfile.write(folder / "low.wav", samples, RATE)
    return folder


def made(vectors: np.ndarray) -> Embeddings:
    """Embeddings in memory, all of one file."""
    number, size = vectors.shape
    about = About("m", "0", RATE, 1.0, 1.0, size)
    starts = np.arange(number, dtype=np.float64)
    half = vectors.astype(np.float16)
    norms = np.linalg.norm(half.astype(np.float32), axis=1)
    rows = np.zeros(number, np.int32)
    return Embeddings(about, ["a"], half, norms, rows, starts, starts + 1)


def test_the_commands_embed_and_find_a_sound(
    run: Run, model: Path, recordings: Path, tmp_path: Path
) -> None:
    """A recording that cannot be read must be counted, and the others found."""
    (recordings / "bad.wav").write_bytes(b"junk")
    out = tmp_path / "e.npz"
    words = ("--window", "1", "--hop", "0.5", "--device", "cpu")

    done = run("psl.embed", str(model), str(recordings), "--out", str(out), *words)

    assert done.returncode == 78 and "1 of 4 files could not be read" in done.stderr
    assert "12 windows of 3 files" in done.stdout  # 5 + 5 and 2 before silence
    write_tone(tmp_path / "new.wav", 900.0, seed=50)
    like = ("--like", str(tmp_path / "new.wav"), "--top", "3", "--json")
    found = run("psl.search", str(out), *like)
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert {Path(row["file"]).name for row in rows} == {"mid.wav"}
    assert rows[0]["similarity"] >= rows[1]["similarity"] >= rows[2]["similarity"]


def test_parquet_holds_the_same_and_is_plain(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    """Users of pandas or DuckDB would need our code."""
    files = [str(path) for path in sorted(recordings.iterdir())]
    embedder = Embedder(model, "cpu")
    for suffix in ("npz", "parquet"):
        make(embedder, files, tmp_path / f"e.{suffix}", CUT)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["file", "start", "end", "embedding"]
    npz, parquet = (open_embeddings(tmp_path / f"e.{s}") for s in ("npz", "parquet"))
    np.testing.assert_array_equal(npz.vectors, parquet.vectors)
    np.testing.assert_array_equal(npz.starts, table.column("start").to_numpy())
    assert npz.about == parquet.about and npz.files == parquet.files
    with np.load(tmp_path / "e.npz") as data:  # NumPy alone reads it, too
        assert data["vectors"].dtype == np.float16


def test_finished_files_are_not_embedded_again(
    model: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in the last of a thousand hours would start all over."""
    files = [str(path) for path in sorted(recordings.iterdir())]
    make(Embedder(model, "cpu"), files, tmp_path / "whole.npz", CUT)
    embedder, part, heard = Embedder(model, "cpu"), Embedder.part, []

    def stopping(self: Embedder, place: str, cut: Cut) -> Part:
        heard.append(place)
        if len(heard) == 3:
            raise KeyboardInterrupt
        return part(self, place, cut)

    monkeypatch.setattr(Embedder, "part", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(embedder, files, tmp_path / "e.npz", CUT)
    assert not (tmp_path / "e.npz").exists()
    make(embedder, files, tmp_path / "e.npz", CUT)
    assert heard == [*files, files[2]]
    whole, resumed = (
        np.load(tmp_path / name)["vectors"] for name in ("whole.npz", "e.npz")
    )
    np.testing.assert_array_equal(whole, resumed)
    assert not list(tmp_path.glob(".e.npz*"))


def test_the_nearest_are_those_of_scikit_learn(tmp_path: Path) -> None:
    """Blocks, norms and ties: a neighbour lost at a seam goes unseen."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 700)).astype(np.float16).astype(np.float32)
    query = rng.normal(size=(2, 700)).astype(np.float32)
    rows, cosines = nearest(made(vectors), query, 50)
    expected = cosine_similarity(vectors, query).max(axis=1)
    assert rows.tolist() == np.argsort(-expected, kind="stable")[:50].tolist()
    np.testing.assert_allclose(cosines, expected[rows], atol=1e-4)
    assert len(nearest(made(vectors[:3]), query, 50)[0]) == 3


def test_suggestions_are_uncertain_and_unlike_each_other() -> None:
    """A hundred windows of the same rain teach what one does."""
    weight, bias = np.array([[1.0, 0.0, 0.0]], np.float32), np.zeros(1, np.float32)
    sure, unsure_a, unsure_b = [6.0, 0, 1], [0.1, 5.0, 0], [0.1, 0, 5.0]
    vectors = np.array([sure] * 20 + [unsure_a] * 20 + [unsure_b] * 20, np.float32)
    found = suggest(made(vectors), weight, bias, 2)
    assert sorted(row // 20 for row in found.rows.tolist()) == [1, 2]
    # 1 / (1 + exp(-0.1)) = 0.525, of which the entropy is 0.998 bits
    np.testing.assert_allclose(found.probability, 0.525, atol=1e-3)
    np.testing.assert_allclose(found.uncertainty, 0.998, atol=1e-3)
    known = np.arange(20, 40)
    again = suggest(made(vectors), weight, bias, 1, known=known)
    assert again.rows[0] >= 40


def test_a_table_of_suggestions_is_read_back_by_adapt(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    """The loop of labelling: embed, adapt, suggest, label, adapt."""
    files = [str(path) for path in sorted(recordings.iterdir())]
    make(Embedder(model, "cpu"), files, tmp_path / "e.npz", CUT)
    own = adapt(
        model, write_sounds(tmp_path / "sounds", 3), out=tmp_path / "own", device="cpu"
    )
    table = tmp_path / "todo.csv"
    assert suggest_table(tmp_path / "e.npz", own.folder, out=table, number=4) == 4
    with open(table, newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, label in zip(rows, ("beep", "beep", "-", ""), strict=True):
        row["label"] = label
    with open(table, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    again = adapt(own.folder, labelled=table, out=tmp_path / "again", device="cpu")
    facts = json.loads((again.folder / "adapt.json").read_text())
    assert facts["num_background"] == 1
    assert [(c["name"], c["num_examples"]) for c in facts["classes"]] == [("beep", 2)]
    more = tmp_path / "more.csv"
    suggest_table(tmp_path / "e.npz", own.folder, out=more, number=90, labelled=[table])
    given = {(row["file"], row["start"]) for row in rows}
    with open(more, newline="") as stream:
        left = {(row["file"], row["start"]) for row in csv.DictReader(stream)}
    assert len(left) == 12 - 4 and not left & given


def test_what_does_not_fit_is_told(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    """Cosines between embeddings of two models are noise that looks like a result."""
    files = [str(recordings / "mid.wav")]
    out = tmp_path / "e.npz"
    make(Embedder(model, "cpu"), files, out, CUT)
    other = make_checkpoint(tmp_path / "other", "mn")
    with pytest.raises(ValueError, match="is not the model that made"):
        list(search(out, files[0], model=str(other)))
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(ShardError, match="silence"):
        list(search(out, str(tmp_path / "silent.wav")))
    with pytest.raises(ShardError, match="none of 1 files could be read"):
        make(Embedder(model, "cpu"), ["nowhere.wav"], tmp_path / "x.npz", CUT)
    make(Embedder(model, "cpu"), [str(tmp_path / "silent.wav")], out, CUT)
    with pytest.raises(ShardError, match="all its audio was silent"):
        list(search(out, files[0]))


def test_damaged_files_of_embeddings_are_refused(tmp_path: Path) -> None:
    """Files come from anyone; a pickle or a wrong size must not get through."""
    part = Part("a", np.zeros(2), np.ones(2), np.ones((2, 4), np.float16))
    save_part(tmp_path / "part.npz", part)
    good = tmp_path / "good.npz"
    write_npz(good, About("m", "0", RATE, 1.0, 1.0, 4), [tmp_path / "part.npz"])
    assert len(open_embeddings(good)) == 2
    whole = good.read_bytes()
    bad = tmp_path / "bad.npz"
    np.savez(tmp_path / "others.npz", vectors=np.ones(3))
    np.savez(tmp_path / "pickle.npz", vectors=np.array([object()]))
    contents = [
        b"",
        b"junk",
        whole[: len(whole) // 2],
        whole.replace(b"'<f2'", b"'<f4'"),
    ]
    contents += [(tmp_path / n).read_bytes() for n in ("others.npz", "pickle.npz")]
    for content in contents:
        bad.write_bytes(content)
        with pytest.raises(ShardError, match="no embeddings of psl embed, or damaged"):
            open_embeddings(bad)
