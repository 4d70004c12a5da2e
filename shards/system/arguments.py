"""The command lines: argparse, which names the flag that was meant."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator
from typing import NoReturn

_UNKNOWN = "unrecognized arguments: "


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says which flag an unknown one is near."""

    def error(self, message: str) -> NoReturn:
        """Print usage and ``message``, and exit with status 2."""
        words = message.removeprefix(_UNKNOWN).split()
        if message.startswith(_UNKNOWN) and words:
            flag = words[0].partition("=")[0]
            near = difflib.get_close_matches(flag, sorted(set(_flags(self))), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        super().error(message)


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _flags(below)
