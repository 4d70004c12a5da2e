"""What to evaluate on what: the configuration of psl.evaluate."""

from __future__ import annotations

from typing import Literal

from psl.config import BatchSize, config
from psl.data.config import LoaderConfig


@config
class EvaluateConfig:
    """What to evaluate on what."""

    checkpoint: str
    """A run folder (the average of its checkpoints if it has one, else the best one) or
    a checkpoint folder."""
    audio: str
    """Audio dataset with the true labels."""
    out: str
    """Folder for metrics.json and per_class.csv."""
    classes: Literal["same", "shared"] = "same"
    """same refuses audio of other classes than the checkpoint's; shared measures those
    that both have, matched by mid, and leaves out the others."""
    batch_size: BatchSize = 32
    """Clips scored at a time by each process."""
    loader: LoaderConfig = LoaderConfig()
