"""What the pages say about the repository, compared with the repository.

Owns one check for each kind of claim: commands, keys, paths, names, tests, blocks of
Python and JSON, and links. Each gives problems as "page:line: what is wrong".
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.docs import commands
from tests.docs.pages import Page, read_pages

FOLDERS = (
    ".ci",
    ".github",
    "configs",
    "docs",
    "launch",
    "psl",
    "shards",
    "tests",
    "tools",
)
"""Where a path that a page names must exist; others are the reader's."""
NOT_KEYS = {"key", "num_workers"}
"""Placeholders, and words of other libraries that look like ``key=value``."""
_FILE_TYPES = (".json", ".md", ".npz", ".py", ".safetensors", ".yaml")
_PATH = re.compile(rf"(?<![\w/.])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*")
_NAME = re.compile(r"(psl|shards|tools|tests)(\.\w+)+$")
_KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)(\.\*|=[^(]*)?$")
_TESTS = re.compile(r"`(test_\w+)`(?:: ([\w, ]+))?")


def check(page: Page, root: Path) -> list[str]:
    """Every problem of a page of the repository ``root``."""
    checks = (of_commands, of_keys, of_paths, of_names, of_tests, of_blocks, of_links)
    found = [problem for of_kind in checks for problem in of_kind(page, root)]
    return [f"{page.path}:{line}: {text}" for line, text in sorted(found)]


def of_commands(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Commands whose module, flag, key, value or target does not exist."""
    shells = [block for block in page.blocks() if block.language == "sh"]
    parts = [replace(part, text=f"{part.text} ...") for part in page.inline()]
    for snippet in [*shells, *parts]:
        for words in commands.commands(snippet.text):
            for problem in commands.problems(words, root):
                yield snippet.line, problem


def of_keys(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Keys in inline code and YAML blocks that no configuration has."""
    keys = commands.known_keys()
    sections = {key.split(".")[0] for key in keys if "." in key}
    for snippet in page.inline():
        if snippet.text.startswith(("python ", "psl ", "make ", "pip ")):
            continue
        for word in re.sub(r"\(.*?\)", "()", snippet.text).split():
            match = _KEY.match(word)
            if match is None or word.endswith(_FILE_TYPES):
                continue
            key, rest = match.group(1), match.group(2)
            is_claim = key.split(".")[0] in sections if "." in key else rest is not None
            if is_claim and key not in keys | NOT_KEYS:
                yield snippet.line, f"no key {key}"
    for block in page.blocks():
        if block.language == "yaml":
            for problem in commands.yaml_problems(block.text):
                yield block.line, problem


def of_paths(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Paths into the repository that do not exist; ROW and * stand for any name."""
    for snippet in [*page.blocks(), *page.inline()]:
        for path in _PATH.findall(snippet.text):
            pattern = re.sub(r"\b[A-Z]+\b", "*", path).rstrip("./")
            if "..." not in path and not any(root.glob(pattern)):
                yield snippet.line, f"no {path}"


def of_names(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Dotted names of modules, functions and classes that cannot be imported."""
    for snippet in page.inline():
        name = snippet.text.split("(")[0]
        if _NAME.match(name) and not _resolves(name):
            yield snippet.line, f"no {name}"


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if commands.exists(module):
            if length == len(parts):
                return True
            inner = importlib.import_module(module)
            return length == len(parts) - 1 and hasattr(inner, parts[-1])
    return False


def of_tests(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Tests that a page names, `` `test_file`: part of a name, another ``."""
    for number, line in enumerate(page.text.splitlines(), 1):
        for file, names in _TESTS.findall(line):
            paths = [*root.glob(f"tests/**/{file}.py")]
            if not paths:
                yield number, f"no {file}.py in tests"
                continue
            defined = re.findall(r"def (test_\w+)", paths[0].read_text())
            for name in names.replace(",", " ").split():
                if not any(name in test for test in defined):
                    yield number, f"no test in {file} has {name} in its name"


def of_blocks(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Python blocks that do not compile, and JSON that does not parse."""
    for block in page.blocks():
        if block.language == "json":
            try:
                json.loads(block.text)
            except ValueError as error:
                yield block.line, f"JSON: {error}"
        if block.language == "python":
            try:
                compile(block.text, str(page.path), "exec")
            except SyntaxError as error:
                yield block.line + (error.lineno or 1) - 1, f"Python: {error.msg}"


def of_links(page: Page, root: Path) -> Iterator[tuple[int, str]]:
    """Links to files and headings that do not exist."""
    pages = {(root / other.path).resolve(): other for other in read_pages(root)}
    for link in page.links():
        if re.match(r"\w+:", link.text):
            continue
        name, _, anchor = link.text.partition("#")
        path = (root / page.path.parent / name if name else root / page.path).resolve()
        if not path.exists():
            yield link.line, f"link to {link.text}: no such file"
        elif anchor and anchor not in pages[path].anchors(root):
            yield link.line, f"link to {link.text}: no such heading"
