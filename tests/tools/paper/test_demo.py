"""The demonstration, and tables of the paper, in miniature of the miniature."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from psl.config_values import read_yaml
from tests.learning import REPOSITORY


def run_tool(folder: Path, *words: str) -> str:
    """The output of ``python -m WORDS...`` in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the smoke demonstration ran, and its output."""
    pytest.importorskip("tinysoundfont")
    folder = tmp_path_factory.mktemp("demo")
    for name in ("configs", "psl", "shards", "tools"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder, run_tool(folder, "tools.paper.demo", "--profile", "smoke")


def test_the_demo_runs_to_its_report_and_skips_what_is_done(
    demonstrated: tuple[Path, str],
) -> None:
    """A newcomer's first command would fail."""
    folder, output = demonstrated
    root = folder / "runs" / "smoke"
    table = json.loads((root / "table.json").read_text())
    assert list(table) == ["teacher", "baseline", "psl_10s", "psl_5s", "psl_2s"]
    assert all(0 < value < 100 for value in table.values())
    seeds = json.loads((root / "table_seeds.json").read_text())["systems"]
    assert len(seeds["psl_2s"]["values"]) == 1
    pictures = {path.name for path in (root / "report").glob("*.png")}
    assert pictures == {"table.png", "curves.png", "clip.png"}
    assert "35.48" in output and "train psl_2s" in output
    assert "report.html: 5 runs, 5 evaluations" in output
    page = (root / "report" / "report.html").read_text(encoding="utf-8")
    assert "data:audio/flac;base64," in page

    again = run_tool(folder, "tools.paper.demo", "--profile", "smoke")
    assert again.count("done already") == 19 and "python -m" not in again


def test_table_2_takes_over_what_the_demonstration_trained(
    demonstrated: tuple[Path, str],
) -> None:
    """An hour of training would be done twice, or the two would be told apart."""
    folder, _ = demonstrated
    words = ["--profile", "smoke", "--rows", "baseline,psl_2s", "--jobs", "2"]
    output = run_tool(folder, "tools.paper.reproduce", "table2", *words)
    assert output.count("done already") == 12 and "python -m" not in output
    table = json.loads((folder / "runs" / "smoke" / "table2.json").read_text())[
        "systems"
    ]
    demo = json.loads((folder / "runs" / "smoke" / "table_seeds.json").read_text())[
        "systems"
    ]
    # psl_10s and psl_5s, too: a table shows all that is there
    assert {name: row["values"] for name, row in table.items()} == {
        name: row["values"] for name, row in demo.items()
    }
    assert "| CNN14, weak labels | 27.80 | 1.850 | not run |" in output


def test_table_3_trains_a_row_on_mixed_labels_and_stops_where_it_was(
    demonstrated: tuple[Path, str],
) -> None:
    """A row of the paper would not train, or would train on pseudo labels alone."""
    folder, _ = demonstrated
    words = ["table3", "--profile", "smoke", "--rows", "psl_2s", "--seeds", "0"]
    output = run_tool(folder, "tools.paper.reproduce", *words)
    assert output.count(": python -m") == 2
    run_dir = folder / "runs" / "smoke" / "seed0" / "table3_psl_2s"
    config = read_yaml(run_dir / "config.yaml")
    assert (config["data"]["alpha"], config["data"]["chunk_seconds"]) == (0.5, 2.0)
    mean_ap = json.loads((run_dir / "eval" / "metrics.json").read_text())["mAP"]
    assert f"| PSL-2s + weak | - | - | {100 * mean_ap:.2f} |" in output
    assert "| PSL-10s + weak | - | - | not run |" in output

    (run_dir / "eval" / "metrics.json").unlink()
    again = run_tool(folder, "tools.paper.reproduce", *words)
    assert again.count(": python -m") == 1 and "psl.evaluate" in again
