"""Messages of commands: where they go, which are shown, and who speaks."""

from __future__ import annotations

import logging
import sys

import pytest
from tqdm import tqdm

from psl import evaluate
from shards.system import log
from tests.conftest import Run


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["fine", "news", "trouble"]),
        ("INFO", ["news", "trouble"]),
        (None, ["news", "trouble"]),
        ("warning", ["trouble"]),
    ],
)
def test_messages_of_the_asked_level_and_above_go_to_stderr(
    level: str | None,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pipe that reads results would read messages, or a log be too long."""
    monkeypatch.delenv("PSL_LOG", raising=False)
    if level is not None:
        monkeypatch.setenv("PSL_LOG", level)
    log.set_up("[rank 1] ")
    for package in ("psl", "shards"):
        logger = logging.getLogger(f"{package}.some.module")
        logger.debug("fine")
        logger.info("news")
        logger.warning("trouble %d %s", 1, "%")
    log.set_up()
    out, err = capsys.readouterr()
    texts = ["[rank 1] " + text.replace("trouble", "trouble 1 %") for text in shown]
    assert out == "" and err.splitlines() == 2 * texts


def test_a_message_does_not_break_a_progress_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It would be glued to the end of the bar's line."""
    log.set_up()
    with tqdm(total=2, file=sys.stderr) as bar:
        bar.update()
        logging.getLogger("psl.test").warning("trouble")
    assert "trouble" in capsys.readouterr().err.replace("\r", "\n").splitlines()


def test_an_unknown_level_is_refused(run: Run) -> None:
    """Messages that were asked for would be missing."""
    result = run("shards.info", "nowhere", PSL_LOG="loud")
    assert result.returncode == 78
    expected = "error: PSL_LOG=loud: expected one of debug, info, warning\n"
    assert result.stderr == expected


def test_the_ranks_of_a_job_say_who_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of many processes speaks could not be told."""
    monkeypatch.setenv("PSL_LOG", "debug")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="is missing"):
        evaluate.main(["out=x"])
    assert capsys.readouterr().err.startswith("[rank 3] psl ")
    log.set_up()
