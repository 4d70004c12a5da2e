"""The site that ``make docs`` builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\s\">]+)")
_LINKED = re.compile(r"<link[^>]*\shref=\"?([^\s\">]+)")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the site is made of, for its builder to work in."""
    if find_spec("zensical") is None:
        reason = "no zensical; pip install -e '.[docs]'"
        assert "PSL_CI" not in os.environ, reason
        pytest.skip(reason)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("zensical.toml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command of ``make docs``, in ``folder``."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_every_page_is_built_and_loads_nothing_from_elsewhere(copy: Path) -> None:
    """Readers without a network would wait for fonts, and others be tracked by them."""
    result = build(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {path.stem for path in (copy / "docs").glob("*.md")}
    built = {path.stem: path.read_text() for path in (copy / "site").glob("*.html")}
    assert pages < set(built)
    for name, text in built.items():
        loaded = _LOADED.findall(text) + _LINKED.findall(text)
        assert any(path.endswith(".css") for path in loaded)
        assert any(path.endswith(".js") for path in loaded)
        assert [path for path in loaded if re.match(r"\w+:|//", path)] == [], name


def test_pages_of_other_files_hold_their_text(copy: Path) -> None:
    """The site would show an empty page where CONTRIBUTING and CHANGELOG should be."""
    assert build(copy).returncode == 0
    for name in ("contributing", "changelog"):
        text = (copy / "site" / f"{name}.html").read_text()
        first = (copy / f"{name.upper()}.md").read_text().splitlines()[0]
        assert f">{first.removeprefix('# ')}<a" in text


@pytest.mark.parametrize("link", ["nowhere.md", "best.md#nowhere"])
def test_a_broken_link_fails_the_build(copy: Path, link: str) -> None:
    """A link that leads nowhere would be published."""
    with (copy / "docs" / "method.md").open("a") as page:
        page.write(f"\n[a link]({link})\n")
    result = build(copy)
    assert result.returncode != 0
    assert "method.md" in result.stdout + result.stderr
