"""The comparison with other libraries as Markdown.

Owns the two tables. Ratios are taken within a round; all else are medians.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from tools.bench.peers.compare import WORKERS, Result

OURS = "ours"


def speed_table(results: list[Result]) -> list[str]:
    """Lines of Markdown: one row a way and number of workers."""
    lines = [
        "| Way | On disk | Workers | First batch, ms | x ours (range) | chunks/s "
        "| ours / it (range) | CPU, us a chunk | Memory, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ours = next(result for result in results if result.name == OURS)
    for result in results:
        if result.problem and not result.speeds:
            lines.append(
                f"| {result.name} | {result.holds} | {result.problem} | | | | | | |"
            )
        for workers in WORKERS:
            if rounds := result.speeds.get(workers):
                lines.append(_row(result, workers, rounds, ours.speeds[workers]))
    return lines


def trial_table(results: list[Result]) -> list[str]:
    """Lines of Markdown: what was tried of resuming and of another world size."""
    lines = [
        "| Way | Continued in a new process | Global batches on 2 ranks as on 1 |",
        "|---|---|---|",
    ]
    for result in results:
        found = [result.resume, result.other_world]
        told = [one or result.problem or "not tried" for one in found]
        lines.append(f"| {result.name} | {' | '.join(told)} |")
    return lines


def _row(
    result: Result,
    workers: int,
    rounds: list[dict[str, float]],
    ours: list[dict[str, float]],
) -> str:
    def middle(key: str) -> float:
        return median(one[key] for one in rounds)

    first = _ratios(rounds, ours, lambda it, we: it / we, "first_batch_seconds")
    rate = _ratios(rounds, ours, lambda it, we: we / it, "chunks_per_second")
    return (
        f"| {result.name} | {result.holds} | {workers} | "
        f"{1e3 * middle('first_batch_seconds'):.0f} | {first} | "
        f"{middle('chunks_per_second'):.0f} | {rate} | "
        f"{middle('cpu_microseconds_per_chunk'):.0f} | "
        f"{middle('private_bytes') / 1e6:.0f} |"
    )


def _ratios(
    rounds: list[dict[str, float]],
    ours: list[dict[str, float]],
    ratio: Callable[[float, float], float],
    key: str,
) -> str:
    found = [
        ratio(it[key], we[key]) for it, we in zip(rounds, ours, strict=False)
    ]  # fewer if a turn has failed
    return f"{median(found):.1f} ({min(found):.1f}-{max(found):.1f})"
