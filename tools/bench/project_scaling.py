"""How fast N GPUs train, from constants measured on one; see docs/scaling.md.

Measures nothing, and reads nothing but its arguments. Beyond the GPUs of a node it is
a guess until somebody measures, and is marked as one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from shards.system.exits import run_main

PARAMETERS = {
    "mobilenetv2": 2_898_383,
    "efficientnet_b0": 4_682_059,
    "mn": 4_876_831,
    "efficientnet_b2": 8_442_961,
    "resnet50": 24_581_583,
    "cnn14": 80_753_615,
    "ast": 86_594_063,
}
"""Of each family at 527 classes."""
MEASURED_GPUS = 8
"""More are marked."""
GOOD = 0.95
"""The efficiency for which ``--sizes`` gives the shortest step."""


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


def reduce_seconds(gradient_bytes: float, world_size: int, network: Network) -> float:
    """Time of an all-reduce, s.

    Each rank sends and receives 2 (N - 1) / N of the bytes, at the pace of the slowest
    link, which no algorithm can beat (Patarasuk and Yuan, Bandwidth optimal all-reduce
    algorithms, 2009). A tree needs log2 N messages to the root and as many back.
    """
    inside = world_size <= network.gpus_per_node
    bandwidth = network.node_bandwidth if inside else network.network_bandwidth
    share = (world_size - 1) / world_size
    messages = 2 * math.ceil(math.log2(world_size))
    return 2 * share * gradient_bytes / bandwidth + messages * network.latency


def jitter_seconds(step_seconds: float, jitter: float, world_size: int) -> float:
    """What all wait for the slowest, s: at most, for step times that vary normally.

    ``jitter`` is their standard deviation over their mean. The mean of the largest of
    N normal variables is at most the deviation times sqrt(2 ln N).
    """
    return jitter * step_seconds * math.sqrt(2 * math.log(world_size))


def efficiency(
    gradient_bytes: float,
    world_size: int,
    network: Network,
    *,
    step_seconds: float,
    jitter: float,
) -> float:
    """Speed of N GPUs over N times the speed of one, whose step is ``step_seconds``.

    Nothing is hidden: the one flat all-reduce of psl/training/step.py begins when the
    last gradient is there.
    """
    communication = reduce_seconds(gradient_bytes, world_size, network)
    waiting = jitter_seconds(step_seconds, jitter, world_size)
    return step_seconds / (step_seconds + communication + waiting)


def projection(args: argparse.Namespace, network: Network) -> Iterator[str]:
    """A line for each number of GPUs."""
    gradient_bytes = args.gradient_bytes or 4 * PARAMETERS[args.family]
    yield "GPUs  all-reduce    slowest rank  efficiency  chunks/s"
    for world_size in args.gpus:
        share = efficiency(
            gradient_bytes,
            world_size,
            network,
            step_seconds=args.step_seconds,
            jitter=args.jitter,
        )
        reduce = 1000 * reduce_seconds(gradient_bytes, world_size, network)
        slowest = 1000 * jitter_seconds(args.step_seconds, args.jitter, world_size)
        speed = world_size * share * args.batch / args.step_seconds
        mark = "  not measured by anybody" if world_size > MEASURED_GPUS else ""
        yield (
            f"{world_size:4}  {reduce:7.3f} ms  {slowest:10.3f} ms  {share:10.3f}"
            f"  {speed:8.0f}{mark}"
        )


def sizes(network: Network, world_size: int) -> Iterator[str]:
    """A Markdown table of all families: bytes, all-reduce, shortest good step."""
    yield (
        f"| family | gradient, MB | all-reduce over {world_size} GPUs, ms "
        f"| shortest step for {GOOD}, ms |"
    )
    yield "|---|---|---|---|"
    for family, number in PARAMETERS.items():
        seconds = reduce_seconds(4 * number, world_size, network)
        step = seconds * GOOD / (1 - GOOD)
        yield (
            f"| {family} | {4 * number / 1e6:.1f} | {1000 * seconds:.2f} "
            f"| {1000 * step:.1f} |"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m tools.bench.project_scaling``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench.project_scaling",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--step-seconds", type=float, help="of one GPU alone")
    what.add_argument("--sizes", action="store_true", help="the table of all families")
    add("--gpus", type=int, nargs="+", default=[1, 2, 4, MEASURED_GPUS])
    add("--family", choices=PARAMETERS, default="mobilenetv2")
    add("--gradient-bytes", type=float, help="instead of those of --family")
    add("--batch", type=int, default=32, help="chunks per GPU and step")
    add("--jitter", type=float, default=0.0, help="deviation of step times over mean")
    for name, value in asdict(Network()).items():
        add(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(argv)
    step_seconds = 1.0 if args.step_seconds is None else args.step_seconds
    if min(args.gpus) < 1 or step_seconds <= 0 or args.jitter < 0:
        parser.error("expected positive --gpus and --step-seconds, and --jitter >= 0")
    network = Network(**{name: getattr(args, name) for name in asdict(Network())})
    lines = sizes(network, max(args.gpus)) if args.sizes else projection(args, network)
    print("\n".join(lines))


if __name__ == "__main__":
    run_main(main)
