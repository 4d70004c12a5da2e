"""Scores on disk: the same numbers, little memory, and nothing left behind."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    recall_score,
    roc_auc_score,
)

from psl import evaluate
from psl.evaluation.bootstrap import resample
from psl.evaluation.labels import Labels
from psl.evaluation.metrics import evaluate_scores
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.score_tables import ScoreTable, SomeClips
from psl.evaluation.stored import open_scores, read_scores, write_table
from shards.errors import ShardError
from shards.system.exits import JobError
from tests.jobs import SERVER, free_port

NUM_CLIPS, NUM_CLASSES = 101, 7


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 9 clips, one class at a time, two classes ranked together."""
    monkeypatch.setattr("psl.evaluation.score_tables.BLOCK_SCORES", 9 * NUM_CLASSES)
    monkeypatch.setattr("psl.evaluation.bootstrap._RANKED_CLIPS", 2 * NUM_CLIPS)
    monkeypatch.setattr("psl.evaluation.metrics._PAIR_VALUES", 5 * NUM_CLASSES)


def made(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with ties; one class has no clip."""
    rng = np.random.default_rng(levels)
    targets = rng.random((NUM_CLIPS, NUM_CLASSES)) < 0.2
    targets[:, 3] = False
    scores = np.clip(rng.normal(0.3 + 0.2 * targets, 0.2), 0, 1)
    return targets, (np.round(scores * levels) / levels).astype(np.float32)


def on_disk(folder: Path, scores: np.ndarray) -> ScoreFile:
    """The scores, written a few at a time in another order."""
    num_clips, num_classes = scores.shape
    file = ScoreFile(folder, num_clips=num_clips, num_classes=num_classes)
    order = np.random.default_rng(0).permutation(num_clips)
    for places in (order[:30], np.sort(order[30:60]), order[60:]):
        file.write(places, scores[places])
    file.seal()
    return file


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("levels", [3, 1000])
def test_metrics_of_scores_on_disk_are_scikit_learn_s(
    tmp_path: Path, levels: int
) -> None:
    """Clips or classes at the edge of a block would be lost or counted twice."""
    targets, scores = made(levels)
    found = evaluate_scores(targets, on_disk(tmp_path, scores))
    has = targets.any(axis=0)
    true, given = targets[:, has], scores[:, has]
    ap = average_precision_score(true, given, average=None)
    np.testing.assert_allclose(found.ap[has], ap, atol=1e-12)
    assert np.isnan(found.ap[3]) and found.num_positives[3] == 0
    assert found.mean_auc == pytest.approx(roc_auc_score(true, given), abs=1e-12)
    assert found.recall == pytest.approx(
        recall_score(true, given >= 0.2, average="macro"), abs=1e-12
    )
    assert found.lwlrap == pytest.approx(
        label_ranking_average_precision_score(
            targets, scores, sample_weight=targets.sum(axis=1)
        ),
        abs=1e-12,
    )


@pytest.mark.parametrize("rows", [None, [0, 8, 9, 10, 55, 100]])
def test_where_scores_are_does_not_change_a_bit(
    tmp_path: Path, rows: list[int] | None, request: pytest.FixtureRequest
) -> None:
    """An evaluation of more clips than fit would have other numbers and intervals."""
    targets, scores = made(1000)
    targets[0, 0] = True
    chosen = np.arange(NUM_CLIPS) if rows is None else np.array(rows)
    metrics = evaluate_scores(targets[chosen], scores[chosen])
    drawn = resample(targets[chosen], scores[chosen], num_resamples=20, seed=3)
    request.getfixturevalue("small_blocks")
    table: ScoreTable = on_disk(tmp_path, scores)
    labels = Labels.of(targets)
    if rows is not None:
        table, labels = SomeClips(table, chosen), labels.of_clips(chosen)
    again = evaluate_scores(labels, table)
    np.testing.assert_array_equal(metrics.ap, again.ap)
    assert metrics.summary() == again.summary()
    redrawn = resample(labels, table, num_resamples=20, seed=3)
    for name in ("ap", "auc", "recall", "lwlrap"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(redrawn, name))


def test_labels_are_those_of_the_targets_however_they_are_asked_for() -> None:
    """A class would be measured against another class' clips."""
    targets, _ = made(3)
    labels = Labels.of(targets)
    for c in range(NUM_CLASSES):
        assert labels.clips_with(c).tolist() == np.flatnonzero(targets[:, c]).tolist()
        np.testing.assert_array_equal(labels.has(c), targets[:, c])
    np.testing.assert_array_equal(labels.targets(9, 40), targets[9:40])
    np.testing.assert_array_equal(
        labels.of_classes([5, 0, 3]).targets(0, NUM_CLIPS), targets[:, [5, 0, 3]]
    )
    rows = np.array([40, 2, 77])
    np.testing.assert_array_equal(labels.of_clips(rows).targets(0, 3), targets[rows])
    other = targets.copy()
    other[[4, 90], [1, 6]] ^= True
    assert labels.clips_that_differ(Labels.of(other)).tolist() == [4, 90]
    pairs = np.array([[3, 1], [0, 2], [3, 1], [3, 0]]).T
    twice = Labels.of_pairs(*pairs, num_clips=4, num_classes=3)
    assert (twice.clip.tolist(), twice.label.tolist()) == ([0, 3, 3], [2, 0, 1])


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that ``work`` held at once."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def measure_on_disk(folder: Path, num_clips: int, num_classes: int) -> None:
    """Score made-up clips, measure, resample, store, and read again."""
    rng = np.random.default_rng(0)
    clip = np.arange(num_clips)
    labels = Labels.of_pairs(
        clip, clip % num_classes, num_clips=num_clips, num_classes=num_classes
    )
    with ScoreFile(folder, num_clips=num_clips, num_classes=num_classes) as file:
        for places in np.array_split(clip, num_clips // 100):
            file.write(places, rng.random((len(places), num_classes), np.float32))
        file.seal()
        evaluate_scores(labels, file)
        resample(labels, file, num_resamples=2, seed=0)
        key = np.char.encode(np.char.mod("%07d", clip))
        write_table(folder, key, ["/m/a"] * num_classes, labels, file)
    with open_scores(folder) as stored:
        assert sum(len(block) for _, block in stored.blocks()) == num_clips


def test_memory_does_not_grow_with_clips_times_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of clips could be measured only where all their scores fit in memory.

    A score takes 4 bytes, so a clip of 400 classes 1600; ten class columns take 40.
    """
    num_classes = 400
    monkeypatch.setattr("psl.evaluation.score_tables.BLOCK_SCORES", 1 << 16)
    monkeypatch.setattr("psl.evaluation.bootstrap._COUNTS_AT_A_TIME", 1 << 16)
    monkeypatch.setattr("psl.evaluation.bootstrap._RANKED_CLIPS", 1 << 16)
    few, many = (
        peak_bytes(lambda n=n: measure_on_disk(tmp_path, n, num_classes))  # type: ignore[misc]
        for n in (4_000, 24_000)
    )
    assert (many - few) / 20_000 < 150


def test_the_file_of_scores_has_no_name_and_goes_with_its_process(
    tmp_path: Path,
) -> None:
    """A killed evaluation would leave gigabytes that nobody finds."""
    with ScoreFile(tmp_path / "not" / "yet", num_clips=1000, num_classes=10) as file:
        assert not list(tmp_path.iterdir())
        file.write(np.arange(1000), np.zeros((1000, 10), np.float32))
        assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_said_before_the_first_clip(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of scoring would end in a bus error, and with a full disk."""

    def full(*given: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("psl.evaluation.scoring.visit_clips", None)
    out = tmp_path / "out"
    with pytest.raises(OSError, match=r"No space left .* 0\.0 GB of scores; free") as e:
        evaluate.main([f"checkpoint={teacher}", f"audio={dataset}", f"out={out}"])
    assert e.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_later_is_said_and_leaves_nothing(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, where a file system cannot reserve space, or has a quota."""

    def full(*given: object) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "pwrite", full)
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/out"]
    with pytest.raises(OSError, match="quota exceeded while writing .* of scores; "):
        evaluate.main(words)
    assert not list(tmp_path.iterdir())


def _evaluate_without_space(rank: int, port: int, words: list[str], out: Path) -> None:
    """One of two ranks; the disk of rank 0 fills up. What is raised goes to ``out``."""

    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    if rank == 0:
        os.pwrite = full
    try:
        evaluate.main(words)
    except OSError as error:
        out.write_text(str(error))


def test_all_ranks_end_when_the_disk_of_the_first_is_full(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """The others would wait for it until their time is up, on machines that cost."""
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/out"]
    told = [tmp_path / "0.txt", tmp_path / "1.txt"]
    port = free_port()
    ranks = [
        SERVER.Process(target=_evaluate_without_space, args=(rank, port, words, path))
        for rank, path in enumerate(told)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
        process.kill()
    for path in told:
        assert (
            "No space left on device while writing 0.0 GB of scores" in path.read_text()
        )
    assert sorted(tmp_path.iterdir()) == told


def test_clips_without_scores_are_refused(tmp_path: Path) -> None:
    """Clips would count with a score of 0."""
    with ScoreFile(tmp_path, num_clips=3, num_classes=2) as file:
        file.write(np.array([0, 2, 2]), np.zeros((3, 2), np.float32))
        with pytest.raises(JobError, match="clip 1 was scored 0 times, expected once"):
            file.seal()


@pytest.mark.usefixtures("small_blocks")
def test_a_file_of_scores_that_numpy_wrote_class_by_class_is_read_as_it_is(
    tmp_path: Path,
) -> None:
    """Scores of earlier evaluations, or of others, would be mixed up."""
    targets, scores = made(1000)
    key = np.array([f"clip{i:03}".encode() for i in range(NUM_CLIPS)])
    mids = [f"/m/{c}" for c in range(NUM_CLASSES)]
    write_table(tmp_path, key, mids, Labels.of(targets), on_disk(tmp_path, scores))
    arrays = dict(np.load(tmp_path / "scores.npz"))
    np.testing.assert_array_equal(arrays["scores"], scores)
    np.savez(tmp_path / "f.npz", **{**arrays, "scores": np.asfortranarray(scores)})
    found = read_scores(tmp_path / "f.npz")
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.targets, targets)
    np.savez(tmp_path / "s.npz", **{**arrays, "scores": scores[:-1]})
    with pytest.raises(ShardError, match="arrays do not fit each other"):
        read_scores(tmp_path / "s.npz")
