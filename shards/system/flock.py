"""The kernel's lock on an open file, which goes when its last descriptor does.

Owns flock(2): on local disks always there, on network file systems often, between
processes of one kernel at least.
"""

from __future__ import annotations

import errno
import fcntl
from typing import BinaryIO

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


def try_lock(file: BinaryIO | int, *, shared: bool = False) -> bool | None:
    """Lock a file, or change the lock on it, without waiting.

    False if another process has it, None if the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True
