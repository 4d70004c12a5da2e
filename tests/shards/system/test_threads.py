"""A thread of ours that dies ends the process, with one line."""

from __future__ import annotations

import subprocess
import sys

from tests.learning import REPOSITORY


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), **environment},
    )


DIES = """
import sys, time
from shards.system.threads import ending_by, start_thread
def die(word):
    raise RuntimeError(word)
start_thread(die, "out of luck", name="heartbeat")
time.sleep(50)
"""


def test_a_thread_that_dies_ends_the_process_with_one_line() -> None:
    """A heartbeat that has stopped would let another job take over a running one."""
    result = run_python(DIES)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: the thread 'heartbeat' failed: RuntimeError('out of luck'); PSL_DEBUG=1"
    )
    assert result.stderr.count("\n") == 1
    assert "in die" in run_python(DIES, PSL_DEBUG="1").stderr


def test_a_process_ends_though_nobody_reads_what_it_says() -> None:
    """Its launcher was killed and with it the pipe; the rank would stay forever."""
    code = "import os\nos.close(2)\nos.close(1)\n" + DIES
    assert run_python(code).returncode == 1
    broken = "import os\nr, w = os.pipe()\nos.close(r)\nos.dup2(w, 2)\n" + DIES
    assert run_python(broken).returncode == 1


def test_a_process_whose_last_words_are_blocked_ends_all_the_same() -> None:
    """A full pipe, or a file server that is gone, would keep the run folder locked."""
    code = """
import os
r, w = os.pipe()
os.set_blocking(w, False)
try:
    while True:
        os.write(w, b"x" * 65536)
except BlockingIOError:
    pass
os.set_blocking(w, True)
os.dup2(w, 2)
from shards.system import threads
threads.LAST_SECONDS = 0.5
"""
    assert run_python(code + DIES).returncode == -14  # SIGALRM


def test_the_process_may_say_more_before_it_ends() -> None:
    """status.json would say "running" of a run that has ended."""
    code = DIES.replace(
        'start_thread(die, "out',
        'context = ending_by(print)\ncontext.__enter__()\nstart_thread(die, "out',
    )
    result = run_python(code)
    assert result.returncode == 1
    assert result.stdout.startswith("the thread 'heartbeat' failed")
