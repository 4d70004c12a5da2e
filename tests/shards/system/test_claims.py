"""Claims: one holder at a time, none forever, whatever happens to processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.system import claims, processes
from shards.system.claims import ClaimLost, Claims
from tests.learning import REPOSITORY

HOLDER = """
import sys, time
from pathlib import Path
from shards.system.claims import Claims, ClaimLost
with Claims(Path(sys.argv[1]), lease_seconds=float(sys.argv[2])) as claims:
    claim = claims.take("a")
    print("taken", flush=True)
    sys.stdin.readline()
    try:
        claim.check()
        print("held", flush=True)
    except ClaimLost:
        print("lost", flush=True)
"""


def start_holder(folder: Path, lease_seconds: float) -> subprocess.Popen[str]:
    """A process that holds ``a`` until it gets a line, and says if it still does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(lease_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout and process.stdout.readline() == "taken\n"
    return process


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def forge(folder: Path, name: str, *, age: float = 0.0, **changes: object) -> Path:
    """The claim of a process of another machine, last refreshed ``age`` s ago."""
    fields: dict[str, object] = {
        "token": "feed",
        "host": "elsewhere",
        "pid": 1,
        "boot": "another",
        "started": 1,
        "since": 0.0,
        "lease_seconds": 60.0,
    }
    path = folder / f"{name}.claim"
    path.write_text(json.dumps({**fields, **changes}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_of_many_that_want_the_same_each_thing_goes_to_one(tmp_path: Path) -> None:
    """Two workers would label the same shard, for days."""
    names = [str(number) for number in range(40)]
    everybody = [Claims(tmp_path, lease_seconds=60).__enter__() for _ in range(8)]

    def take_all(mine: Claims) -> list[str]:
        return [name for name in names if mine.take(name) is not None]

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take_all, everybody))
    assert sorted(sum(taken, [])) == sorted(names)
    for one in everybody:
        one.__exit__()
    assert not list(tmp_path.iterdir())


def test_what_is_given_back_is_free_and_only_that(tmp_path: Path) -> None:
    """Work would be left undone, or done under somebody's hands."""
    one, two = (Claims(tmp_path, lease_seconds=60) for _ in range(2))
    with one, two:
        first, second = one.take("a"), one.take("b")
        assert first and second
        first.release()
        assert two.take("a") and not two.take("b")
        first.release()  # again, when it is another's
        assert not one.take("a")
        second.check()


def test_a_killed_process_of_this_machine_loses_its_claims_at_once(
    tmp_path: Path,
) -> None:
    """A job started again after kill -9 would wait for its own ghost."""
    holder = start_holder(tmp_path, 600)
    with Claims(tmp_path, lease_seconds=600) as mine:
        assert not mine.take("a")
        holder.send_signal(signal.SIGKILL)
        # it is not reaped, so its pid is still there
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert mine.take("a")
    holder.communicate()


def test_a_pid_given_to_a_new_process_does_not_keep_the_claim_of_the_old(
    tmp_path: Path,
) -> None:
    """In containers the worker has the same pid after each start."""
    with Claims(tmp_path, lease_seconds=600) as mine:
        boot = json.loads(next(tmp_path.glob("*.worker")).read_text())["boot"]
        forge(tmp_path, "a", boot=boot, pid=os.getpid(), lease_seconds=600.0)
        assert mine.take("a")


def test_a_claim_of_another_machine_is_free_after_its_own_lease(tmp_path: Path) -> None:
    """Others would take the work of the living, or wait for the dead forever."""
    with Claims(tmp_path, lease_seconds=1) as mine:
        forge(tmp_path, "a", age=30, lease_seconds=60.0)
        assert not mine.take("a")
        forge(tmp_path, "a", age=90, lease_seconds=60.0)
        assert mine.take("a")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b'{"token": "fe', b"[]", b'{"pid": "x"}', b"[" * 100_000),
        json.dumps(
            dict(
                token="feed",
                host="elsewhere",
                pid=1,
                boot="another",
                started=1,
                since=0.0,
                lease_seconds="long",
            )
        ).encode(),
    ],
)
def test_a_claim_not_written_to_its_end_is_free_after_a_minute(
    tmp_path: Path, content: bytes
) -> None:
    """A process killed while claiming would block a shard forever."""
    path = tmp_path / "a.claim"
    with Claims(tmp_path, lease_seconds=1) as mine:
        path.write_bytes(content)
        assert not mine.take("a")
        os.utime(path, (time.time() - 61,) * 2)
        assert mine.take("a")


