"""Other libraries and ours, each in processes of its own, on the same clips.

Owns the rounds, the trials of a resume and of another world size, and what is kept of
them. tools/bench/peers/table.py writes them down.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tools.bench.peers.task import PEERS, Peer, is_installed

LIMIT_SECONDS = 300.0
"""Of one trial; then it has failed."""
WORKERS = (0, 2)

Batches = list[list[str]]
"""Digests of the chunks of each batch."""


@dataclass
class Result:
    """What was found of one way."""

    name: str
    holds: str
    problem: str | None = None
    """Why there is nothing, or not all."""
    speeds: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    """By workers, one of each round; see tools/bench/peers/process.py."""
    resume: str | None = None
    other_world: str | None = None


class Trials:
    """Starts the processes of all ways on one folder of clips."""

    def __init__(self, audio: Path, *, batch: int, seconds: float) -> None:
        self.audio, self.batch, self.seconds = audio, batch, seconds
        self.folder = audio / "peers"

    def prepare(self, peer: Peer) -> None:
        """Make a way's copy of the clips, once."""
        folder = self._folder(peer)
        done = folder.with_name(f"{folder.name}.done")
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self.run(peer, "prepare")
            done.touch()

    def speed(self, peer: Peer, workers: int) -> dict[str, float]:
        """One turn of a way."""
        words = ["--workers", str(workers), "--seconds", str(self.seconds)]
        found: dict[str, float] = self.run(peer, "speed", *words)
        return found

    def whole(self, peer: Peer, num_batches: int) -> Batches:
        """The first batches of a run of one rank that nobody ends."""
        answer = self.run(peer, "digests", "--count", str(num_batches))
        found: Batches = answer["batches"]
        return found

    def resume(self, peer: Peer, whole: Batches) -> str:
        """What becomes of a run that ends in the middle of ``whole`` and goes on."""
        num_batches = len(whole) // 2
        count, expected = ["--count", str(num_batches)], whole[num_batches:]
        with tempfile.TemporaryDirectory() as folder:
            state = ["--state", f"{folder}/state", *count]
            told = "no state"
            if self.run(peer, "digests", *state)["has_state"]:
                found = self.run(peer, "digests", *state)["batches"]
                if found == expected:
                    return "exact, from its state"
                told = f"from its state {_difference(found, expected)}"
        again = self.run(peer, "digests", "--first", str(num_batches), *count)
        if again["batches"] == expected:
            return f"{told}; exact by reading again from the start"
        return f"{told}; read again, {_difference(again['batches'], expected)}"

    def other_world(self, peer: Peer, whole: Batches) -> str:
        """Whether 2 ranks see the global batches that 1 sees."""
        alone = whole[: len(whole) // 2]
        words = ["digests", "--count", str(len(alone))]
        shares = [answer["batches"] for answer in self._run_ranks(peer, words, 2)]
        together: Batches = [sum(parts, []) for parts in zip(*shares, strict=True)]
        if list(map(sorted, together)) == list(map(sorted, alone)):
            return "the same"
        pairs = list(zip(together, alone, strict=False))
        shared = sum(len(set(two) & set(one)) for two, one in pairs)
        total = sum(len(one) for one in alone)
        return f"another: {shared / total:.0%} of the chunks are in the same batch"

    def run(self, peer: Peer, mode: str, *words: str) -> Any:
        """The answer of one process; RuntimeError with its last words if it fails."""
        return self._answer(peer, self._start(peer, mode, self.batch, words, {}))

    def _run_ranks(self, peer: Peer, words: Sequence[str], world_size: int) -> Any:
        mode, *rest = words
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [
            {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            | {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
            | {"MASTER_ADDR": "127.0.0.1"}
            for rank in range(world_size)
        ]
        share = self.batch // world_size
        started = [self._start(peer, mode, share, rest, rank) for rank in ranks]
        try:
            return [self._answer(peer, process) for process in started]
        finally:
            for process in started:
                process.kill()

    def _folder(self, peer: Peer) -> Path:
        return self.folder / peer.copies

    def _start(
        self,
        peer: Peer,
        mode: str,
        batch: int,
        words: Sequence[str],
        environment: Mapping[str, str],
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tools.bench.peers.process", mode, peer.module]
        places = ["--audio", str(self.audio), "--folder", str(self._folder(peer))]
        return subprocess.Popen(
            [*command, *places, "--batch", str(batch), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def _answer(self, peer: Peer, process: subprocess.Popen[str]) -> Any:
        try:
            out, told = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise RuntimeError(f"no answer in {LIMIT_SECONDS:g} s") from None
        if process.returncode != 0:
            lines = told.strip().splitlines() or [f"status {process.returncode}"]
            raise RuntimeError(lines[-1])
        return json.loads(out.splitlines()[-1])


def compare(
    audio: Path,
    *,
    batch: int,
    rounds: int,
    seconds: float,
    num_batches: int,
    save: Callable[[list[Result]], object],
) -> list[Result]:
    """All ways: their trials, then rounds in which they take turns.

    A way whose package is missing, or that fails, keeps its place and says so.
    ``save`` gets what there is after the trials of each way and after each round.
    """
    trials = Trials(audio, batch=batch, seconds=seconds)
    results = {peer.name: Result(peer.name, peer.holds) for peer in PEERS}
    for peer in PEERS:
        result = results[peer.name]
        if not is_installed(peer):
            result.problem = f"not installed: pip install {peer.package}"
            continue
        print(f"{peer.name}: trials", file=sys.stderr)
        try:
            trials.prepare(peer)
            whole = trials.whole(peer, 2 * num_batches)
            result.resume = trials.resume(peer, whole)
            result.other_world = trials.other_world(peer, whole)
        except RuntimeError as error:
            result.problem = str(error)
        save(list(results.values()))
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for peer in PEERS:
            if is_installed(peer):
                _take_turn(trials, peer, results[peer.name])
        save(list(results.values()))
    return list(results.values())


def _take_turn(trials: Trials, peer: Peer, result: Result) -> None:
    for workers in WORKERS:
        try:
            found = trials.speed(peer, workers)
        except RuntimeError as error:
            result.problem = str(error)
        else:
            result.speeds.setdefault(workers, []).append(found)


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """All that was found, for a file."""
    return [asdict(result) for result in results]


def _difference(found: Batches, expected: Batches) -> str:
    """Where two runs part."""
    for number, (one, other) in enumerate(zip(found, expected, strict=False), start=1):
        if one != other:
            return f"batch {number} after the resume is another"
    return f"{len(found)} batches instead of {len(expected)}"
