"""What a rank leaves behind when the job hangs: where each of its threads stands.

Owns the folder ``hang`` of a run folder. Who hangs, psl/job/watchdog.py says.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from shards.system.files import open_atomic, write_atomic

FOLDER_NAME = "hang"
WRITE_SECONDS = 3.0
"""For writing it: the file server may be what hangs."""
RECORDERS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Of torch's flight recorder, by version of torch."""


def write_hang(run_dir: str | Path, rank: int, message: str) -> None:
    """The stacks of all threads, and under nccl its flight recorder, of this rank.

    Returns after WRITE_SECONDS at the latest, and raises nothing: the job must end.
    """
    folder = Path(run_dir, FOLDER_NAME)
    writer = threading.Thread(
        target=_write, args=(folder, rank, message), daemon=True, name="hang report"
    )
    writer.start()
    writer.join(WRITE_SECONDS)


def _write(folder: Path, rank: int, message: str) -> None:
    with contextlib.suppress(Exception):
        folder.mkdir(exist_ok=True)
        with open_atomic(folder / f"stacks_rank{rank}.txt") as stream:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            who = f"rank {rank}, process {os.getpid()} on {socket.gethostname()}"
            names = [f"{t.ident:#018x}: {t.name}" for t in threading.enumerate()]
            lines = [f"{stamp}, {who}", message, "", "threads:", *names, "", ""]
            stream.write("\n".join(lines).encode())
            stream.flush()
            faulthandler.dump_traceback(stream)
        if record := flight_record():
            write_atomic(folder / f"nccl_rank{rank}.json", record)


def flight_record() -> bytes | None:
    """The last collectives of this rank, JSON; None where nccl does not record them."""
    if not dist.is_initialized() or dist.get_backend() != "nccl":
        return None
    module = torch._C._distributed_c10d
    found = (getattr(module, name, None) for name in RECORDERS)
    dump: Callable[[], bytes] | None = next(filter(None, found), None)
    return dump() if dump is not None else None
