"""Learning plane: audio taggers trained with pseudo strong labels.

Owns tensors: models, losses, metrics, training, labelling, evaluation. Data comes from
the ``shards`` package, which knows nothing of this one.
"""

from psl.features._torchaudio import torchaudio as _torchaudio  # noqa: F401 - must come first
from psl.models.families import build_model
from shards import __version__

__all__ = ["__version__", "build_model"]
