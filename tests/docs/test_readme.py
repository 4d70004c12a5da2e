"""The five commands of the README, on files laid out as it says."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from tests.conftest import write_source
from tests.docs.commands import commands
from tests.docs.pages import read_pages
from tests.learning import tiny_config

ROOT = Path(__file__).parents[2]


def readme_commands() -> list[list[str]]:
    """The words after ``python -m`` of each command for the reader's own data."""
    (readme,) = [page for page in read_pages(ROOT) if page.path == Path("README.md")]
    (block,) = [b for b in readme.blocks() if "shards.pack" in b.text]
    return [words[2:] for words in commands(block.text) if words]


def test_the_five_commands_of_the_readme_end_in_an_evaluated_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing that users do with data of their own would fail."""
    source = write_source(tmp_path, num_clips=24)
    source.audio.rename(tmp_path / "wavs")
    source.segments.rename(tmp_path / "train.csv")
    words = tiny_config(tmp_path, tmp_path / "replaced", "epochs=1")
    monkeypatch.chdir(tmp_path)
    modules = []
    for module, *given in readme_commands():
        modules.append(module)
        main = importlib.import_module(module).main
        main([*words, *given] if module == "psl.train" else given)
        if module == "shards.pack":  # "the same for data/eval"
            main([re.sub("train$", "eval", word) for word in given])
    assert modules == [
        *("shards.pack", "psl.train", "psl.label", "psl.train", "psl.evaluate")
    ]
    metrics = json.loads(Path("runs/psl_2s/eval/metrics.json").read_text())
    assert metrics["num_clips"] == 24
