"""Messages of commands: ``logging`` on stderr, at the level of PSL_LOG.

Owns the handler of the loggers ``psl`` and ``shards``. A module writes its messages to
``logging.getLogger(__name__)``; only results are printed, to stdout. A library that
imports these packages and sets up nothing sees warnings alone, as logging has it.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

LEVELS = ("debug", "info", "warning")
DEFAULT_LEVEL = "info"
PACKAGES = ("psl", "shards")


class _Stderr(logging.Handler):
    """Writes lines to what sys.stderr is at that moment, above a progress bar."""

    prefix = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message; as for all handlers, a failure is not the caller's."""
        try:
            line = self.prefix + self.format(record)
            if "tqdm" in sys.modules:
                bars: Any = sys.modules["tqdm"]
                bars.tqdm.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


_HANDLER = _Stderr()


def set_up(prefix: str = "") -> None:
    """Show messages from now on, each behind ``prefix``, such as the rank.

    Raises ValueError if PSL_LOG is not a level.
    """
    level = os.environ.get("PSL_LOG", DEFAULT_LEVEL).lower()
    if level not in LEVELS:
        raise ValueError(f"PSL_LOG={level}: expected one of {', '.join(LEVELS)}")
    _HANDLER.prefix = prefix
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level.upper())
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)
