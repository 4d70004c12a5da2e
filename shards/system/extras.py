"""What to type for the packages of an optional part of psl, in a clone or without."""

from __future__ import annotations

import importlib.metadata
import shlex

from packaging.requirements import Requirement

DISTRIBUTION = "psl-audio"


def pip_install(extra: str) -> str:
    """The command that installs the packages of ``extra``, a name in setup.cfg.

    It names the packages, since ``-e '.[extra]'`` works in a clone alone. Where psl is
    not installed it runs from a clone, and its packages are not known.
    """
    try:
        asked = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        asked = []
    wanted = [
        text.partition(";")[0].strip()
        for text in asked
        if (marker := Requirement(text).marker) and marker.evaluate({"extra": extra})
    ]
    return (
        f"pip install {shlex.join(wanted)}"
        if wanted
        else f"pip install -e '.[{extra}]'"
    )
