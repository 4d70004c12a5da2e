"""The peak memory that the benchmarks print is their own."""

from __future__ import annotations

import subprocess
import sys

from tools.bench.memory import peak_bytes


def test_a_process_does_not_count_what_started_it() -> None:
    """A table of memory would say what else ran before."""
    large = b"\1" * 500_000_000
    before = peak_bytes()
    print_it = "from tools.bench.memory import peak_bytes; print(peak_bytes())"
    found = subprocess.run(
        [sys.executable, "-c", print_it], capture_output=True, text=True, check=True
    )
    assert before > len(large)
    assert 2_000_000 < int(found.stdout) < 200_000_000


def test_the_peak_stays_when_the_memory_is_gone() -> None:
    """Memory at the end would be printed as the most there was."""
    large = b"\1" * (peak_bytes() + 50_000_000)
    size = len(large)
    del large
    assert peak_bytes() > size
