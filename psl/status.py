"""Print the state of a run, and exit with a status that says it.

torchrun and accelerate launch turn every exit status into 1, so a batch script asks:

    python -m psl.status RUN_DIR; case $? in 0) ...;; 75) requeue;; esac
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from psl.job.status import EXIT_OF, Speed, State, read_status, report, speed_now
from shards.system.arguments import Parser
from shards.system.exits import run_main, typed_name


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.status``."""
    codes = ", ".join(f"{state} {code}" for state, code in EXIT_OF.items())
    name = typed_name("psl.status")
    parser = Parser(
        prog=name,
        description=f"Print the state of a run and exit with its status: {codes}.",
        epilog=f"example:\n  {name} runs/mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", help="folder of the run")
    parser.add_argument(
        "--json", action="store_true", help="print all of status.json, and the state"
    )
    args = parser.parse_args(argv)
    state, line = report(args.run_dir)
    speed = speed_now(args.run_dir, state)
    if args.json:
        print(_as_json(args.run_dir, state, line, speed))
    else:
        print(f"{state}\t{line}")
        if speed is not None:
            print(describe(speed))
    parser.exit(EXIT_OF[state])


def _as_json(run_dir: str, state: State, line: str, speed: Speed | None) -> str:
    """status.json as it is now: with what a killed run could not write itself."""
    status = read_status(run_dir)
    found = asdict(status) if status else {}
    found |= {"state": state, "message": line, "speed": speed and asdict(speed)}
    return json.dumps(found, indent=1)


def describe(speed: Speed) -> str:
    """One line; what is not known is left out."""
    rates = [f"{speed.chunks_per_second:.4g} chunks/s"]
    if speed.gflops_per_second is not None:
        rates.append(f"{speed.gflops_per_second:.4g} GFLOP/s a process")
    if speed.mfu is not None:
        rates.append(f"MFU {speed.mfu:.1%}")
    shares = {
        "waiting for data": speed.wait_share,
        "communication": speed.communication_share,
        "validation": speed.validation_share,
        "checkpoints": speed.checkpoint_share,
    }
    spent = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    end = [] if speed.goodput is None else [f"goodput {speed.goodput:.1%}"]
    return "; ".join([", ".join(rates), spent, *end])


if __name__ == "__main__":
    run_main(main)
