"""psl.init: the files of configs/ and launch/ for those without a clone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from psl import init
from tests.learning import REPOSITORY


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for top in ("configs", "launch")
        for path in (folder / top).rglob("*")
        if path.is_file()
    }


def test_all_files_are_written_once_and_an_interrupted_start_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever installed the wheel would have no recipe of the paper."""
    init.main([str(tmp_path / "mine")])
    assert contents(tmp_path / "mine") == contents(REPOSITORY)
    assert os.access(tmp_path / "mine/launch/slurm/train.sbatch", os.X_OK)
    (tmp_path / "mine/configs/mini/base.yaml").unlink()
    capsys.readouterr()
    init.main([str(tmp_path / "mine")])
    assert "wrote 1 of " in capsys.readouterr().out
    assert contents(tmp_path / "mine") == contents(REPOSITORY)


def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path: Path) -> None:
    """A user's own recipe would be lost."""
    mine = tmp_path / "configs" / "mini" / "psl_2s.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("epochs: 3\n")
    with pytest.raises(ValueError, match=r"mini/psl_2s\.yaml: there already"):
        init.main([str(tmp_path)])
    assert contents(tmp_path) == {"configs/mini/psl_2s.yaml": b"epochs: 3\n"}


@pytest.mark.parametrize("kind", ["file", "dangling link", "pipe", "folder"])
def test_what_is_in_the_way_is_named(tmp_path: Path, kind: str) -> None:
    """Nothing would be said, half would be written, or it would wait for ever."""
    if kind == "file":
        (tmp_path / "launch").write_text("")
    elif kind == "dangling link":
        (tmp_path / "launch").symlink_to(tmp_path / "nowhere")
    else:
        place = tmp_path / "launch" / "slurm" / "train.sbatch"
        place.parent.mkdir(parents=True)
        (os.mkfifo if kind == "pipe" else os.mkdir)(place)
    with pytest.raises(ValueError, match="launch.*: there already"):
        init.main([str(tmp_path)])
    assert not (tmp_path / "configs").exists()
