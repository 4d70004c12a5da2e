"""Faults injected on purpose, to see that a run survives them.

Owns the environment variable PSL_FAULT, unset in real life:

    PSL_FAULT="rank=1,step=7,point=checkpoint.inside,action=kill"

``rank``, ``step`` (optimizer step, from 1) and ``restart`` (how often torchrun has
restarted the job in place, from 0) may be left out and then match any.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass

POINTS = (
    "data",
    "step",
    "evaluate",
    "checkpoint.before",
    "checkpoint.inside",
    "checkpoint.after",
)
ACTIONS = ("kill", "stop", "exception", "nan", "hang")
"""SIGKILL, SIGSTOP, an exception, targets that are NaN, waiting forever."""
_FORM = "rank=1,step=7,point=step,action=kill"


@dataclass(frozen=True)
class Fault:
    """What to do to which rank, where and when; None matches any."""

    point: str
    action: str
    rank: int | None = None
    step: int | None = None
    restart: int | None = None


def parse_fault(text: str) -> Fault:
    """The fault that PSL_FAULT describes; ValueError says what is wrong with it."""
    words: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = word.strip().partition("=")
        if not equals or key in words:
            raise ValueError(f"PSL_FAULT={text}: {word!r}: expected {_FORM}")
        words[key] = value
    point, action = words.pop("point", ""), words.pop("action", "")
    if point not in POINTS:
        raise ValueError(f"PSL_FAULT={text}: point {point!r}, expected one of {POINTS}")
    if action not in ACTIONS:
        raise ValueError(f"PSL_FAULT={text}: action {action!r}, expected of {ACTIONS}")
    if action == "nan" and point != "step":
        raise ValueError(f"PSL_FAULT={text}: nan is for point=step")
    if unknown := set(words) - {"rank", "step", "restart"}:
        raise ValueError(f"PSL_FAULT={text}: unknown {sorted(unknown)}; see {_FORM}")
    if wrong := [word for word in words.values() if not word.isdecimal()]:
        raise ValueError(f"PSL_FAULT={text}: {wrong}: expected whole numbers")
    numbers = {key: int(value) for key, value in words.items()}
    return Fault(point, action, **numbers)


class Faults:
    """The fault this process is to have, if any."""

    def __init__(self, fault: Fault | None = None) -> None:
        self._fault = fault

    @staticmethod
    def from_environment(*, rank: int, restart: int) -> Faults:
        """The fault PSL_FAULT sets for ``rank`` in its ``restart``-th restart."""
        text = os.environ.get("PSL_FAULT")
        if text is None:
            return Faults()
        fault = parse_fault(text)
        meant = fault.rank in (None, rank) and fault.restart in (None, restart)
        return Faults(fault if meant else None)

    def at(self, point: str, step: int) -> bool:
        """Do what is asked for at ``point``; True to request a NaN loss."""
        assert point in POINTS
        fault = self._fault
        if fault is None or fault.point != point or fault.step not in (None, step):
            return False
        return _do(fault)


def _do(fault: Fault) -> bool:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.action == "hang":
        threading.Event().wait()
    elif fault.action == "exception":
        raise OSError(f"PSL_FAULT: an error at point {fault.point}")
    return fault.action == "nan"
