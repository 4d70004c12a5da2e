"""What users get with pip."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.learning import REPOSITORY


def test_the_wheel_holds_psl_and_shards_only(tmp_path: Path) -> None:
    """`pip install .` would put folders named tests or tools into site-packages."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("psl", "shards", "tests", "tools", "configs", "launch"):
        shutil.copytree(REPOSITORY / name, copy / name)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w"]
    command += [str(tmp_path), "--no-build-isolation", str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert {f for f in folders if not f.endswith(".dist-info")} == {"psl", "shards"}
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for top in ("psl", "shards")
        for path in (REPOSITORY / top).rglob("*.py")
    }
    assert modules <= set(names)  # a package that setup.cfg forgets
    assert {"psl/py.typed", "shards/py.typed"} <= set(names)
    page = {"psl/reporting/page.css", "psl/reporting/page.js"}
    recipes = {
        f"psl/recipes/{path.relative_to(REPOSITORY).as_posix()}"
        for top in ("configs", "launch")
        for path in (REPOSITORY / top).rglob("*")
        if path.is_file()
    }
    assert page | recipes <= set(names)  # what psl report and psl init need


def test_pre_commit_formats_as_ci_does() -> None:
    """A commit would pass its hook and fail in CI, or the other way round."""
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    pinned = re.search(
        r"^ruff==.*$", (REPOSITORY / "constraints.txt").read_text(), re.M
    )
    assert pinned is not None
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == {pinned.group()}
