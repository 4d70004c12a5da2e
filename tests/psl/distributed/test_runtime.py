"""What a process asks of its machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HELD = """
import torch
from psl.distributed import runtime

def mapped():  # not what is resident, which depends on what else the machine does
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line[:7] == "VmData:")

kept = {kept}
before = mapped()
parts = [torch.zeros(1 << 20) for _ in range(16)]  # 4 MiB each
del parts
print(kept, mapped() - before)
"""


def held(kept: str, **variables: str) -> tuple[str, int]:
    """What ``kept`` gives, and the KiB that 64 MiB leave behind when they are freed."""
    output = subprocess.run(
        [sys.executable, "-c", HELD.format(kept=kept)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return output[0], int(output[1])


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """A fifth of the time of a training step would be zeroing pages."""
    said, with_it = held("runtime.keep_freed_memory()")
    _, without = held("None")
    assert said == "True" and with_it > 60_000 > 20_000 > without


def test_a_user_s_own_malloc_settings_stay() -> None:
    """Somebody short of memory asks for less of it, and would not get it."""
    call = "runtime.keep_freed_memory()"
    assert held(call, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
