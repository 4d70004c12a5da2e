"""Segments, validations and reports of more clips than memory holds the scores of."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import average_precision_score

from psl import evaluate, train
from psl.evaluation.labels import Labels
from psl.evaluation.score_file import ScoreFile
from psl.evaluation.segment_scores import segments_on_disk
from psl.evaluation.segments import Segments, measure_segments
from shards.format.chunking import Chunking
from shards.system.exits import JobError
from tests.learning import tiny_config

HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"


def made(seed: int, num_clips: int, num_classes: int, levels: int) -> tuple:
    """Segments of clips of 1 to 6 of them, their truth [S, C], and scores with ties.

    Class 0 sounds in all of every clip in which it sounds, the last one nowhere.
    """
    rng = np.random.default_rng(seed)
    number = rng.integers(1, 7, num_clips)
    clip = np.repeat(np.arange(num_clips), number)
    truth = rng.random((len(clip), num_classes)) < 0.3
    if num_classes > 1:
        truth[:, 0] = (rng.random(num_clips) < 0.5)[clip]
        truth[:, -1] = False
    truth[0, num_classes // 2] = True
    segments = Segments(
        seconds=1.0,
        chunking=Chunking(10, 10),
        rows=np.arange(num_clips),
        num_samples=10 * number,
        first=np.append(0, np.cumsum(number)),
        truth=Labels.of(truth),
    )
    scores = np.round(rng.random(truth.shape) * levels) / levels
    return segments, truth, clip, scores.astype(np.float32)


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize(
    ("num_clips", "num_classes"), [(1, 1), (1, 4), (2, 1), (40, 5)]
)
def test_segments_on_disk_are_measured_as_scikit_learn_does(
    num_clips: int,
    num_classes: int,
    levels: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of when would depend on where scores are, or on equal ones."""
    segments, truth, clip, scores = made(levels, num_clips, num_classes, levels)
    in_memory = measure_segments(segments, scores)
    monkeypatch.setattr("psl.evaluation.score_tables.BLOCK_SCORES", 9 * num_classes)
    with ScoreFile(
        tmp_path, num_clips=len(truth), num_classes=num_classes, row="segment"
    ) as file:
        for places in np.array_split(
            np.random.default_rng(0).permutation(len(clip)), 3
        ):
            file.write(places, scores[places])
        file.seal()
        found = measure_segments(segments, file)
    assert found.summary() == in_memory.summary()
    for name in ("ap", "ap_in_clip", "share_in_clip"):
        np.testing.assert_array_equal(getattr(found, name), getattr(in_memory, name))
    for c in range(num_classes):
        holds = np.array([truth[clip == n, c].any() for n in clip])
        if not holds.any():
            assert np.isnan([found.ap[c], found.ap_in_clip[c]]).all()
            continue
        ap = average_precision_score(truth[:, c], scores[:, c])
        assert found.ap[c] == pytest.approx(ap, abs=1e-12)
        assert found.share_in_clip[c] == truth[holds, c].mean()
        if truth[holds, c].all():
            assert np.isnan(found.ap_in_clip[c])
        else:
            within = average_precision_score(truth[holds, c], scores[holds, c])
            assert found.ap_in_clip[c] == pytest.approx(within, abs=1e-12)
    if num_classes > 1:
        assert np.isnan(found.ap[-1]) and np.isnan(found.ap_in_clip[0])


