"""How fast N GPUs train, from constants measured on one; see docs/scaling.md.

Measures nothing, and reads nothing but its arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from shards.system.exits import run_main

WORLD_SIZES = (1, 8, 64, 512)


@dataclass(frozen=True)
class Network:
    """A cluster for the projection."""

    gpus_per_node: int = 8
    node_bandwidth: float = 100e9
    """Among the GPUs of a node, bytes/s each way and GPU."""
    network_bandwidth: float = 3e9
    """Of a node's adapter for each of its GPUs, bytes/s."""
    latency: float = 10e-6
    """Of one message, s."""


def ring_seconds(gradient_bytes: float, world_size: int, network: Network) -> float:
    """Time of a ring all-reduce, s.

    Each rank sends and receives 2 (N - 1) / N of the bytes in 2 (N - 1) messages. The
    slowest link of the ring sets the pace. Source: Patarasuk and Yuan, Bandwidth
    optimal all-reduce algorithms, 2009.
    """
    inside = world_size <= network.gpus_per_node
    bandwidth = network.node_bandwidth if inside else network.network_bandwidth
    messages = 2 * (world_size - 1)
    return messages * (gradient_bytes / world_size / bandwidth + network.latency)


def efficiency(
    gradient_bytes: float,
    world_size: int,
    network: Network,
    *,
    step_seconds: float,
    hidden_share: float,
) -> float:
    """Speed of N GPUs over N times the speed of one.

    ``step_seconds`` is the step of one GPU; during ``hidden_share`` of it the gradient
    is under way at no cost.
    """
    communication = ring_seconds(gradient_bytes, world_size, network)
    seen = max(0.0, communication - hidden_share * step_seconds)
    return step_seconds / (step_seconds + seen)


def project(args: argparse.Namespace) -> None:
    """Print the efficiency at 8, 64 and 512 GPUs."""
    values = {name: getattr(args, name) for name in asdict(Network())}
    network = Network(**values)
    print("GPUs  all-reduce     efficiency  chunks/s")
    for world_size in WORLD_SIZES:
        communication = ring_seconds(args.gradient_bytes, world_size, network)
        share = efficiency(
            args.gradient_bytes,
            world_size,
            network,
            step_seconds=args.step_seconds,
            hidden_share=args.hidden_share,
        )
        speed = world_size * share * args.batch / args.step_seconds
        milliseconds = 1000 * communication
        print(f"{world_size:4}  {milliseconds:9.3f} ms  {share:10.3f}  {speed:8.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.bench.project_scaling``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.project_scaling",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("--step-seconds", type=float, required=True, help="of one GPU alone")
    add("--gradient-bytes", type=float, default=4 * 2_898_383)
    add("--batch", type=int, default=32, help="chunks per GPU and step")
    add("--hidden-share", type=float, default=0.5, help="of a step, for overlap")
    for name, value in asdict(Network()).items():
        add(f"--{name.replace('_', '-')}", type=type(value), default=value)
    project(parser.parse_args(argv))


if __name__ == "__main__":
    run_main(main)
