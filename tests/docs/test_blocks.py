"""Every block of code of the pages is run, or says why it is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs import world
from tests.docs.blocks import RUN, Block, blocks_of, problems
from tests.docs.pages import Page, Snippet, read_pages
from tests.docs.running import ROOT, Reader, environment

PAGES = read_pages(ROOT)


def to_run(page: Page) -> list[Block]:
    """The blocks of a page that a reader can run here."""
    blocks = blocks_of(page)
    return [b for b in blocks if b.reason is None and b.snippet.language in RUN]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers have when they begin; not to be changed."""
    folder = tmp_path_factory.mktemp("pages") / "prepared"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        return world.build(folder)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if to_run(p)], ids=lambda p: str(p.path)
)
def test_the_blocks_of_a_page_run_from_top_to_bottom(
    page: Page, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers would copy a command, and get an error."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    monkeypatch.chdir(folder)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    reader = Reader(folder, untouched=paths)
    for block in to_run(page):
        reader.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.path))
def test_every_fence_is_of_a_known_language_and_every_marker_has_a_block(
    page: Page,
) -> None:
    """A block that no test runs, and that does not say so, could be wrong for years."""
    found = list(problems(page, ROOT))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```rust\nx\n```", "2: fence of 'rust'"),
        ("```\nx\n```", "2: fence of 'no language'"),
        ("~~~\nx\n~~~", "1: a fence that is not read"),
        ("- one\n  ```sh\n  x\n  ```", "2: a fence that is not read"),
        ("```sh title=x\nx\n```", "1: a fence that is not read"),
        ("```sh\nx\n", "1: a fence that is not read"),
        ("<!-- not run: -->\n```sh\nx\n```", " 1 markers and 0 marked"),
        ("<!-- not run -->\n```sh\nx\n```", " 1 markers and 0 marked"),
        ("<!-- Not run: no GPU -->\n```sh\nx\n```", " 1 markers and 0 marked"),
        ("<!-- not run: no GPU -->\n\n```sh\nx\n```", " 1 markers and 0 marked"),
        ("<!-- not run: no GPU -->\ntext", " 1 markers and 0 marked"),
        ("<!-- not run: no GPU -->\n```text\nx\n```", "3: marked, but text is never"),
        ("<!-- not run: slow; test_nothing -->\n```sh\nx\n```", "3: its marker names"),
        ("```sh\nls\npip install x\n```", "2: 'pip install x' would change"),
    ],
)
def test_a_fence_or_marker_that_would_hide_a_block_is_found(
    text: str, problem: str
) -> None:
    """A typo in a marker or a fence would switch off the test of its block."""
    found = list(problems(Page(Path("a.md"), f"{text}\n"), ROOT))
    assert found and found[0].startswith(f"a.md:{problem}")


def block(text: str, language: str = "sh") -> Block:
    """A block of a page, in its third line."""
    return Block(Path("a.md"), Snippet(text, 3, language), None)


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        (
            "sh",
            "psl status nowhere",
            r"a.md:3: psl status nowhere ended with status 1",
        ),
        ("sh", "psl  # until Ctrl-C", "psl: no address"),
        ("sh", "psl", None),
        ("sh", "", None),
        ("sh", "# only a comment", None),
        ("sh", "psl --help   # exits with 3", "ended with status 0, expected 3"),
        ("sh", "psl | cat; false", "a.md:3: status 1"),
        ("sh", "ls nowhere", "a.md:3: status 2"),
        ("sh", "psl tag x --out ../elsewhere", "../elsewhere: outside"),
        ("sh", "psl tag x --out .", ".: outside"),
        ("python", "x = 1\nx.y", "a.md:3: AttributeError"),
    ],
)
def test_a_block_that_fails_is_told_with_its_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
    text: str,
    error: str | None,
) -> None:
    """The tests above could pass whatever the blocks do, or harm what is not theirs."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    reader = Reader(tmp_path, untouched=[])
    if error is None:
        reader.run(block(text, language))
    else:
        with pytest.raises(AssertionError, match=error):
            reader.run(block(text, language))


def test_only_what_was_prepared_is_taken_away_and_only_once(tmp_path: Path) -> None:
    """A page's second command would lose what its first made."""
    (tmp_path / "data").mkdir()
    for name in ("data/train", "data/trainer"):
        (tmp_path / name).write_text("prepared")
    reader = Reader(tmp_path, untouched=["data", "data/train", "data/trainer"])
    reader.take_away("data/train")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["trainer"]
    (tmp_path / "data/train").write_text("made by the page")
    reader.take_away("data/train")
    assert (tmp_path / "data/train").read_text() == "made by the page"
