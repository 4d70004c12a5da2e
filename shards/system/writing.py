"""What is said when a file cannot be written.

Owns the advice for a full disk, a read-only folder and their kind, and the mark of the
names under which files are written before they get their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_MARK = ".tmp-"
"""Files and folders whose name holds this are leftovers of a killed writer, never
read."""
_WRITE_ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space of your quota, or choose another folder",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a folder that is not mounted read-only",
    errno.EACCES: "choose a folder you may write, or change its permissions",
    errno.EPERM: "choose a folder you may write, or change its permissions",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "a folder has this name; choose another name, or remove it",
    errno.ENOTDIR: "a file has the name of a folder above it; choose another name",
    errno.EEXIST: "a file has the name of a folder above it; choose another name",
    errno.ENOTEMPTY: "a folder has this name; choose another name, or remove it",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""What to do about a file that cannot be written."""


@contextlib.contextmanager
def naming_write(path: Path, what: str | None = None) -> Iterator[None]:
    """Let an OSError of writing ``path`` say so, and what to do.

    A full disk makes write(2) fail, which knows no name. Errors that name another file,
    as of what is read meanwhile, stay as they are.
    """
    try:
        yield
    except OSError as error:
        advice = _WRITE_ADVICE.get(error.errno or 0)
        if advice is None or getattr(error, "is_write", False):
            raise
        if error.filename is not None and not _is_about(error.filename, path):
            raise
        doing = f"while writing {what}" if what else "while writing it"
        told = OSError(
            error.errno, f"{os.strerror(error.errno or 0)} {doing}; {advice}", str(path)
        )
        told.is_write = True  # type: ignore[attr-defined]
        raise told from error


def _is_about(filename: str | bytes | int, path: Path) -> bool:
    """Whether an error names ``path``, a folder above it, or what is written aside."""
    if isinstance(filename, int):
        return True
    found = Path(os.fsdecode(filename))
    aside = found.parent == path.parent and TEMPORARY_MARK in found.name
    return aside or found == path or found in path.parents
