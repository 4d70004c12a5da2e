"""Stored results, tables in pages, and the two commands that keep them together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.system.exits import JobError
from tools import check_tables, keep_tables
from tools.results.pages import tables_of
from tools.results.stored import read_stored

TABLE = "| Way | s |\n|---|---|\n| fast | 1.5 |\n| slow | 20 |\n"
PAGE = f"# Speed\n\n<!-- table: speed.ways -->\n{TABLE}\nThat is all.\n"
STORED = {
    "version": 1,
    "date": "2026-11-29",
    "command": "python -m tools.bench.speed",
    "source": "measured",
    "tables": {
        "ways": {"columns": ["Way", "s"], "rows": [["fast", "1.5"], ["slow", "20"]]}
    },
}


def clone(folder: Path, *, page: str = PAGE, stored: object = STORED) -> Path:
    """A repository with one page and one file of results."""
    (folder / "docs" / "results").mkdir(parents=True)
    (folder / "README.md").write_text("# Mine\n")
    (folder / "docs" / "speed.md").write_text(page)
    (folder / "docs" / "results" / "speed.json").write_text(json.dumps(stored))
    return folder


def problems(folder: Path) -> list[str]:
    return list(check_tables.check(folder))


def test_a_page_that_shows_what_is_stored_is_right(tmp_path: Path) -> None:
    """The check would be turned off."""
    assert problems(clone(tmp_path)) == []


def test_a_number_that_was_changed_in_the_page_is_found_and_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing error, or wishful thinking, would be published."""
    clone(tmp_path, page=PAGE.replace("1.5", "1.2"))
    with pytest.raises(ShardError, match="1 differences"):
        check_tables.main(["--root", str(tmp_path)])
    assert capsys.readouterr().out == (
        "docs/speed.md:6: table speed.ways: found '| fast | 1.2 |', expected "
        "'| fast | 1.5 |'\n"
    )
    check_tables.main(["--root", str(tmp_path), "--write"])
    assert (tmp_path / "docs" / "speed.md").read_text() == PAGE
    assert "docs/speed.md: tables written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PAGE.replace("| slow | 20 |\n", ""), "speed.md:7: .* no line, expected '| s"),
        (PAGE.replace("20 |\n", "20 |\n| x | 3 |\n"), r"8: .* '\| x \| 3 \|', expec"),
        (PAGE.replace("speed.ways", "speed.way"), "speed.way: no such table of resul"),
        (PAGE.replace("speed.ways", "other.ways"), "other.ways: no such table"),
        (PAGE.replace("-->\n", "-->\n\n"), "speed.md:4: no table below the mark"),
        (PAGE + "<!-- no results: why -->\n", "no table below the mark 'why'"),
        (PAGE + "\n" + TABLE, "speed.md:11: a table with 2 numbers and no mark; put"),
        ("# Speed\n", "docs/results/speed.json: no page has the table speed.ways"),
    ],
)
def test_what_does_not_belong_together_is_said_with_its_line(
    tmp_path: Path, page: str, message: str
) -> None:
    """A table would be checked against nothing, and pass."""
    with pytest.raises(AssertionError, match=message):
        assert problems(clone(tmp_path, page=page)) == []


@pytest.mark.parametrize(
    "more",
    [
        f"<!-- no results: exit statuses -->\n{TABLE}",
        f"```text\n{TABLE}```\n",
        "| Key | For |\n|---|---|\n| `a1` | `2` |\n| [b](b.md#3) | 2 s |\n",
    ],
)
def test_tables_without_results_need_a_reason_only_if_they_have_numbers(
    tmp_path: Path, more: str
) -> None:
    """Every table of keys would need a mark, and marks would mean nothing."""
    assert problems(clone(tmp_path, page=f"{PAGE}\n{more}")) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected an object with version 1"),
        ({"date": "today"}, "date 'today', expected YYYY-MM-DD"),
        ({"date": ""}, "expected text"),
        ({"more": 1}, "unknown key 'more'"),
        ({"source": None}, "expected text"),
        ({"tables": {"t": {"columns": ["a"], "rows": [["b", "c"]]}}}, "row of 2 cells"),
        ('{"version": 1, "version": 1}', "a duplicate key"),
        ('{"version": NaN}', "NaN is not a number"),
        ("{", "not strict JSON"),
        ("[]", "expected an object"),
    ],
)
def test_results_that_are_not_in_the_form_are_refused(
    tmp_path: Path, change: dict[str, object] | str, message: str
) -> None:
    """Numbers without a date or a command would be kept."""
    path = tmp_path / "x.json"
    text = change if isinstance(change, str) else json.dumps({**STORED, **change})
    path.write_text(text)
    with pytest.raises(ShardError, match=message) as error:
        read_stored(path)
    assert str(path) in str(error.value)


TOOL = f"""
import sys
print("some words")
print({TABLE!r})
sys.exit(int(sys.argv[1]))
"""


def test_what_a_tool_prints_is_kept_with_command_date_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody could make the numbers again."""
    (tmp_path / "my_tool.py").write_text(TOOL)
    monkeypatch.chdir(tmp_path)
    folder = ["--folder", str(tmp_path)]
    keep_tables.main(["speed", "ways", *folder, "--", "my_tool", "0"])
    assert TABLE in capsys.readouterr().out
    stored = read_stored(tmp_path / "speed.json")
    assert (stored.command, stored.source) == ("python -m my_tool 0", "measured")
    assert {"python", "numpy", "torch"} <= set(stored.versions)
    assert stored.tables == STORED["tables"]
    with pytest.raises(ShardError, match="printed 1 tables, expected 2: a, b"):
        keep_tables.main(["other", "a", "b", *folder, "--", "my_tool", "0"])
    with pytest.raises(JobError, match="exit status 3"):
        keep_tables.main(["other", "a", *folder, "--", "my_tool", "3"])
    assert not (tmp_path / "other.json").exists()


def test_numbers_whose_raw_results_are_gone_say_so(tmp_path: Path) -> None:
    """A copy of the page would pass for a measurement of its own."""
    clone(tmp_path, stored={})
    words = ["--date", "2026-11-23", "--command", "by hand"]
    page, folder = tmp_path / "docs" / "speed.md", tmp_path / "docs" / "results"
    keep_tables.main(["speed", "--copy", str(page), *words, "--folder", str(folder)])
    stored = read_stored(folder / "speed.json")
    assert stored.source.startswith("copied from docs/speed.md; the raw results were")
    assert (stored.date, stored.command, stored.versions) == (*words[1::2], {})
    assert problems(tmp_path) == []
    with pytest.raises(ShardError, match="no table below a mark <!-- table: fast"):
        keep_tables.main(["fast", "--copy", str(page), *words, "--folder", str(folder)])


@pytest.mark.parametrize(
    "words",
    [
        ["speed"],
        ["speed", "ways"],
        ["speed", "--", "my_tool"],
        ["speed", "--copy", "a.md"],
        ["speed", "ways", "--copy", "a.md", "--date", "d", "--command", "c"],
    ],
)
def test_a_command_line_that_keeps_nothing_is_refused(words: list[str]) -> None:
    """A tool would run for an hour, and its tables be lost."""
    with pytest.raises(SystemExit) as end:
        keep_tables.main(words)
    assert end.value.code == 2


def test_tables_are_found_with_their_lines() -> None:
    """A difference would be reported elsewhere."""
    found = list(tables_of(PAGE))
    assert [(t.start, len(t.lines), t.results) for t in found] == [(3, 4, "speed.ways")]
