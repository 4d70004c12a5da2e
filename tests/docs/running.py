"""Runs the blocks of a page one after the other, as a reader who copies them.

Owns what is run where: commands of ours in this process, since a new interpreter takes
seconds to import torch; blocks with anything else of a shell in bash; Python in one
namespace a page. What the prepared folder has where a command writes is taken away
first, so that the command does its work.

One thing differs from what is printed: psl.train gets SMALL words, behind our recipes
and before the page's own words, which therefore win. With a file of the reader's own,
such as my.yaml, it gets none: that is small itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests.docs.blocks import Block

ROOT = Path(__file__).parents[2]
SMALL_BATCH = ("global_batch_size=8",)
"""For psl.train, before everything: our recipes have their own."""
SMALL = ("epochs=2", "data.chunk_seconds=2", "loader.threads=1", "log_every=1")
"""For psl.train without a configuration of the reader's own: seconds, not hours."""
SMALL_MODEL = (
    *("model.width=0.25", "model.last_channels=32", "model.time_stride=16"),
    *("model.front_end.n_mels=32", "model.dropout=0"),
)
"""For the same, if the page chooses no model."""
_OUTPUTS = re.compile(r"(?:out|run_dir)=(.+)$")
_OUTPUT_FLAGS = ("--out", "--onnx", "--huggingface", "--safetensors")
_SHELL = re.compile(r"[;|&<>()$`*?~]")
"""What only a shell understands, outside of quotes."""
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\S+")
_STATUS = re.compile(r"\bexits with (\d+)")
"""In a comment after a command that is to end otherwise than with 0."""


@dataclass(frozen=True)
class Command:
    """A line of a block: ``psl ...`` or ``python -m ...``."""

    words: list[str]
    status: int
    """With which it is to end."""
    serves: bool
    """Whether it shows a page until Ctrl-C, as its comment says."""


@dataclass
class Reader:
    """Somebody who works through a page."""

    folder: Path
    """Their working folder, which is also the current one."""
    untouched: list[str]
    """Paths of the prepared folder that no command has written to."""
    names: dict[str, object] = field(default_factory=dict)
    """What the Python blocks have defined."""

    def run(self, block: Block) -> None:
        """Run one block; AssertionError if a command ends as it should not."""
        text = block.snippet.text
        if block.snippet.language == "python":
            source = "\n" * (block.snippet.line - 1) + text  # lines as on the page
            try:
                exec(compile(source, str(block.page), "exec"), self.names)
            except Exception as error:
                raise AssertionError(f"{block.place}: {error!r}") from error
            return
        commands = plain_commands(text)
        if commands is None:
            self._bash(text, block.place)
        for command in commands or []:
            self._command(command, block.place)

    def _command(self, command: Command, place: str) -> None:
        for output in outputs(command.words):
            self.take_away(output)
        words = smaller(command.words)
        with timed(f"{place}: {shlex.join(words)}"):
            status = serve(words) if command.serves else run_command(words)
        assert status == command.status, (
            f"{place}: {shlex.join(words)} ended with status {status}, expected "
            f"{command.status}; its messages are below"
        )

    def _bash(self, text: str, place: str) -> None:
        script = ["bash", "-euo", "pipefail", "-c", text]
        with timed(f"{place}: bash"):
            done = subprocess.run(script, capture_output=True, text=True, timeout=300)
        print(done.stdout, flush=True)
        assert done.returncode == 0, (
            f"{place}: status {done.returncode}\n{text}\n{done.stderr}"
        )

    def take_away(self, output: str) -> None:
        """Remove what was prepared at ``output``, which must be in the folder."""
        path = (self.folder / output).resolve()
        folder = self.folder.resolve()
        assert path.is_relative_to(folder) and path != folder, f"{output}: outside"
        name = path.relative_to(folder).as_posix()
        if name in self.untouched:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            below = f"{name}/"
            self.untouched = [
                other
                for other in self.untouched
                if other != name and not other.startswith(below)
            ]


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what is done, and how long it took, with its processes' processor time."""
    print(f"\n{what}", flush=True)
    begun = os.times()
    yield
    spent = [after - before for before, after in zip(begun, os.times(), strict=True)]
    print(f"[{spent[4]:.1f} s, of one core {sum(spent[:4]):.1f} s]", flush=True)


def plain_commands(text: str) -> list[Command] | None:
    """The commands of ours that a block is; None if it has anything else of a shell."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        code, _, comment = line.partition(" #")
        unquoted = re.sub(r"'[^']*'|\"[^\"$`]*\"", "", code)
        if _SHELL.search(unquoted) or "'" in unquoted or '"' in unquoted:
            return None
        words = shlex.split(line, comments=True)
        if words and words[0] != "psl" and words[:2] != ["python", "-m"]:
            return None
        status = _STATUS.search(comment)
        number = int(status.group(1)) if status else 0
        if words:
            commands.append(Command(words, number, serves="until Ctrl-C" in comment))
    return commands


def outputs(words: Sequence[str]) -> Iterator[str]:
    """The files and folders that a command of ours writes, as far as it names them.

    None for those that resume what is there: the last step of a packing that others
    began, downloads and reviews.
    """
    if "--merge" in words or words[:2] in (["psl", "download"], ["psl", "review"]):
        return
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if match := _OUTPUTS.match(word):
            yield match.group(1)
        if word in _OUTPUT_FLAGS:
            yield following


def smaller(words: Sequence[str]) -> list[str]:
    """The command with SMALL words, if it trains by no configuration of the reader."""
    words = list(words)
    if words[:3] != ["python", "-m", "psl.train"] and words[:2] != ["psl", "train"]:
        return words
    start = 3 if words[0] == "python" else 2
    files = [word for word in words[start:] if word.endswith(".yaml")]
    if any(not (ROOT / file).is_file() for file in files):
        return words
    after = start + len(files)
    chosen = any(word.startswith("model.name=") for word in words)
    small = SMALL if chosen else (*SMALL, *SMALL_MODEL)
    return [*words[:start], *SMALL_BATCH, *files, *small, *words[after:]]


def run_command(words: Sequence[str]) -> int:
    """Run ``python -m MODULE ...`` or ``psl ...`` in this process; its exit status."""
    is_psl = words[0] == "psl"
    module, rest = ("psl", words[1:]) if is_psl else (words[2], words[3:])
    argv = ["psl" if is_psl else module, *rest]
    with mock.patch.object(sys, "argv", argv), warnings.catch_warnings():
        # that it is imported already
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=not is_psl)
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            print(end.code, file=sys.stderr)
            return 1
    return 0


def serve(words: Sequence[str]) -> int:
    """Start ``psl ...``, open the page whose address it prints, and press Ctrl-C.

    Its exit status; AssertionError if it prints no address, or no page is there.
    """
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        found = (match.group() for line in lines if (match := _ADDRESS.search(line)))
        address = next(found, None)
        assert address is not None, f"{shlex.join(words)}: no address"
        with urllib.request.urlopen(address, timeout=30) as reply:
            assert b"<html" in reply.read()
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=60)
    finally:
        process.kill()
        process.communicate()


def environment(folder: Path) -> dict[str, str]:
    """What commands and bash find: our programs, our code, and no one's home."""
    programs = Path(sys.executable).parent
    return {
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "OMP_NUM_THREADS": "1",
        "BROWSER": "true",  # a program that ignores the address it is to open
    }
