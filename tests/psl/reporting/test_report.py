"""psl.report: what is in the page, and what it says of folders that are not whole."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psl import report
from psl.evaluation.labels import Labels
from psl.reporting.confused import confused
from psl.reporting.facts import shortened
from psl.reporting.runs import short_names
from shards.errors import ShardError
from tests.psl.reporting.made import make_evaluation, make_run


class Scripts(html.parser.HTMLParser):
    """The scripts of a page as an HTML parser finds them, and every link to a file."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.links: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag == "script":
            self.scripts.append("")
        self._inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def facts_in(page: Path) -> dict[str, Any]:
    """The data of a page, which has two scripts and links to nothing."""
    parser = Scripts()
    parser.feed(page.read_text(encoding="utf-8"))
    assert len(parser.scripts) == 2 and parser.links == ["data:,"]
    found: dict[str, Any] = json.loads(parser.scripts[0])
    return found


def make(folder: Path, *words: str) -> dict[str, Any]:
    """The data of the page that the command makes."""
    out = folder / "report.html"
    report.main([*words, "--out", str(out)])
    return facts_in(out)


def test_two_runs_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    """People would compare runs by a key that is the same, or miss the one that is
    not.
    """
    for name, rate in (("a", 0.1), ("b", 0.2)):
        make_run(tmp_path / name / "run", optim={"learning_rate": rate})
        make_evaluation(tmp_path / name / "run" / "eval", ap=(0.5, rate, 1))
    found = make(tmp_path, *(str(tmp_path / name / "run") for name in "ab"))
    assert [run["name"] for run in found["runs"]] == ["a/run", "b/run"]
    assert found["config"]["differing"] == [["optim.learning_rate", "0.1", "0.2"]]
    assert found["curves"]["valid_mAP"][1] == {"run": 1, "x": [20, 40], "y": [0.2, 0.4]}
    first, second = found["per_class"][1]["ap"]
    assert first == pytest.approx([0.1, 0, 0.2])
    assert second == pytest.approx([0.2, 0.1, 0.3])
    assert found["evaluations"][0]["intervals"]["mAP"] == [0.4, 0.7]
    assert found["evaluations"][0]["intervals"]["AUC"] is None
    assert "psl.train" in found["runs"][0]["command"]
    assert found["runs"][0]["command"].endswith("seed=0 'a b'")


def test_a_program_reads_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A nightly script would have to take numbers out of a page."""
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    make_evaluation(run / "eval")
    report.main([str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["name"] == "run" and len(found["evaluations"]) == 1
    assert not Path("report.html").exists()
    report.main([str(run), "--json", "--out", "page.html"])
    said = json.loads(capsys.readouterr().out)
    page = facts_in(Path("page.html"))
    assert {**said, "command": ""} == {**page, "command": ""}


def test_names_stay_data_whatever_they_are(tmp_path: Path) -> None:
    """A class list of a stranger would run its script in the reader's browser."""
    name = "<script>alert(1)</script> \u202e'\""
    make_evaluation(make_run(tmp_path / name.replace("/", "_")) / "eval")
    found = make(tmp_path, str(tmp_path / name.replace("/", "_")))
    names = [row["name"] for row in found["per_class"]]
    assert names[0] == "</script><script>document.title='broken'</script>"
    assert names[2] == "Sound \\u202eesrever\\u202c \u0635\u0648\u062a"
    assert found["runs"][0]["name"] == "<script>alert(1)<_script> \\u202e'\""


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """A reader would take a run that nobody evaluated for one without results."""
    run = make_run(tmp_path / "run")
    said = "\n".join(make(tmp_path, str(run))["missing"])
    assert f"run: not evaluated; psl evaluate checkpoint={run}" in said
    assert "--labels" in said and "--audio" in said
    evaluation = make_evaluation(tmp_path / "elsewhere")
    (evaluation / "scores.npz").unlink()
    found = make(tmp_path, f"{run},{evaluation}")
    said = "\n".join(found["missing"])
    assert "no scores.npz" in said and "not evaluated" not in said
    assert (
        len(found["evaluations"]) == 1 and found["evaluations"][0]["confused"] is None
    )
    alone = make(tmp_path, str(evaluation))
    assert "an evaluation only" in "\n".join(alone["missing"])


