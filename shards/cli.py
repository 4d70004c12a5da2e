"""How every command ends: status 0, or one line on stderr and a status that says why.

Owns exit statuses. 78 (EX_CONFIG) is for what the caller must correct - configuration
or data - and running the same again cannot help; 1 is for everything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from shards.schema import ShardError


class JobError(RuntimeError):
    """The job cannot go on, and what is wrong is not in one file or key."""


EXIT_FAILED = 1
EXIT_BAD_INPUT = 78
EXIT_INTERRUPTED = 130


def run_main(main: Callable[[], None]) -> None:
    """Run ``main`` and exit; errors a caller can cause become one line.

    With PSL_DEBUG=1 in the environment they keep their traceback.
    """
    if os.environ.get("PSL_DEBUG") == "1":
        main()
        return
    try:
        main()
    except (ShardError, ValueError) as error:
        _end(f"error: {error}", EXIT_BAD_INPUT)
    except JobError as error:
        _end(f"error: {error}", EXIT_FAILED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _end(f"error: {place}{error.strerror or error}", EXIT_FAILED)
    except KeyboardInterrupt:
        _end("interrupted; run the same command again to go on", EXIT_INTERRUPTED)


def _end(message: str, status: int) -> None:
    print(" ".join(message.split("\n")), file=sys.stderr, flush=True)
    sys.exit(status)
