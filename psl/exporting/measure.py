"""mAP of a quantised model beside that of the model that it was made of."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from psl.data.checks import check_has_labels
from psl.data.config import LoaderConfig
from psl.evaluation.metrics import Metrics
from psl.evaluation.scoring import evaluate_model
from psl.weights.checkpoint import Checkpoint, check_checkpoint_fits
from shards.format.index import open_index


def measure_pair(
    plain: nn.Module, small: nn.Module, audio: str, checkpoint: Checkpoint
) -> tuple[Metrics, Metrics]:
    """Metrics of two models on all clips of an audio dataset, on the CPU.

    Raises ValueError if it has other classes, another rate, or no labels.
    """
    index = open_index(audio, kind="audio")
    check_has_labels(index, "measure")
    check_checkpoint_fits(index, checkpoint)
    accelerator = Accelerator(cpu=True)
    first, second = (
        evaluate_model(model.eval(), index, accelerator, loader=LoaderConfig())
        for model in (plain, small)
    )
    return first, second
