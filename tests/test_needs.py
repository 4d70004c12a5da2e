"""What a machine lacks is skipped and said, and in CI an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs, without_programs
from tests.learning import REPOSITORY

TITLE = "not tested on this machine"
NEEDING = """
import pytest
from tests.needs import needs, program

@needs("nginx")
def test_a():
    program("nginx")

@pytest.mark.parametrize("name", ["git", pytest.param("nginx", marks=needs("nginx"))])
def test_b(name):
    assert name == "git"

@pytest.fixture(scope="module")
def cluster():
    raise AssertionError("begun for a test that is skipped")

@needs("slurm")
def test_c(cluster): ...
"""
"""One test can run without programs; two need nginx and one SLURM."""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests say themselves what is hidden."""
    monkeypatch.delenv("PSL_CI", raising=False)
    monkeypatch.delenv("PSL_HIDE", raising=False)


def run_tests(
    folder: Path, text: str, *words: str, **variables: str
) -> tuple[int, str]:
    """Exit status and output of pytest on a file with ``text``, with our conftest."""
    file = folder / "test_it.py"
    file.write_text(text)
    ours = [sys.executable, "-m", "pytest", "-c", "setup.cfg", "-p", "tests.conftest"]
    done = subprocess.run(
        [*ours, *words, str(file)],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words", [[], ["-n", "1"]])
def test_each_missing_kind_is_one_line_with_a_count_and_what_to_install(
    tmp_path: Path, words: list[str]
) -> None:
    """A newcomer's first run would fail, or hide that a part was not tried."""
    status, output = run_tests(tmp_path, NEEDING, *words, PSL_HIDE="all")
    assert status == 0 and "1 passed, 3 skipped" in output, output
    assert output.count(TITLE) == 1
    lines = output.partition(TITLE)[2].splitlines()
    assert lines[1:3] == [
        "2 tests need nginx: no nginx here (on Debian: apt-get install nginx)",
        "1 test needs SLURM: no munged, slurmctld, slurmd, sbatch, scontrol, scancel "
        "here (on Debian: apt-get install slurm-wlm munge); run as root",
    ]


def test_in_ci_what_is_missing_is_an_error(tmp_path: Path) -> None:
    """CI would be green without having tried what only it has."""
    status, output = run_tests(tmp_path, NEEDING, PSL_HIDE="all", PSL_CI="1")
    assert status == 1 and "1 passed, 3 errors" in output, output
    assert "needs nginx: no nginx here" in output and TITLE not in output


def test_in_ci_a_test_skipped_for_another_reason_fails_the_run(tmp_path: Path) -> None:
    """A package that fell out of the environment would take its tests with it."""
    text = "import pytest\ndef test_a():\n    pytest.importorskip('no_such')\n"
    status, output = run_tests(tmp_path, text, "-n", "1", PSL_CI="1")
    assert status == 1 and "1 skipped: could not import 'no_such'" in output, output
    assert run_tests(tmp_path, text)[0] == 0


def test_in_ci_files_that_nothing_installs_may_be_missing(tmp_path: Path) -> None:
    """CI of a clone alone would fail for weights that the project does not ship."""
    text = "import pytest\ndef test_a(): pytest.skip('optional: no such weights')\n"
    text += "def test_b(): pass\n"
    status, output = run_tests(tmp_path, text, PSL_CI="1")
    assert status == 0 and "1 skipped: optional: no such weights" in output, output
    assert "this is an error" not in output


def test_a_hidden_program_cannot_be_started_by_a_test_that_did_not_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test without its mark would pass in CI, and fail on a newcomer's machine."""
    (tmp_path / "nginx").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PSL_HIDE", "slurm")
    assert needs.program("nginx") == str(tmp_path / "nginx")
    monkeypatch.setenv("PSL_HIDE", "slurm,nginx")
    with pytest.raises(
        FileNotFoundError, match="nginx: not on this machine, or in PSL"
    ):
        needs.program("nginx")


def test_programs_of_an_administrator_are_found_without_a_path_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An ordinary user's PATH has no /usr/sbin, where Debian has nginx and ip."""
    monkeypatch.setenv("PATH", "/home/me/bin")
    assert needs.search_path() == "/home/me/bin:/usr/sbin:/sbin"


def test_what_only_root_can_use_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user would be told to install what is there, or see failures."""
    (tmp_path / "ip").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PSL_HIDE", "root")
    assert needs.missing("netns") == "run as root"


def test_a_machine_that_forbids_namespaces_is_told_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root in a container would see failures that are no fault of the code."""
    script = '#!/bin/sh\necho "mount: Operation not permitted" >&2\nexit 255\n'
    (tmp_path / "ip").write_text(script)
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = needs.try_namespaces()
    assert problem is not None
    assert "netns add" in problem and "'mount: Operation not permitted'" in problem


def test_a_kind_that_is_not_on_the_list_is_an_error_that_has_the_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A typing error would skip a test for ever, or hide nothing."""
    with pytest.raises(ValueError, match="'ngnix'.*: expected one of nginx, slurm, n"):
        needs.needs("ngnix")
    monkeypatch.setenv("PSL_HIDE", "nginx,slrum")
    with pytest.raises(ValueError, match="PSL_HIDE: found slrum; expected all, or som"):
        needs.missing("nginx")


def test_the_packages_can_be_listed_before_anything_is_installed() -> None:
    """Make ci could not install them. -I -S: without any package, pytest included."""
    command = [sys.executable, "-I", "-S", str(REPOSITORY / "tests" / "needs.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "nginx slurm-wlm munge iproute2 chromium\n"


def test_the_run_without_programs_has_the_right_files_and_misses_no_line() -> None:
    """CI would try a newcomer's machine on the wrong files, or not notice silence."""
    names = {path.name for path in without_programs.files()}
    assert names >= {"test_remote.py", "test_slurm.py", "test_two_machines.py"}
    lines = ["3 tests need nginx: x", "1 test needs SLURM: y"]
    web = "onnxruntime-web in a browser"
    trackers = "W&B, MLflow and trackio"
    missing = ["network namespaces", "a browser", web, trackers]
    assert without_programs.unnamed("\n".join(lines)) == missing
    lines += ["2 tests need network namespaces: z", "1 test needs a browser: z"]
    lines += [f"1 test needs {web}: z", f"3 tests need {trackers}: z"]
    assert without_programs.unnamed("\n".join(lines)) == []
    assert without_programs.unnamed("\n".join([*lines, lines[0]])) == ["nginx"]
