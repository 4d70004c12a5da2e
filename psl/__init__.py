"""Learning plane: audio taggers trained with pseudo strong labels.

Owns tensors: models, losses, metrics, training, labelling, evaluation. Data comes from
the ``shards`` package, which knows nothing of this one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shards import __version__

if TYPE_CHECKING:
    from psl.adapting.job import adapt
    from psl.data.pseudo_labels import read_labels
    from psl.data.torch_datasets import open_chunks
    from psl.labelling.store import write_labels
    from psl.models.families import build_model
    from psl.tagger import load

__all__ = [
    "__version__",
    "adapt",
    "build_model",
    "load",
    "open_chunks",
    "read_labels",
    "write_labels",
]

_HOMES = {
    "adapt": "psl.adapting.job",
    "build_model": "psl.models.families",
    "load": "psl.tagger",
    "open_chunks": "psl.data.torch_datasets",
    "read_labels": "psl.data.pseudo_labels",
    "write_labels": "psl.labelling.store",
}
"""Where the public names live. They load when first used, so that --help needs no
torch."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
