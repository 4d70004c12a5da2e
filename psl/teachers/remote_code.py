"""The code that came with a Hugging Face model, as a part of who the teacher is.

Owns its hash: of the files that the classes were loaded from and those that they
import, wherever transformers has copied them to.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from shards.files import file_sha256
from shards.schema import sha256_of

PACKAGE = "transformers_modules"
"""In which transformers puts all modules that came with models."""


def remote_code_sha256(objects: Iterable[object]) -> str | None:
    """Hex SHA-256 of the names and bytes of the files; None if there are none.

    Of the classes of ``objects``, and what these files import of their own kind.
    """
    modules = {
        kind.__module__
        for thing in objects
        for kind in type(thing).__mro__
        if kind.__module__.split(".")[0] == PACKAGE
    }
    if not modules:
        return None
    utils = importlib.import_module("transformers.dynamic_module_utils")
    hashes: set[str] = set()
    for name in modules:
        file = Path(str(sys.modules[name].__file__))
        for path in (file, *map(Path, utils.get_relative_import_files(str(file)))):
            hashes.add(f"{path.name} {file_sha256(path)}\n")
    return sha256_of("".join(sorted(hashes)).encode())
