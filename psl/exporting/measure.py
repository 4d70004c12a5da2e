"""mAP of a quantised model beside that of the model that it was made of."""

from __future__ import annotations

import tempfile

from accelerate import Accelerator
from torch import nn

from psl.data.checks import check_has_labels, check_rate
from psl.data.config import LoaderConfig
from psl.evaluation.labels import weak_labels
from psl.evaluation.metrics import Metrics, evaluate_scores
from psl.evaluation.scoring import scores_on_disk
from psl.evaluation.shared_classes import InClassesOfAudio, share_classes
from psl.weights.checkpoint import Checkpoint
from shards.format.index import open_index

BATCH_SIZE = 1
"""Of both models: dynamic int8 chooses one range for all clips of a batch."""


def measure_pair(
    plain: nn.Module, small: nn.Module, audio: str, checkpoint: Checkpoint
) -> tuple[Metrics, Metrics]:
    """Metrics of two models on all clips of an audio dataset, on the CPU.

    On the classes that both have; the scores are in the folder for temporary files.
    Raises ValueError if they have none, for another rate, or if there are no labels.
    """
    index = open_index(audio, kind="audio")
    check_has_labels(index, "measure")
    rate = checkpoint.model_config.front_end.sample_rate
    check_rate(index, sample_rate=rate, what=str(checkpoint.folder))
    shared = share_classes(index.classes, checkpoint.classes, what=audio)
    labels = weak_labels(index).of_classes(shared.of_audio)
    accelerator, found = Accelerator(cpu=True), []
    for model in (plain, small):
        with scores_on_disk(
            InClassesOfAudio(model, shared, len(index.classes)).eval(),
            index,
            accelerator,
            folder=tempfile.gettempdir(),
            columns=shared.of_audio,
            batch_size=BATCH_SIZE,
            loader=LoaderConfig(),
        ) as scores:
            assert scores is not None, "this is the only process"
            found.append(evaluate_scores(labels, scores))
    return found[0], found[1]
