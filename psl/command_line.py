"""The command line of a command that is configured: ``[CONFIG.yaml] [key=value ...]``.

Owns --help, --print-config and the answer to a wrong flag.
"""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psl.config import Key, keys_of, parse, to_yaml
from psl.config_values import read_words
from psl.distributed.environment import rank_and_world_size
from shards import __version__
from shards.system import log
from shards.system.exits import EXIT_DONE, EXIT_USAGE, typed_name

_log = logging.getLogger(__name__)

T = TypeVar("T")

WIDTH = 86
HELP = ("--help", "-h")
PRINT_CONFIG = "--print-config"
JSON = "--json"


@dataclass(frozen=True)
class Command:
    """What --help says of a command."""

    module: str
    """The module that ``python -m`` runs."""
    purpose: str
    example: str
    """The words of an example."""
    first: Sequence[str]
    """The keys that people set first; --help all shows the others, too."""
    has_json: bool = False
    """Whether --json makes it print JSON."""

    def wants_json(self, argv: Sequence[str] | None) -> bool:
        """Whether the words ``argv`` (None: of this process) ask for JSON."""
        return self.has_json and JSON in (sys.argv[1:] if argv is None else argv)


def from_command_line(cls: type[T], argv: Sequence[str] | None, command: Command) -> T:
    """The configuration of class ``cls`` that the words ``argv`` ask for.

    None stands for those of this process. ``--print-config`` shows the configuration
    with all defaults and exits; ``--help`` shows the keys.
    """
    rank, world_size = rank_and_world_size()
    log.set_up(f"[rank {rank}] " if world_size > 1 else "")
    words = list(sys.argv[1:] if argv is None else argv)
    if command.has_json:
        words = [word for word in words if word != JSON]
    _log.debug("psl %s, %s, words %s", __version__, command.module, words)
    name = typed_name(command.module)
    if any(word in HELP for word in words):
        print(render_help(cls, command, everything="all" in words))
        sys.exit(EXIT_DONE)
    flags = [word for word in words if word.startswith("-") and word != PRINT_CONFIG]
    if flags:
        print(
            f"{_usage(name, command)}\n{name}: error: {_about_flag(flags[0])}",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    given = [word for word in words if word != PRINT_CONFIG]
    config = parse(cls, read_words(given, cls), where=name)
    if PRINT_CONFIG in words:
        print(to_yaml(config), end="")
        sys.exit(EXIT_DONE)
    return config


def _usage(name: str, command: Command) -> str:
    json = f"[{JSON}] " if command.has_json else ""
    return (
        f"usage: {name} [CONFIG.yaml ...] [key=value ...] {json}[{PRINT_CONFIG}] "
        f"[{HELP[0]} [all]]"
    )


def _about_flag(flag: str) -> str:
    key = flag.lstrip("-") + ("" if "=" in flag else "=...")
    return f"unknown flag {flag}; did you mean {key}, without dashes?"


def render_help(cls: type, command: Command, *, everything: bool) -> str:
    """The text of ``--help``, or of ``--help all`` for ``everything``."""
    name = typed_name(command.module)
    keys = list(keys_of(cls))
    if everything:
        body = "\n\n".join(_sections(keys))
    else:
        known = {key.name: key for key in keys}
        first = [known[name] for name in command.first]
        body = "keys that are set first:\n" + _listed(first)
        body += f"\n\n{len(keys) - len(first)} more keys: {name} {HELP[0]} all"
    about = textwrap.fill(
        "A YAML file holds keys and values, and a later word overrides an earlier one. "
        f"{PRINT_CONFIG} shows the configuration with all defaults, and does nothing.",
        WIDTH,
        break_on_hyphens=False,
    )
    purpose = textwrap.fill(command.purpose, WIDTH)
    example = f"example:\n  {name} {command.example}"
    if command.has_json:
        about += f"\n{JSON} prints the results as one line of JSON."
    return "\n\n".join((_usage(name, command), purpose, about, body, example))


def _sections(keys: Sequence[Key]) -> Iterator[str]:
    """The keys without a dot, then those of each section."""
    sections: dict[str, list[Key]] = {"": []}
    for key in keys:
        section = key.name.rpartition(".")[0].partition(".")[0]
        sections.setdefault(section, []).append(key)
    for section, inside in sections.items():
        yield (f"{section}:\n" if section else "keys:\n") + _listed(inside)


def _listed(keys: Iterable[Key]) -> str:
    return "\n".join(
        textwrap.fill(
            f"{key.name}: {described(key)}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
        for key in keys
    )


def described(key: Key) -> str:
    """The text of a key; one that only some components have says which."""
    return key.text if key.kind is None else f"[{key.kind}] {key.text}"
