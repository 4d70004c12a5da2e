"""The examples of docs/api.md, run as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_examples_of_the_page_run_from_top_to_bottom(
    dataset: Path,
    labels: Path,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the first thing that a newcomer copies fails."""
    for name, target in (
        ("data/balanced", dataset),
        ("data/labels_1s", labels),
        ("runs/student", run_dir),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == text.count("```python") >= 10
    names: dict[str, object] = {}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        source = "\n" * line + block  # so that an error names the line of the page
        exec(compile(source, str(PAGE), "exec"), names)
    assert "clip_probs" in names


def test_the_page_names_every_public_function() -> None:
    """Else a function is public and nobody learns of it."""
    import psl
    import shards

    text = PAGE.read_text()
    for package in (psl, shards):
        for name in set(package.__all__) - {"__version__"}:
            assert f"`{package.__name__}.{name}`" in text
