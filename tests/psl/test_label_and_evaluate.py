"""Labelling and evaluation: whole, exactly once, whatever the number of processes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import average_precision_score

from psl import evaluate, label, train
from psl.labelling import worker
from psl.teachers.load import Ensemble
from psl.weights.checkpoint import load_checkpoint
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import open_index
from shards.system.exits import JobError
from tests.conftest import Run, write_source
from tests.learning import REPOSITORY, folder_bytes, teacher_config, torchrun


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("teacher")
    train.main(teacher_config(folder, dataset))
    return folder / "run"


def words(teacher: Path, dataset: Path, out: Path, *more: str) -> list[str]:
    """Words of ``psl.label``."""
    return [f"teacher={teacher}", f"audio={dataset}", f"out={out}", *more]


def test_a_label_is_the_teacher_s_probability_of_that_chunk(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """Stored labels would differ from a teacher that looks along."""
    label.main(words(teacher, dataset, tmp_path / "out", "chunk_seconds=0.7"))
    audio = MemberReader(open_index(dataset, kind="audio"))
    labels = MemberReader(open_index(tmp_path / "out", kind="labels"))
    model = load_checkpoint(teacher).build_model()
    for row in (0, 11, 23):
        stored = labels.labels(row)
        assert stored.shape == (3, 3) and stored.dtype == np.float16
        waveform = torch.zeros(3, 11200)
        pcm = torch.from_numpy(audio.samples(row, 0, 32000).astype(np.float32)) / 32768
        for chunk in range(3):
            part = pcm[chunk * 11200 : (chunk + 1) * 11200]
            waveform[chunk, : len(part)] = part
        with torch.inference_mode():
            probs, _ = model(waveform, torch.tensor([11200, 11200, 9600]))
        np.testing.assert_allclose(stored, probs, atol=5e-4)


def test_the_documented_program_prints_the_scores_of_a_file(
    teacher: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first thing a user does with a trained model would not work."""
    label.main(words(teacher, dataset, tmp_path / "out", "chunk_seconds=2"))
    labels = MemberReader(open_index(tmp_path / "out", kind="labels"))
    index = open_index(dataset, kind="audio")
    (tmp_path / "runs").mkdir()
    shutil.copytree(teacher, tmp_path / "runs" / "psl_2s")
    pcm = MemberReader(index).samples(7, 0, 32000)
    soundfile.write(tmp_path / "dog.mp3", pcm, 16000, format="WAV")
    page = (REPOSITORY / "docs" / "using_a_model.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(program, {})
    expected = sorted(zip(labels.labels(7)[0], index.classes.names, strict=True))
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in lines] == [name for _, name in expected[::-1]]
    for (printed, _), (prob, _) in zip(lines, expected[::-1], strict=True):
        assert float(printed) == pytest.approx(float(prob), abs=6e-3)


def test_labels_are_the_same_bytes_for_any_number_of_processes(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """Labels would depend on the cluster they were made on."""
    label.main(words(teacher, dataset, tmp_path / "1", "chunk_seconds=1"))
    result = torchrun(
        2, "psl.label", *words(teacher, dataset, tmp_path / "2", "chunk_seconds=1")
    )
    assert result.returncode == 0, result.stderr
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "2")


