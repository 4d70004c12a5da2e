"""Import torchaudio even where its compiled extension cannot load.

The only place that works around it. Beside a CPU torch, or one built for another CUDA
minor version, torchaudio's extension fails to load and takes the whole import with it,
although everything used here is pure Python. Then a stand-in without the extension is
put in its place. Import ``torchaudio`` from here, and this module before any library
that imports torchaudio itself (transformers does).
"""

from __future__ import annotations

import importlib
import sys
import types


def import_torchaudio() -> types.ModuleType:
    """torchaudio, with its own extension if that loads and without it if not."""
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        sys.modules["torchaudio._extension"] = _stand_in()
        return importlib.import_module("torchaudio")


def _stand_in() -> types.ModuleType:
    module = types.ModuleType("torchaudio._extension")

    def fail_if_no_align(function: object) -> object:
        """Forced alignment is compiled code, and unused here."""
        return function

    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        fail_if_no_align=fail_if_no_align,
    )
    return module


torchaudio = import_torchaudio()


def import_kaldi() -> types.ModuleType:
    """torchaudio.compliance.kaldi, which torchaudio does not import by itself."""
    return importlib.import_module("torchaudio.compliance.kaldi")
