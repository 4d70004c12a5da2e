"""Flags that do not exist."""

from __future__ import annotations

import pytest

from shards.system.arguments import Parser


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--tresholds=x"], "unrecognized arguments: --tresholds=x; did you mean --th"),
        (["--thresold=0.5"], "did you mean --threshold?"),
        (["below", "--filee"], "did you mean --file?"),
        (["--zzz"], "unrecognized arguments: --zzz\n"),
    ],
)
def test_an_unknown_flag_names_the_one_that_was_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who mistypes reads through all of --help."""
    parser = Parser(prog="psl x", allow_abbrev=False)
    parser.add_argument("--thresholds")
    parser.add_argument("--threshold")
    parser.add_subparsers().add_parser("below").add_argument("--file")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert ended.value.code == 2
    assert meant in capsys.readouterr().err