def test_finished_label_shards_are_not_made_again(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed job would start again from nothing, or end with other labels."""
    label.main(words(teacher, dataset, tmp_path / "whole"))
    made = []
    real = worker.label_rows

    def die_at_second(*args: Any, **named: Any) -> object:
        made.append(args)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(*args, **named)

    monkeypatch.setattr(worker, "label_rows", die_at_second)
    with pytest.raises(KeyboardInterrupt):
        label.main(words(teacher, dataset, tmp_path / "killed"))
    done = list((tmp_path / "killed").glob("*.tar"))
    assert len(done) in (1, 2)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {*(path.name for path in done), ".parts"}
    made = [(), ()]
    label.main(words(teacher, dataset, tmp_path / "killed"))
    assert len(made) - 2 == 3 - len(done)  # only what was missing
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "whole")


def test_labels_of_another_setting_do_not_mix_in_one_folder(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    """Half of the labels would be for other chunks."""
    label.main(words(teacher, dataset, tmp_path / "out", "chunk_seconds=1"))
    with pytest.raises(ShardError, match="made with chunk_samples = 16000, not 32000"):
        label.main(words(teacher, dataset, tmp_path / "out", "chunk_seconds=2"))


def test_a_teacher_that_gives_no_probability_is_named_with_the_clip(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN would go into the labels, and from there into every student."""

    def broken(_: Ensemble, waveform: torch.Tensor, *more: object) -> torch.Tensor:
        return torch.full((len(waveform), 3), torch.nan)

    monkeypatch.setattr(Ensemble, "forward", broken)
    with pytest.raises(JobError, match=r"key 'clip\d+_0' at row 0: from teacher .*run"):
        label.main(words(teacher, dataset, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_shard_without_clips_is_labelled_as_such(
    teacher: Path, tmp_path: Path, run: Run
) -> None:
    """One shard whose clips were all rejected would make a set unlabelable."""
    source = write_source(tmp_path / "source", num_clips=3)
    (source.audio / "clip1.wav").write_bytes(b"")
    more = ["--clips-per-shard", "1", "--max-rejected", "0.5"]
    run("shards.pack", *source.pack_arguments(tmp_path / "packed"), *more)
    label.main(words(teacher, tmp_path / "packed", tmp_path / "out"))
    index = open_index(tmp_path / "out", kind="labels")
    assert sorted(shard.num_clips for shard in index.shards) == [0, 1, 1]


@pytest.mark.parametrize("missing", ["nothing", "empty"])
def test_a_missing_checkpoint_is_named(
    dataset: Path, tmp_path: Path, missing: str
) -> None:
    """The user would see a traceback of a file that is not theirs."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match=f"{missing}: no checkpoint there; expected"):
        label.main(words(tmp_path / missing, dataset, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_classes_is_refused(
    teacher: Path, tmp_path: Path, run: Run
) -> None:
    """Columns of the labels would mean other classes."""
    source = write_source(tmp_path / "source", num_clips=4)
    csv_text = source.class_labels.read_text()
    source.class_labels.write_text(csv_text + '3,/m/more,"More"\n')
    run("shards.pack", *source.pack_arguments(tmp_path / "four"))
    with pytest.raises(ValueError, match="1 of 4 classes are not among its 3 outputs"):
        label.main(words(teacher, tmp_path / "four", tmp_path / "out"))
    with pytest.raises(ValueError, match=r"4 classes, expected 3: 1 more \(/m/more\)"):
        evaluate.main(
            [f"checkpoint={teacher}", f"audio={tmp_path}/four", f"out={tmp_path}/e"]
        )
    assert not (tmp_path / "out").exists()


def test_a_model_is_measured_on_the_classes_it_shares_with_other_audio(
    teacher: Path, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Zero-shot figures would compare columns that mean different classes."""
    source = write_source(tmp_path / "source", num_clips=24)
    lines = ['0,/m/high,"Tone high"', '1,/m/more,"More"', '2,/m/low,"Tone low"']
    table = "index,mid,display_name\n" + "\n".join(lines) + "\n"
    source.class_labels.write_text(table)
    csv_text = source.segments.read_text().replace("/m/mid", "/m/more")
    source.segments.write_text(csv_text)
    run("shards.pack", *source.pack_arguments(tmp_path / "other"))
    evaluate.main([f"checkpoint={teacher}", f"audio={dataset}", f"out={tmp_path}/own"])
    words = [f"checkpoint={teacher}", f"audio={tmp_path}/other", "classes=shared"]
    evaluate.main([*words, f"out={tmp_path}/e"])

    def by_class(folder: Path) -> dict[str, str]:
        with open(folder / "per_class.csv", newline="") as stream:
            return {row["mid"]: row["ap"] for row in csv.DictReader(stream)}

    # the same clips in the same places: packing sorts them by key and seed alone
    own, other = by_class(tmp_path / "own"), by_class(tmp_path / "e")
    assert other == {mid: own[mid] for mid in ("/m/high", "/m/low")}
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    mean = (float(own["/m/high"]) + float(own["/m/low"])) / 2
    assert metrics["mAP"] == pytest.approx(mean, abs=1e-5)
    assert metrics["num_classes_with_positives"] == 2


def test_audio_without_a_class_of_the_model_is_refused(
    teacher: Path, tmp_path: Path, run: Run
) -> None:
    """The mean over no class would be printed."""
    source = write_source(tmp_path / "source", num_clips=4)
    for path in (source.class_labels, source.segments):
        path.write_text(path.read_text().replace("/m/", "/t/"))
    run("shards.pack", *source.pack_arguments(tmp_path / "other"))
    with pytest.raises(ValueError, match="no class of the audio .*/t/low.*/m/low"):
        evaluate.main(
            [f"checkpoint={teacher}", f"audio={tmp_path}/other", "classes=shared"]
            + [f"out={tmp_path}/e"]
        )
    assert not (tmp_path / "e").exists()


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Five clips of four lengths, one of a hundredth of a second."""
    import soundfile

    folder = tmp_path_factory.mktemp("uneven")
    source = write_source(folder / "source", num_clips=5)
    for number, num_samples in enumerate((160, 8000, 8000, 20000)):
        path = source.audio / f"clip{number}.wav"
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[:num_samples], rate)
    result = run("shards.pack", *source.pack_arguments(folder / "packed"))
    assert result.returncode == 0, result.stderr
    return folder / "packed"


def test_evaluation_is_the_same_at_any_world_size_and_equals_scikit_learn(
    teacher: Path, uneven: Path, tmp_path: Path
) -> None:
    """MAP would depend on the number of GPUs, or on who is in a batch.

    So would segments, of which each belongs to one rank.
    """
    strong = tmp_path / "strong.csv"
    lines = ["segment_id,start_time_seconds,end_time_seconds,label"]
    lines += ["clip1_0,0,0.3,/m/mid", "clip3_0,0.2,1.2,/m/low", "clip4_0,1,2,/m/high"]
    strong.write_text("\n".join(lines) + "\n")
    arguments = [f"checkpoint={teacher}", f"audio={uneven}", "batch_size=2"]
    arguments += [f"strong={strong}", "segment_seconds=0.5"]
    evaluate.main([*arguments, f"out={tmp_path}/1"])
    result = torchrun(3, "psl.evaluate", *arguments, f"out={tmp_path}/3")
    assert result.returncode == 0, result.stderr
    assert folder_bytes(tmp_path / "1") == folder_bytes(tmp_path / "3")

    index = open_index(uneven, kind="audio")
    reader, model = MemberReader(index), load_checkpoint(teacher).build_model()
    scores, targets = [], index.table.weak_targets(np.arange(5), 3)
    for row in range(5):
        pcm = reader.samples(row, 0, int(index.table.count[row])).astype(np.float32)
        padded = np.zeros(max(len(pcm), 8000), np.float32)
        padded[: len(pcm)] = pcm / 32768
        with torch.inference_mode():
            probs, _ = model(torch.from_numpy(padded)[None], torch.tensor([len(pcm)]))
        scores.append(probs[0].numpy())
    expected = average_precision_score(targets, np.stack(scores), average=None)
    metrics = json.loads((tmp_path / "1" / "metrics.json").read_text())
    assert metrics["mAP"] == pytest.approx(np.mean(expected))
    assert metrics["num_clips"] == 5
    with open(tmp_path / "1" / "per_class.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_class = {row["mid"]: float(row["ap"]) for row in rows}
    for mid, ap in zip(index.classes.mids, expected, strict=True):
        assert by_class[mid] == pytest.approx(ap, abs=1e-5)


def test_a_truncated_shard_is_refused_before_anything_is_scored(
    teacher: Path, dataset: Path, tmp_path: Path, run: Run
) -> None:
    """Clips would be missing from the mean without a word."""
    broken = shutil.copytree(dataset, tmp_path / "broken")
    tar = broken / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    result = run(
        "psl.evaluate", f"checkpoint={teacher}", f"audio={broken}", f"out={tmp_path}/e"
    )
    assert result.returncode == 78
    assert "000001.tar" in result.stderr and "the shard is incomplete" in result.stderr
    assert not (tmp_path / "e").exists()
