"""Whether everything works on this machine's GPUs, and how fast: one command.

Owns the command, the packages it needs, and the report; tools/gpu/steps.py has the
steps. They run in processes of their own, since an error on a GPU ends the process it
meets, and what is not tried is said with its reason. Needs no network and no data.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.metadata
import json
import platform
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shards.system.exits import EXIT_FAILED, EXIT_UNAVAILABLE
from shards.system.files import write_atomic
from tools.gpu import table
from tools.gpu.runner import REPOSITORY, Check, Skipped, StepFailed
from tools.gpu.steps import STEPS, Step, with_needs

SECONDS_NEEDED = 20.0
"""Seconds under which no further step is begun."""


def missing_packages(setup_file: Path) -> list[str]:
    """Those requirements of the project in ``setup_file`` that are not installed."""
    parser = configparser.ConfigParser()
    parser.read(setup_file, encoding="utf-8")
    missing = []
    for requirement in parser["options"]["install_requires"].split():
        match = re.match(r"[\w.-]+", requirement)
        assert match is not None, requirement
        try:
            importlib.metadata.version(match.group())
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement)
    return missing


def _say_missing(missing: Sequence[str]) -> None:
    words = shlex.join(missing)
    python = platform.python_version()
    print(
        f"not installed here, and psl needs them: {', '.join(missing)}\n"
        f"  pip install {words}\n"
        f"or, without a network, on a machine that has one and Python {python} too,\n"
        f"  pip download --dest wheels --no-deps {words}  # and what these need\n"
        "and here\n"
        "  pip install --no-index --no-deps wheels/*.whl",
        file=sys.stderr,
    )


def run_steps(check: Check, chosen: Sequence[Step], report: Report) -> None:
    """Run ``chosen`` in order; none keeps the others from being tried."""
    for step in chosen:
        start = time.monotonic()
        unmet = [need for need in step.needs if report.outcome(need) != "passed"]
        entry: dict[str, Any]
        try:
            if unmet:
                raise Skipped(f"needs {', '.join(unmet)}, which did not pass")
            if check.deadline - start < SECONDS_NEEDED:
                raise Skipped("no time left; give it more with --minutes")
            entry = {
                "outcome": "passed",
                "figures": step.run(check.within(step.seconds)),
            }
        except Skipped as reason:
            entry = {"outcome": "skipped", "reason": str(reason)}
        except StepFailed as reason:
            entry = {"outcome": "failed", "reason": str(reason)}
        except Exception as error:  # a mistake in one step does not hide the others
            entry = {"outcome": "failed", "reason": repr(error)}
        report.add(step.name, entry, time.monotonic() - start)


class Report:
    """What is found, printed and written as it comes."""

    def __init__(self, out: Path | None, facts: dict[str, Any]) -> None:
        self._out = out
        self._content: dict[str, Any] = {**facts, "steps": {}}
        self._write()

    @property
    def num_failed(self) -> int:
        """Steps that failed so far."""
        outcomes = [step["outcome"] for step in self._content["steps"].values()]
        return outcomes.count("failed")

    def outcome(self, name: str) -> str | None:
        """passed, failed or skipped; None before."""
        return self._content["steps"].get(name, {}).get("outcome")

    def add(self, name: str, entry: dict[str, Any], seconds: float) -> None:
        """Take what came of a step."""
        self._content["steps"][name] = {**entry, "seconds": round(seconds, 1)}
        told = entry.get("reason") or json.dumps(entry["figures"])
        print(f"{name:14} {entry['outcome']:8} {seconds:6.1f} s  {told}", flush=True)
        self._write()

    def _write(self) -> None:
        """JSON and Markdown as they stand, whole at any time."""
        if self._out is not None:
            write_atomic(self._out, json.dumps(self._content, indent=1) + "\n")
            write_atomic(self._out.with_suffix(".md"), self.page())

    def page(self) -> str:
        """All of it as Markdown."""
        return table.report(self._content)


def _versions() -> dict[str, str | None]:
    """Of what may matter; None for what is not installed."""
    names = [
        "torch",
        "torchaudio",
        "triton",
        "accelerate",
        "deepspeed",
        "transformers",
        "numpy",
    ]
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu.check",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m tools.gpu.check --out gpu.json\n\n"
        f"steps: {', '.join(names)}\n"
        "exit status: 0 nothing failed, 1 a step failed, 69 a package or the GPU is "
        "missing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny sizes")
    add("--only", nargs="+", choices=names, metavar="STEP", help="and what they need")
    add("--minutes", type=float, default=9.0, help="begin no step after (default 9)")
    add("--work", type=Path, help="folder to keep runs and logs in; else a temporary")
    add("--out", type=Path, help="JSON to write; beside it goes the same as Markdown")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of ``python -m tools.gpu.check``; its exit status."""
    args = _arguments(argv)
    missing = missing_packages(REPOSITORY / "setup.cfg")
    if missing:
        _say_missing(missing)
        return EXIT_UNAVAILABLE
    with tempfile.TemporaryDirectory(prefix="gpu_check") as temporary:
        check = Check.open(
            args.device,
            args.work.resolve() if args.work else Path(temporary),
            deadline=time.monotonic() + 60 * args.minutes,
        )
        if not check.num_devices:
            print(
                "torch sees no GPU here; --device cpu tries the rest", file=sys.stderr
            )
            return EXIT_UNAVAILABLE
        facts = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": f"python {shlex.join(sys.orig_argv[1:])}",
            "device": args.device,
            "versions": _versions(),
            "machine": check.facts,
        }
        print(json.dumps(facts), flush=True)
        report = Report(args.out, facts)
        run_steps(check, with_needs(args.only), report)
        print(f"\n{report.page()}")
    return EXIT_FAILED if report.num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