@pytest.mark.parametrize("sent_rows", [1, 4, 4096])
def test_segments_reach_their_place_however_many_are_sent_together(
    sent_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of a clip would be counted for another, or be lost between two batches.

    A frame is as long as a segment, so each segment has the score of its frame.
    """
    monkeypatch.setattr("psl.evaluation.to_main._SENT_ROWS", sent_rows)
    segments, truth, clip, scores = made(7, 20, 4, 1000)
    wanted = [3, 1]  # of the frames' classes, those that are measured
    of_two = Segments(
        **{
            **vars(segments),
            "truth": Labels.of(truth[:, wanted]),
            "rows": 2 + 3 * np.arange(20),
        }
    )
    with segments_on_disk(
        of_two,
        wanted,
        lambda n: (np.arange(0, n, 10), np.arange(10, n + 1, 10)),
        Accelerator(cpu=True),
        folder=tmp_path,
        batch_size=3,
    ) as found:
        assert found is not None
        for number in range(1, 7):
            (clips,) = np.nonzero(segments.num_samples == 10 * number)
            for part in np.split(clips, range(3, len(clips), 3)):
                frames = [scores[clip == n] for n in part.tolist()]
                if frames:
                    found.add(2 + 3 * part, torch.from_numpy(np.stack(frames)))
        found.add(np.array([0, 1]), torch.zeros(2, 5, 4))  # not named by the list
        found.add(np.zeros(0, np.int64), torch.zeros(0, 0, 4))  # another rank's turn
        file = found.sealed()
        assert file is not None
        np.testing.assert_array_equal(
            np.stack(list(file.columns())), scores[:, wanted].T
        )


def test_a_segment_that_nobody_scored_is_named(tmp_path: Path) -> None:
    """It would count with a score of 0."""
    segments, _, _, scores = made(1, 2, 3, 9)
    with (
        segments_on_disk(
            segments,
            range(3),
            lambda n: (np.arange(0, n, 10), np.arange(10, n + 1, 10)),
            Accelerator(cpu=True),
            folder=tmp_path,
            batch_size=1,
        ) as found,
        pytest.raises(JobError, match="segment 0 was scored 0 times, expected once"),
    ):
        assert found is not None
        found.add(np.array([1]), torch.from_numpy(scores[segments.first[1] :][None]))
        found.sealed()


@pytest.mark.parametrize("call", [1, 2])
def test_a_disk_without_room_for_segments_is_said_and_nothing_is_left(
    call: int,
    teacher: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scores of segments, ten times those of clips, would stay on the full disk.

    The first file that asks for room is that of segments, the second that of clips.
    """
    calls = []

    def full(*given: int) -> None:
        calls.append(given)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr("psl.evaluation.scoring.visit_clips", None)
    strong = tmp_path / "strong.tsv"
    strong.write_text(HEADER + "clip0_0\t0.0\t0.4\t/m/low\n")
    words = [f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/out"]
    with pytest.raises(OSError, match=r"No space left .* of scores; free"):
        evaluate.main([*words, f"strong={strong}"])
    assert len(calls) == call and list(tmp_path.iterdir()) == [strong]
    for number in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        assert not os.path.realpath(number).startswith(str(tmp_path))


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    """The end of a validation would hide the error that ended it."""
    for bytes_in_memory in (0, 100):
        file = ScoreFile(
            tmp_path, num_clips=2, num_classes=3, bytes_in_memory=bytes_in_memory
        )
        file.close()
        file.close()


def test_a_validation_on_disk_is_that_in_memory_and_leaves_nothing(
    tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint of a large set would be another one than that of a small."""
    train.main(tiny_config(tmp_path / "memory", dataset, "epochs=2"))
    monkeypatch.setattr("psl.evaluation.scoring.VALIDATION_BYTES", 0)
    made_on_disk = []
    made = ScoreFile.__init__

    def seen(self: ScoreFile, folder: Path, **given: object) -> None:
        made(self, folder, **given)  # type: ignore[arg-type]
        made_on_disk.append(str(folder))

    monkeypatch.setattr(ScoreFile, "__init__", seen)
    train.main(tiny_config(tmp_path / "disk", dataset, "epochs=2"))
    assert set(made_on_disk) == {str(tmp_path / "disk" / "run")}
    found = [
        [
            line["valid_mAP"]
            for text in (tmp_path / name / "run" / "metrics.jsonl").open()
            if "valid_mAP" in (line := json.loads(text))
        ]
        for name in ("memory", "disk")
    ]
    assert len(found[0]) == 2 and found[0] == found[1]
    names = [
        {path.name for path in (tmp_path / name / "run").iterdir()}
        for name in ("memory", "disk")
    ]
    assert names[0] == names[1]


def test_no_scores_are_held_by_segments_validations_and_reports(tmp_path: Path) -> None:
    """Millions of clips could be measured only where all their scores fit in memory.

    Those of these rows take 80 MB; what is held of each row besides, below 10.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.psl.evaluation.held", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"segments", "validation", "page"}
    assert max(found.values()) < 40_000_000, found
