"""The long tests, by hand: python -m tests.long_faults kills 20 (exits 50, soak 10).

kills: one run on two ranks, killed NUMBER times at random moments - one rank or all -
and started again; its losses must equal those of an undisturbed run. exits: NUMBER
whole runs on two ranks; all must end with status 0. soak: NUMBER minutes of training on
two ranks; memory, open files and threads of each must not grow.
"""

from __future__ import annotations

import functools
import random
import sys
import tempfile
import time
from pathlib import Path

from shards.pack import main as pack
from tests.conftest import write_source
from tests.jobs import start, step_reached
from tests.learning import losses, state, tiny_config


def kills(folder: Path, dataset: Path, number: int) -> None:
    """Print each kill, and whether the losses came out the same."""
    epochs = max(4, number)
    words = [f"epochs={epochs}", "save_every=2", "patience=null", "model.dropout=0.3"]
    words += ["attempt.max_futile_starts=100"]
    whole = tiny_config(folder / "whole", dataset, *words)
    begin = time.monotonic()
    assert start(folder / "whole", whole, ranks=2).wait(900) == [0, 0]
    seconds_per_step = (time.monotonic() - begin) / (6 * epochs)
    run_dir = folder / "killed" / "run"
    killed = tiny_config(folder / "killed", dataset, *words)
    rng = random.Random(0)
    for kill in range(number):
        job = start(folder / "killed", killed, ranks=2)
        before = step_reached(run_dir)
        job.wait_until(
            functools.partial(_has_passed, run_dir, before + rng.randint(0, 4)), 300
        )
        time.sleep(rng.uniform(0, seconds_per_step))
        victims = rng.choice([[0], [1], [0, 1]])
        for rank in victims:
            job.ranks[rank].kill()
        ended = time.monotonic()
        job.wait(60)
        took = time.monotonic() - ended
        print(
            f"kill {kill + 1}: ranks {victims} at step {step_reached(run_dir)}, state "
            f"{state(run_dir)}, the job ended after {took:.1f} s",
            flush=True,
        )
    assert start(folder / "killed", killed, ranks=2).wait(900) == [0, 0]
    same = losses(run_dir) == losses(folder / "whole" / "run")
    print(f"{len(losses(run_dir))} losses equal those of the undisturbed run: {same}")


def _has_passed(run_dir: Path, step: int) -> bool:
    return step_reached(run_dir) > step


def exits(folder: Path, dataset: Path, number: int) -> None:
    """Print how many runs ended with status 0 on both ranks."""
    clean = 0
    for one in range(number):
        words = tiny_config(folder / str(one), dataset, "epochs=1")
        status = start(folder / str(one), words, ranks=2).wait(300)
        clean += status == [0, 0]
        print(f"run {one + 1}: {status}, {clean} clean so far", flush=True)


def soak(folder: Path, dataset: Path, minutes: int) -> None:
    """Print what each rank holds, twice a minute, while it trains and validates."""
    words = tiny_config(folder, dataset, "epochs=100000", "patience=null")
    words += ["save_every=20", "optim.ema_decay=0.9", "augment.mixup_alpha=0.5"]
    job = start(folder, words, ranks=2)
    begin = time.monotonic()
    job.wait_until(lambda: step_reached(folder / "run") > 50)
    pids = [rank.pid for rank in job.ranks]
    seen = []
    while time.monotonic() - begin < 60 * minutes:
        time.sleep(30)
        seen.append([_held(pid) for pid in pids if pid])
        at = f"{time.monotonic() - begin:4.0f} s, step {step_reached(folder / 'run')}"
        print(f"{at}: MiB, files, threads of each rank: {seen[-1]}", flush=True)
    job.kill()
    quarter = max(1, len(seen) // 4)
    for rank in range(2):
        for number, what in enumerate(("MiB", "files", "threads")):
            values = [moment[rank][number] for moment in seen]
            early, late = max(values[quarter : 2 * quarter]), max(values[-quarter:])
            print(f"rank {rank}: {what}: {early} in the second quarter, {late} at last")


def _held(pid: int) -> tuple[int, int, int]:
    """Resident memory in MiB, open files and threads of a process."""
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines()
    )
    files = len(list((process / "fd").iterdir()))
    return int(status["VmRSS"].split()[0]) // 1024, files, int(status["Threads"])


def main() -> None:
    """The command line."""
    what, number = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_source(folder / "source", num_clips=24)
        pack(source.pack_arguments(folder / "packed"))
        {"kills": kills, "exits": exits, "soak": soak}[what](
            folder, folder / "packed", number
        )


if __name__ == "__main__":
    main()
