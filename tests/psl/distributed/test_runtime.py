"""What a process asks of its machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from psl.distributed import runtime

def step():
    parts = [torch.zeros(1 << 20) for _ in range(16)]  # 4 MiB each

kept = {kept}
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: str, **variables: str) -> tuple[str, int]:
    """What ``kept`` gives, and how many pages ten steps of 64 MiB asked for."""
    output = subprocess.run(
        [sys.executable, "-c", FAULTS.format(kept=kept)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return output[0], int(output[1])


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """A fifth of the time of a training step would be zeroing pages."""
    said, with_it = faults("runtime.keep_freed_memory()")
    _, without = faults("None")
    assert said == "True" and 10 * with_it < without


def test_a_user_s_own_malloc_settings_stay() -> None:
    """Somebody short of memory asks for less of it, and would not get it."""
    call = "runtime.keep_freed_memory()"
    assert faults(call, MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
