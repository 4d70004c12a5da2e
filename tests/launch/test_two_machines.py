"""Training over a network: two namespaces joined by a cable, as two machines are."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.learning import REPOSITORY, losses, tiny_config, torchrun
from tests.needs import needs, program

pytestmark = needs("netns")

INTERFACE = "cable"
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> str:
    """The output of ``ip WORDS...``, which must succeed."""
    result = subprocess.run(
        [program("ip"), *words], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, f"ip {' '.join(words)}: {result.stderr}"
    return result.stdout


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces that reach each other, and nothing else.

    Loopback is there, as on any machine, but not shared.
    """
    mark = secrets.token_hex(3)
    names = (f"psl-{mark}-a", f"psl-{mark}-b")
    try:
        for name in names:
            ip("netns", "add", name)
        ends = ("netns", names[0], "type", "veth", "peer", "name", INTERFACE, "netns")
        ip("link", "add", INTERFACE, *ends, names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run([program("ip"), "netns", "delete", name], timeout=60)


def bytes_received(machine: str) -> int:
    """Over the cable, since it is there."""
    (facts,) = json.loads(
        ip("-n", machine, "-json", "-stats", "link", "show", INTERFACE)
    )
    return int(facts["stats64"]["rx"]["bytes"])


def torchrun_node(number: int) -> list[str]:
    """The words of torchrun for one of two nodes with a process each."""
    words = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500"]
    words += ["--rdzv-conf", f"is_host={int(number == 0)}", "--rdzv-id", "two"]
    # the host name, which both would use, leads to loopback here
    return [*words, "--local-addr", ADDRESSES[number]]


def accelerate_node(number: int, config: Path) -> list[str]:
    """The words of accelerate launch for one of two nodes with a process each."""
    words = ["accelerate.commands.launch", "--config_file", str(config)]
    words += ["--num_processes", "2", "--machine_rank", str(number)]
    return [*words, "--main_process_ip", ADDRESSES[0]]


def train_on(
    machines: tuple[str, str], launchers: list[list[str]], *words: str
) -> None:
    """Run a launcher on each machine; both must succeed."""
    nodes = [
        subprocess.Popen(
            [program("ip"), "netns", "exec", machine, sys.executable, "-m", *launcher]
            + ["-m", "psl.train", *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE},
        )
        for machine, launcher in zip(machines, launchers, strict=True)
    ]
    try:
        for node in nodes:
            _, said = node.communicate(timeout=240)
            assert node.returncode == 0, said
    finally:
        for node in nodes:
            node.terminate()


def test_accelerate_launch_trains_on_two_machines(
    machines: tuple[str, str], tmp_path: Path, dataset: Path
) -> None:
    """The file for several nodes could not be tried before a cluster is there."""
    shipped = REPOSITORY / "launch" / "accelerate" / "several_nodes.yaml"
    config = tmp_path / "several_nodes.yaml"
    # as a flag, accelerate takes it for one process on one machine
    config.write_text(shipped.read_text() + "use_cpu: true\n")
    words = tiny_config(tmp_path, dataset, "epochs=1")
    train_on(machines, [accelerate_node(n, config) for n in (0, 1)], *words)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["world_size"] == 2
    assert min(map(bytes_received, machines)) > 100_000


def test_two_machines_train_over_a_cable_to_the_losses_of_one(
    machines: tuple[str, str], tmp_path: Path, dataset: Path
) -> None:
    """All that works on loopback could fail on the first real network."""
    alone = tiny_config(tmp_path / "alone", dataset, "epochs=1")
    words = tiny_config(tmp_path, dataset, "epochs=1")
    train_on(machines, [torchrun_node(0), torchrun_node(1)], *words)
    run_dir = tmp_path / "run"
    assert json.loads((run_dir / "run.json").read_text())["world_size"] == 2
    weights = (run_dir / "checkpoints" / "step_00000006" / "model.safetensors").stat()
    # the gradients of 6 steps, about as large as the weights, went over the cable
    for machine in machines:
        assert bytes_received(machine) > 3 * weights.st_size
    assert torchrun(2, "psl.train", *alone).returncode == 0
    assert losses(run_dir) == losses(tmp_path / "alone" / "run")
