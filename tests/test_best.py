"""Candidates to go past PSL-2s: that the comparison with it is a fair one."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from psl.config import parse, read_words
from psl.train_config import TrainConfig
from tests.learning import REPOSITORY

ROWS = ["crops", "mixtures", "best"]
PROFILES = ["table", "audioset"]


@pytest.fixture(scope="module")
def tools() -> Iterator[ModuleType]:
    """tools/reproduce.py."""
    sys.path.insert(0, str(REPOSITORY / "tools"))
    yield importlib.import_module("reproduce")
    sys.path.remove(str(REPOSITORY / "tools"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named relative to it."""
    monkeypatch.chdir(REPOSITORY)


def commands(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    """What reproduce.py would run, without quotes."""
    tools.main([*words, "--print"])
    return capsys.readouterr().out.replace("'", "").splitlines()


def config_of(lines: list[str]) -> TrainConfig:
    """What the student's psl.train would run."""
    (line,) = [line for line in lines if "psl.train" in line and "/seed" in line]
    return parse(TrainConfig, read_words(line.split("psl.train ")[1].split()))


def test_the_table_has_the_rows_that_have_recipes(tools: ModuleType) -> None:
    """A recipe nobody can name, or a row that fails after the teacher is trained."""
    assert list(tools.TABLES["best"].rows) == ROWS
    files = {path.stem for path in Path("configs", "best").glob("*.yaml")}
    assert files - {"base"} == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_candidate_has_the_student_the_clips_and_the_examples_of_psl_2s(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], row: str, profile: str
) -> None:
    """A gain from more data, more examples or a larger student would be sold as one of
    the recipe."""
    words = ["--profile", profile, "--seeds", "1"]
    words += ["--teacher", "t"] if profile == "audioset" else []
    ours = config_of(commands(tools, capsys, "best", "--rows", row, *words))
    theirs = config_of(commands(tools, capsys, "table2", "--rows", "psl_2s", *words))
    assert ours.model.front_end == theirs.model.front_end
    assert dataclasses.replace(ours.model, dropout=0.3) == theirs.model
    assert ours.data.audio == theirs.data.audio == [f"{_data(profile)}/shards/balanced"]
    assert ours.data.valid == theirs.data.valid
    assert (ours.data.chunk_seconds, ours.data.hop_seconds) == (2.0, None)
    assert (ours.epochs, ours.data.alpha) == (theirs.epochs, 1.0)
    assert ours.patience == theirs.patience


@pytest.mark.parametrize("teacher", [None, "elsewhere/teacher"])
def test_the_teacher_looks_along_and_labels_nothing_before(
    tools: ModuleType, capsys: pytest.CaptureFixture[str], teacher: str | None
) -> None:
    """An hour of labelling would be for nothing, or another teacher would be used."""
    words = ["--rows", "best", "--seeds", "0", "--root", "r"]
    words += ["--teacher", teacher] if teacher else []
    lines = commands(tools, capsys, "best", *words)
    data = config_of(lines).data
    assert data.teacher is not None and data.labels == "online"
    assert [entry.path for entry in data.teacher] == [teacher or "r/teacher"]
    assert not [line for line in lines if "psl.label" in line]
    trained = [line for line in lines if "run_dir=r/teacher" in line]
    assert len(trained) == (0 if teacher else 1)


def _data(profile: str) -> str:
    return {"table": "data/mini-table", "audioset": "data/audioset"}[profile]