def test_the_clock_of_a_machine_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose clock is a day ahead would take all shards of the others."""
    forge(tmp_path, "a")
    forge(tmp_path, "b", age=3600)
    with Claims(tmp_path, lease_seconds=60) as mine:
        monkeypatch.setattr(time, "time", lambda: 86400.0)
        assert not mine.take("a") and mine.take("b")
        monkeypatch.setattr(time, "time", lambda: 1e11)
        assert not mine.take("a")


def test_a_living_process_keeps_its_claim_past_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that takes longer than the lease would be made by all in turn.

    One is on another machine as far as two can tell: what is left is its heartbeat.
    """
    one, two = (Claims(tmp_path, lease_seconds=1) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(processes, "this_machine", lambda: "another")
        one.__enter__()
    with two:
        claim = one.take("a")
        assert claim
        for _ in range(25):
            one.progress()
            assert not two.take("a")
            time.sleep(0.1)
        claim.check()
        one.__exit__()


def test_a_frozen_process_loses_its_claim_and_notices(tmp_path: Path) -> None:
    """A machine that wakes up would write under another's hands."""
    holder = start_holder(tmp_path, 1)
    with Claims(tmp_path, lease_seconds=600) as mine:
        holder.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: mine.take("a"))
        finally:
            holder.send_signal(signal.SIGCONT)
        assert holder.communicate("\n", timeout=60)[0] == "lost\n"
        assert mine.has("a")  # the other has not given back what is ours now


def test_a_process_that_gets_nowhere_gives_up_its_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that hangs on a broken disk would be waited for, forever."""
    monkeypatch.setattr(claims, "STALL_LEASES", 1)
    one, two = (Claims(tmp_path, lease_seconds=1) for _ in range(2))
    with one, two:
        claim = one.take("a")
        assert claim
        wait_for(lambda: two.take("a"))
        with pytest.raises(ClaimLost):
            list(claim.guard("rows"))


def test_of_many_that_find_a_dead_claim_one_gets_it(tmp_path: Path) -> None:
    """Two would remove it, the second one the claim that the first has made."""
    everybody = [Claims(tmp_path, lease_seconds=60).__enter__() for _ in range(6)]
    for round_ in range(40):
        name = str(round_)
        forge(tmp_path, name, age=90)
        at_once = threading.Barrier(len(everybody))

        def take(mine: Claims, name: str, at_once: threading.Barrier) -> bool:
            at_once.wait()
            return mine.take(name) is not None

        with ThreadPoolExecutor(len(everybody)) as pool:
            tries = [pool.submit(take, one, name, at_once) for one in everybody]
        assert sum(one.result() for one in tries) == 1
        assert sum(one.has(name) for one in everybody) == 1
    for one in everybody:
        one.__exit__()
    assert not list(tmp_path.iterdir())


def test_a_process_that_died_while_it_took_over_does_not_block_the_claim(
    tmp_path: Path,
) -> None:
    """A shard would be left forever by a kill at the wrong microsecond."""
    forge(tmp_path, "a", age=90)
    lock = forge(tmp_path, "lock").rename(tmp_path / "a.claim.lock")
    with Claims(tmp_path, lease_seconds=60) as mine:
        assert not mine.take("a") and lock.exists()
        os.utime(lock, (time.time() - 11,) * 2)
        assert not mine.take("a") and not lock.exists()
        assert mine.take("a")


def test_the_last_thing_before_the_end_of_the_items_is_a_look_at_the_claim(
    tmp_path: Path,
) -> None:
    """A shard taken over while its rows are made would be written twice."""
    with Claims(tmp_path, lease_seconds=60) as mine:
        claim = mine.take("a")
        assert claim
        items = claim.guard([1, 2])
        assert next(items) == 1
        forge(tmp_path, "a")
        assert next(items) == 2
        with pytest.raises(ClaimLost):
            next(items)
        assert claim.lost
