"""Candidates to go past PSL-2s: that the comparison with it is a fair one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from psl.config import parse
from psl.config_values import read_words
from psl.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("in_the_repository")

PROFILES = ["table", "audioset"]


def commands(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    """What reproduce.py would run, without quotes."""
    tools.main([*words, "--print"])
    return capsys.readouterr().out.replace("'", "").splitlines()


def config_of(line: str) -> TrainConfig:
    """What a psl.train command would run."""
    return parse(TrainConfig, read_words(line.split("psl.train ")[1].split()))


def students(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], table: str, row: str, p: str
) -> list[TrainConfig]:
    """The trainings that make one student of profile ``p``, the first stage first."""
    words = ["--profile", p, "--seeds", "1", "--rows", row]
    words += ["--teacher", "t"] if p == "audioset" else []
    lines = commands(tools, capsys, table, *words)
    return [
        config_of(line) for line in lines if "psl.train" in line and "/seed" in line
    ]


def test_the_table_has_the_rows_that_have_recipes(tools: ModuleType) -> None:
    """A recipe nobody can name, or a row that fails after the teacher is trained."""
    rows = tools.TABLES["best"].rows
    files = {path.stem for path in Path("configs", "best").glob("*.yaml")}
    assert files - {"base"} == set(rows) == {"windows", "best"}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_recipe_has_the_student_the_clips_and_the_examples_of_psl_2s(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    """A gain from more data, more examples or a larger student would be sold as one of
    the recipe.
    """
    stages = students(tools, capsys, "best", "best", profile)
    (psl_2s,) = students(tools, capsys, "table2", "psl_2s", profile)
    assert [stage.data.chunk_seconds for stage in stages] == [2.0, 10.0]
    for stage in stages:
        assert stage.model == psl_2s.model
        assert stage.data.audio == psl_2s.data.audio
        assert stage.data.valid == psl_2s.data.valid
        assert (stage.data.alpha, stage.seed) == (1.0, 1)
    windows_of_a_clip = 17  # of 2 s, every 0.5 s, in 10 s
    examples = windows_of_a_clip * stages[0].epochs + stages[1].epochs
    assert 0.99 * 5 * psl_2s.epochs <= examples <= 5 * psl_2s.epochs


def test_the_second_stage_starts_from_the_first_of_its_seed(
    tools: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a student of whole clips alone, or of another seed."""
    first, second = students(tools, capsys, "best", "best", "table")
    assert first.start is None and second.start == first.run_dir
    assert "seed1/best_windows" in first.run_dir
    assert first.run_dir != second.run_dir
    rows = ["--rows", "windows,best", "--seeds", "1,2", "--root", "r"]
    lines = commands(tools, capsys, "best", *rows)
    trained = [line.split("run_dir=")[1] for line in lines if "psl.train" in line]
    stages = ["best_windows", "best_best"]
    assert trained == ["r/teacher"] + [f"r/seed{s}/{n}" for s in (1, 2) for n in stages]


@pytest.mark.parametrize("teacher", [None, "elsewhere/teacher"])
def test_one_teacher_labels_what_the_stages_read(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], teacher: str | None
) -> None:
    """A stage would be of another teacher, or of chunks it does not expect."""
    words = ["--rows", "best", "--seeds", "1", "--root", "r"]
    words += ["--teacher", teacher] if teacher else []
    lines = commands(tools, capsys, "best", *words)
    labelled = [read_words(line.split()[3:]) for line in lines if "psl.label" in line]
    made = {words["out"]: words for words in labelled}
    assert {words["teacher"] for words in labelled} == {teacher or "r/teacher"}
    for line in lines:
        if "psl.train" in line and "/seed" in line:
            data = config_of(line).data
            assert isinstance(data.labels, list)
            (labels,) = (made[path] for path in data.labels)
            assert labels["chunk_seconds"] == data.chunk_seconds
            assert labels.get("hop_seconds") == (
                0.5 if data.chunk_seconds == 2 else None
            )