def test_event_scores_stand_apart_from_evaluations(tmp_path: Path) -> None:
    """Both leave a metrics.json in the run; the report would stop at the other one."""
    run = make_run(tmp_path / "run")
    (make_evaluation(run / "eval").parent / "found").mkdir()
    values = {"psds1": 0.25, "psds2": None, "event_f1_macro": 0.5, "num_clips": 3}
    (run / "found" / "metrics.json").write_text(json.dumps(values))
    found = make(tmp_path, str(run))
    assert [e["title"] for e in found["evaluations"]] == ["run · eval"]
    (events,) = found["events"]
    assert events["title"] == "run · found"
    assert events["values"] == [0.25, None, 0.5, None]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.yaml", "a: [", "config.yaml"),
        ("run.json", "[1]", "run.json: a list"),
        ("run.json", '{"a": NaN}', "run.json: not JSON: NaN is not finite"),
        ("metrics.jsonl", '{"step": 1}\n{"loss": 2}\n', "metrics.jsonl: line 2"),
        ("metrics.jsonl", '{"step": "1"}\n', "metrics.jsonl: line 1"),
        ("eval/metrics.json", '{"mAP": "high"}', "metrics.json: mAP is 'high'"),
        ("eval/metrics.json", "{" * 10**5, "metrics.json: not JSON"),
        ("eval/per_class.csv", "mid,ap\n", "per_class.csv: line 1: no column"),
        (
            "eval/per_class.csv",
            "mid,display_name,num_positives,ap\nm,n,3,7\n",
            "per_class.csv: line 2: '7', expected 0 to 1",
        ),
        ("eval/scores.npz", "no zip", "scores.npz: not a file of scores"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    """A traceback, or a page with a part of the numbers, would be all that is left."""
    run = make_run(tmp_path / "run")
    make_evaluation(run / "eval")
    (run / name).write_text(content)
    with pytest.raises((ShardError, ValueError)) as raised:
        make(tmp_path, str(run))
    assert expected in str(raised.value)
    assert not (tmp_path / "report.html").exists()


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    """The report of a run that was killed would need an editor first."""
    run = make_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 41, "lo')
    assert make(tmp_path, str(run))["runs"][0]["last_step"] == 40


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "'nowhere': no such folder"),
        (["."], "neither a run nor an evaluation"),
        (["run", "run/../run"], "a run is named twice"),
        (["run,run"], "run: no metrics.json"),
        (["run", "--out", "run"], "run: a folder"),
    ],
)
def test_words_that_name_no_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str
) -> None:
    """A typing error would give an empty page."""
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    with pytest.raises(ValueError, match=expected):
        report.main(words)


def test_confused_classes_by_hand() -> None:
    """The pair to listen to would be another one."""
    targets = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [0, 1], [0, 0]], np.bool_)
    scores = np.array([[0, 0.5], [0, 0.5], [0, 0.8], [0, 1], [0.3, 1], [0, 0.2]])
    # of class 1 on clips 0 to 2: 0.6; on clip 5: 0.2. Of class 0 on clip 4: one clip
    labels = Labels.of(targets)
    (pair,) = confused(labels, [(0, scores)], most=9)
    (again,) = confused(labels, [(0, scores[:2]), (2, scores[2:])], most=9)
    assert (again.label, again.taken_for, again.num_clips) == (0, 1, 3)
    assert (again.score, again.elsewhere) == pytest.approx((0.6, 0.2))
    assert (pair.label, pair.taken_for, pair.num_clips) == (0, 1, 3)
    assert (pair.score, pair.elsewhere) == pytest.approx((0.6, 0.2))


def test_long_curves_are_means_and_names_as_short_as_they_may_be() -> None:
    """The page of a long run would be slow, and two runs would have one name."""
    points = [(step, step / 2) for step in range(1, 8)]
    assert shortened(points, 3) == [(2.0, 1.0), (5.0, 2.5), (7.0, 3.5)]
    folders = [Path("/x/s0/a"), Path("/x/s1/a")]
    assert short_names(folders) == ["s0/a", "s1/a"]
    assert short_names(folders[:1]) == ["a"]
