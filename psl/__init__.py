"""Learning plane: audio taggers trained with pseudo strong labels.

Owns tensors: models, losses, metrics, training, labelling, evaluation. Data comes from
the ``shards`` package, which knows nothing of this one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shards import __version__

if TYPE_CHECKING:
    from psl.models.families import build_model

__all__ = ["__version__", "build_model"]

_HOMES = {"build_model": "psl.models.families"}
"""Where the public names live. They load when first used, so that --help needs no
torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
