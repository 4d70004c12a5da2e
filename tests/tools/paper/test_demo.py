"""The demonstration, and tables of the paper, in miniature of the miniature."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from psl.config_values import read_yaml
from tests import onnxruntime_web
from tests.learning import REPOSITORY
from tests.needs import needs


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


NOTEBOOKS = REPOSITORY / "docs" / "notebooks"


def printed_by(folder: Path, name: str, **parameters: str) -> str:
    """What the notebook prints in ``folder``, whose demonstration is the smoke one.

    ``parameters`` replace values of its cell of that tag.
    """
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    small = cell.source.replace("runs/demo", "runs/smoke")
    cell.source = small.replace("data/mini-quick", "data/mini-smoke") + "".join(
        f"\n{key} = {value!r}" for key, value in parameters.items()
    )
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    texts = [o.text for o in outputs if o.get("name") == "stdout"]
    texts += [f"a picture: {k}" for o in outputs for k in o.get("data", {})]
    return "\n".join(texts)


@pytest.fixture
def with_psl(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command psl can be typed."""
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(programs))


def test_the_notebook_of_own_sounds_adapts_and_tags(
    demonstrated: tuple[Path, str], with_psl: None
) -> None:
    """A newcomer with a notebook open would stop at a traceback."""
    printed = printed_by(demonstrated[0], "own_sounds")
    assert re.search(r"^mAP \d+\.\d %$", printed, re.M)
    assert len(re.findall(r"^ *\d+\.\d  \S", printed, re.M)) == 4  # classes
    assert "8.0 to 10.0 s" in printed
    assert printed.count("a picture: image/png") == 2


def test_the_notebook_of_labels_counts_what_was_forgotten(
    demonstrated: tuple[Path, str],
) -> None:
    """What the method is about would be claimed, and not shown."""
    printed = printed_by(demonstrated[0], "what_labels_know")
    assert re.search(r"^forgotten: [1-9]\d* of \d+ true labels$", printed, re.M)
    assert len(re.findall(r"^ ?\d+ s: finds \d+ % of them", printed, re.M)) == 3
    aucs = [float(x) for x in re.findall(r"^ ?\d+ s: (0\.\d{3})$", printed, re.M)]
    assert len(aucs) == 3 and all(0.2 < auc < 1 for auc in aucs)
    assert "a picture: image/png" in printed


@needs("onnxruntime-web")
def test_the_notebook_of_the_browser_says_the_same_there(
    demonstrated: tuple[Path, str], with_psl: None, tmp_path: Path
) -> None:
    """A page would show other sounds than Python, or none."""
    for name, data in onnxruntime_web.contents().items():
        (tmp_path / name).write_bytes(data)
    printed = printed_by(demonstrated[0], "export_and_browser", ORT=str(tmp_path))
    lines = re.findall(r"^0\.\d\d  .+$", printed, re.M)
    assert len(lines) == 6 and lines[:3] == lines[3:]  # Python's, and the browser's
