"""Runs the tests that can start programs as on a machine that has none of them.

python -m tests.without_programs [WORDS FOR PYTEST]: fails if a test fails, or if the
summary does not name each missing kind. The files are those that import a module which
starts programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.needs import KINDS

_IMPORT = re.compile(r"^(from|import) .*\b(needs|servers|slurm)\b", re.MULTILINE)


def files() -> list[Path]:
    """The test files that can start programs."""
    paths = sorted(Path(__file__).parent.rglob("test_*.py"))
    return [path for path in paths if _IMPORT.search(path.read_text())]


def run_hidden(*words: str) -> tuple[int, str]:
    """Exit status and output of pytest, which is also printed as it comes."""
    environment = {k: v for k, v in os.environ.items() if k != "PSL_CI"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words, *map(str, files())],
        stdout=subprocess.PIPE,
        text=True,
        env={**environment, "PSL_HIDE": "all"},
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return process.wait(), "".join(lines)


def unnamed(output: str) -> list[str]:
    """The kinds without a line of their own in the summary."""
    names = [need.what for need in KINDS.values()]
    line = r"^\d+ tests? needs? {}: .+"
    return [n for n in names if len(re.findall(line.format(n), output, re.M)) != 1]


def main() -> None:
    """Exit with 1 if anything is wrong."""
    status, output = run_hidden(*sys.argv[1:])
    if missing := unnamed(output):
        print(
            f"tests.without_programs: expected one summary line for each of "
            f"{', '.join(missing)}; see tests/needs.py"
        )
    sys.exit(1 if status or missing else 0)


if __name__ == "__main__":
    main()
