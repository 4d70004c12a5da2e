"""What some tests need beyond Python: programs, rights, and how to get them.

Owns the list, how each kind is detected, and what is said where one is missing. A test
marked ``@needs("nginx")`` is skipped where nginx is missing, and the run ends with one
line for each missing kind. With PSL_CI=1 what is missing is an error. PSL_HIDE=nginx
hides a kind; root, the right; all, everything: to try a machine without them. Tests
start programs only through here, so that nothing hidden can be started.

python tests/needs.py prints the Debian packages, for apt-get install.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # listing the packages must work before pytest is installed
    import pytest

_PREFIX = "needs "
"""How the reason of a skip for want of a kind begins."""
OPTIONAL = "optional: "
"""How the reason of a skip begins that CI allows: for want of files that are no part of
the project and that nothing installs."""


@dataclass(frozen=True)
class Need:
    """A kind of thing that some tests need."""

    what: str
    """Its name in messages."""
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    """The Debian packages with the programs."""
    root: bool = False
    """Whether only root can use it."""
    trial: Callable[[], str | None] | None = None
    """Tries it, for what a machine may forbid; returns what went wrong."""


def try_namespaces() -> str | None:
    """Make and delete a network namespace with a virtual cable in it.

    Containers often forbid this even to root.
    """
    name = f"psl-{secrets.token_hex(3)}-trial"
    ip = program("ip")
    steps = [("netns", "add", name), ("-n", name, "link", "add", "type", "veth")]
    try:
        for words in steps:
            done = subprocess.run([ip, *words], capture_output=True, text=True)
            if done.returncode != 0:
                return (
                    f"`ip {' '.join(words)}` failed with {done.stderr.strip()!r}; use "
                    "a container with CAP_SYS_ADMIN and CAP_NET_ADMIN, or none"
                )
        return None
    finally:
        subprocess.run([ip, "netns", "delete", name], capture_output=True)


def try_onnxruntime_web() -> str | None:
    """Whether onnxruntime-web was fetched, whole."""
    from tests import onnxruntime_web  # not to list the packages

    return onnxruntime_web.problem()


def try_trackers() -> str | None:
    """Whether the environment of the trackers was made."""
    from tests import trackers_venv  # not to list the packages

    return trackers_venv.problem()


KINDS = {
    "nginx": Need("nginx", programs=("nginx",), packages=("nginx",)),
    "slurm": Need(
        "SLURM",
        programs=("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel"),
        packages=("slurm-wlm", "munge"),
        root=True,
    ),
    "netns": Need(
        "network namespaces",
        programs=("ip",),
        packages=("iproute2",),
        root=True,
        trial=functools.cache(try_namespaces),
    ),
    "browser": Need("a browser", programs=("chromium",), packages=("chromium",)),
    "onnxruntime-web": Need(
        "onnxruntime-web in a browser",
        programs=("chromium",),
        packages=("chromium",),
        trial=functools.cache(try_onnxruntime_web),
    ),
    "trackers": Need(
        "W&B, MLflow and trackio",
        programs=(),
        packages=(),
        trial=functools.cache(try_trackers),
    ),
}


def needs(kind: str) -> pytest.MarkDecorator:
    """Marks a test, a module or a parameter that needs the ``kind`` of KINDS."""
    import pytest

    if kind not in KINDS:
        raise ValueError(f"needs({kind!r}): expected one of {', '.join(KINDS)}")
    return pytest.mark.needs(kind)


def program(name: str) -> str:
    """The path of a program; FileNotFoundError if it is missing or hidden."""
    path = _find(name)
    if path is None:
        raise FileNotFoundError(f"{name}: not on this machine, or in PSL_HIDE")
    return path


def search_path() -> str:
    """PATH and the folders of daemons, which ordinary users often lack in theirs."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def missing(kind: str) -> str | None:
    """What this machine lacks of a kind and what to do about it; None if nothing."""
    need = KINDS[kind]
    lacks = [name for name in need.programs if _find(name) is None]
    parts = []
    if lacks:
        install = f"apt-get install {' '.join(need.packages)}"
        parts.append(f"no {', '.join(lacks)} here (on Debian: {install})")
    if need.root and not _is_root():
        parts.append("run as root")
    if not parts and kind in _hidden():
        parts.append("hidden by PSL_HIDE")
    if not parts and need.trial is not None:
        parts = [problem] if (problem := need.trial()) else []
    return "; ".join(parts) or None


def check(item: pytest.Item) -> None:
    """Skip a test that needs what is missing; under PSL_CI fail it.

    For the hook pytest_runtest_setup.
    """
    import pytest

    for mark in item.iter_markers("needs"):
        (kind,) = mark.args
        if lacks := missing(kind):
            reason = f"{_PREFIX}{KINDS[kind].what}: {lacks}"
            if in_ci():
                pytest.fail(f"{reason} (PSL_CI is set)", pytrace=False)
            pytest.skip(reason)


def in_ci() -> bool:
    """Whether every test must run."""
    return os.environ.get("PSL_CI", "") not in ("", "0")


def forbidden(reasons: Iterable[str]) -> list[str]:
    """Those of the reasons of skips that make a run of CI fail."""
    return [r for r in reasons if not r.removeprefix("Skipped: ").startswith(OPTIONAL)]


def summary(reasons: Iterable[str]) -> list[str]:
    """A line for each different reason of a skip, saying how many tests have it."""
    lines = []
    for reason, count in Counter(reasons).items():
        reason = reason.removeprefix("Skipped: ")
        if reason.startswith(_PREFIX):
            verb = "test needs" if count == 1 else "tests need"
            lines.append(f"{count} {verb} {reason.removeprefix(_PREFIX)}")
        else:
            lines.append(f"{count} skipped: {reason}")
    return lines


def _find(name: str) -> str | None:
    hidden = _hidden()
    if any(name in KINDS[kind].programs for kind in hidden if kind in KINDS):
        return None
    return shutil.which(name, path=search_path())


def _is_root() -> bool:
    return os.geteuid() == 0 and "root" not in _hidden()


def _hidden() -> set[str]:
    """The kinds in PSL_HIDE."""
    known = {*KINDS, "root"}
    hidden = {word for word in os.environ.get("PSL_HIDE", "").split(",") if word}
    if hidden == {"all"}:
        return known
    if unknown := hidden - known:
        raise ValueError(
            f"PSL_HIDE: found {', '.join(sorted(unknown))}; expected all, or some of "
            f"{', '.join(sorted(known))} separated by commas"
        )
    return hidden


def packages() -> Sequence[str]:
    """The Debian packages that have all the programs."""
    every = [name for need in KINDS.values() for name in need.packages]
    return list(dict.fromkeys(every))


if __name__ == "__main__":
    print(*packages())
