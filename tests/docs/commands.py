"""The commands that the documentation shows: their modules, flags and keys.

Owns how a shell block is cut into commands, and what each must satisfy.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from pydantic import TypeAdapter, ValidationError

from psl.__main__ import COMMANDS
from psl.config import keys_of
from psl.config_values import read_words

CONFIGS = {
    "psl.train": "TrainConfig",
    "psl.dry_run": "DryRunConfig",
    "psl.label": "LabelConfig",
    "psl.evaluate": "EvaluateConfig",
    "psl.events": "EventsConfig",
    "psl.average": "AverageConfig",
    "psl.calibrate": "CalibrateConfig",
    "psl.reorder_labels": "ReorderConfig",
    "psl.import_labels": "ImportConfig",
}
"""Commands of ``key=value`` words, and the dataclass of each, found in its module."""
SCRIPTS = {
    "launch/slurm/train.sbatch": "psl.train",
    "launch/slurm/label_array.sbatch": "psl.label",
    "launch/slurm/pack_array.sbatch": "shards.pack",
}
"""sbatch files, and the command that takes the words after them."""
PARTS = {
    ("tools.paper.reproduce", "real"): "tools.paper.real",
    ("tools.paper.reproduce", "events"): "tools.paper.mini_events",
}
"""A module and a first word, and the module that takes the words after."""
_OURS = re.compile(r"(psl|shards|tools|tests)(\.\w+)*$")
_END = {";", "&&", "||", "|", "&", "(", ")"}


def commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script; comments are left out."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        try:
            for word in lexer:
                if word in _END:
                    yield words
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a quote that another line closes
            words = line.split()
        yield words


def problems(words: Sequence[str], root: Path) -> Iterator[str]:
    """What is wrong with a command, one phrase each; nothing for other programs."""
    words = list(words)
    program, first = (words + ["", ""])[:2]
    if re.match("[a-z]", first):  # else a placeholder, a variable or a flag
        if program == "psl" and first not in COMMANDS:
            yield f"no command psl {first}"
        if program == "make" and not is_target(first, root):
            yield f"no target {first} in the Makefile"
    module, rest = _module(words)
    if module is None:
        return
    module = PARTS.get((module, rest[0]), module) if rest else module
    if not exists(module):
        yield f"no module {module}"
        return
    flags = [word.split("=")[0] for word in rest if re.match("--[a-z]", word)]
    for flag in flags:
        if flag not in help_of(module).split():
            yield f"{module} has no flag {flag}"
    if module in CONFIGS and not set(flags) & {"--status", "--help"}:
        for problem in key_problems(module, rest, root):
            yield f"{module}: {problem}"


def _module(words: list[str]) -> tuple[str | None, list[str]]:
    """The module of ours that a command runs, and the words for it."""
    for place, word in enumerate(words):
        if word in SCRIPTS:
            return SCRIPTS[word], words[place + 1 :]
        if word == "-m" and place + 1 < len(words) and _OURS.match(words[place + 1]):
            return words[place + 1], words[place + 2 :]
    if words[:1] == ["psl"] and words[1:] and words[1] in COMMANDS:
        return COMMANDS[words[1]][0], words[2:]
    return None, []


def is_target(name: str, root: Path) -> bool:
    """Whether the Makefile has a rule of that name."""
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE) is not None


def exists(module: str) -> bool:
    """Whether ``python -m module`` finds something."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False


@functools.cache
def help_of(module: str) -> str:
    """What ``python -m module --help`` prints, all but words and dashes as blanks."""
    text = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [module, "--help"]),
        warnings.catch_warnings(action="ignore"),  # that it is imported already
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return re.sub(r"[^\w-]", " ", text.getvalue())


@functools.cache
def config_of(module: str) -> Any:
    """The configuration dataclass of a command."""
    return getattr(importlib.import_module(module), CONFIGS[module])


def known_keys() -> set[str]:
    """Every key of every command, and the sections above them."""
    keys = {key.name for module in CONFIGS for key in keys_of(config_of(module))}
    sections = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    return keys | sections


def key_problems(module: str, words: Sequence[str], root: Path) -> Iterator[str]:
    """Keys that the configuration does not have, and values that it refuses.

    Missing keys count only where nothing is left out of the command: no ``...`` and no
    YAML file of the reader's own.
    """
    words = [word for word in words if not word.startswith("-")]
    ours = [word for word in words if "=" in word or (root / word).is_file()]
    files = [word if "=" in word else str(root / word) for word in ours]
    values = read_words(files, config_of(module))
    yield from value_problems(module, values, is_partial=len(ours) < len(words))


def value_problems(
    module: str, values: dict[str, Any], *, is_partial: bool
) -> Iterator[str]:
    """What the configuration of ``module`` refuses in ``values``, except "0123..."."""
    try:
        TypeAdapter(config_of(module)).validate_python(values)
    except ValidationError as error:
        for detail in error.errors():
            is_left_out = is_partial and detail["type"] == "missing"
            if not is_left_out and "..." not in str(detail["input"]):
                key = ".".join(map(str, detail["loc"]))
                yield f"{key}: {detail['msg']}"


def yaml_problems(text: str) -> list[str]:
    """Why no command takes a part of a configuration; empty if one does."""
    values = yaml.safe_load(text)
    found = [list(value_problems(m, values, is_partial=True)) for m in CONFIGS]
    return min(found, key=len)
