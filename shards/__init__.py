"""Data plane: audio clips and label rows as bytes, keys, tables and order.

Owns everything between files on disk and NumPy arrays. Never imports torch or psl.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.dataset.clips import open_dataset
    from shards.pipeline import as_webdataset

__version__ = "0.1.0"

__all__ = ["__version__", "as_webdataset", "open_dataset"]

_HOMES = {
    "as_webdataset": "shards.pipeline",
    "open_dataset": "shards.dataset.clips",
}
"""Where the public names live. They load when first used, so that commands start
fast."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
