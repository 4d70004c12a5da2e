"""The demonstration, in miniature of the miniature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.learning import REPOSITORY


def demo(folder: Path) -> str:
    """The output of ``python tools/demo.py --profile smoke`` in ``folder``."""
    command = [sys.executable, "tools/demo.py", "--profile", "smoke"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_demo_runs_to_its_report_and_skips_what_is_done(tmp_path: Path) -> None:
    """A newcomer's first command would fail."""
    pytest.importorskip("tinysoundfont")
    for name in ("configs", "psl", "shards", "tools"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    output = demo(tmp_path)
    root = tmp_path / "runs" / "smoke"
    table = json.loads((root / "table.json").read_text())
    assert list(table) == ["teacher", "baseline", "psl_10s", "psl_5s", "psl_2s"]
    assert all(0 < value < 100 for value in table.values())
    seeds = json.loads((root / "table_seeds.json").read_text())
    assert len(seeds["psl_2s"]["values"]) == 2
    pictures = {path.name for path in (root / "report").glob("*.png")}
    assert pictures == {"table.png", "curves.png", "clip.png"}
    assert "35.48" in output and "train psl_2s" in output

    again = demo(tmp_path)
    assert again.count("done already") == 27 and "python -m" not in again
