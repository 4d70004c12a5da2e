"""What the ranks of a job hear of each other's end."""

from __future__ import annotations

import queue
import subprocess
import sys

import pytest
import torch.distributed as dist

from psl.job.watchdog import Cause, Watchdog

RANK_0 = """
import os
import torch.distributed as dist
from psl.job.watchdog import Cause, Watchdog

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
watchdog = Watchdog(0, 2, store, timeout_seconds=60, end=print)
watchdog.start()
cause, _ = watchdog.blame(Cause("rank 0: no such class", status=78))
watchdog.wait_until_heard(cause)
os._exit(78)
"""


STOPPED = """
import os, signal, sys
import torch.distributed as dist
from psl.job.watchdog import Watchdog

store = dist.TCPStore("127.0.0.1", int(sys.argv[1]))
Watchdog(1, 2, store, timeout_seconds=60, end=print).start()
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_rank_that_is_stopped_at_once_is_named() -> None:
    """Of a thousand ranks, nobody would know which machine to look at."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends: queue.Queue[Cause] = queue.Queue()
    command = [sys.executable, "-c", STOPPED, str(store.port)]
    with subprocess.Popen(command) as stopped:
        watchdog = Watchdog(
            *(0, 2, store), timeout_seconds=0.5, end=lambda cause, _: ends.put(cause)
        )
        watchdog.start()
        found = ends.get(timeout=120)
        watchdog.stop()
        stopped.kill()
    assert found.silent == (1,) and found.hang
    assert f"rank 1 (process {stopped.pid} on " in found.message
    assert "gives no sign of life" in found.message


def test_a_rank_knows_why_rank_0_ended_when_the_store_is_gone_with_it() -> None:
    """A wrong line of a config would be told as a crash, and retried all night."""
    command = [sys.executable, "-c", RANK_0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as rank_0:
        assert rank_0.stdout is not None
        port = int(rank_0.stdout.readline())
        store = dist.TCPStore("127.0.0.1", port)
        watchdog = Watchdog(1, 2, store, timeout_seconds=60, end=lambda *_: None)
        watchdog.start()
        assert rank_0.wait(timeout=120) == 78
    found = watchdog.cause_elsewhere(1.0)
    watchdog.stop()
    assert found == Cause("rank 0: no such class", status=78)
    with pytest.raises(dist.DistError):
        store.check(["any"])
    assert watchdog.blame(Cause("rank 1: an echo of it")) == (found, False)
