"""What to evaluate on what: the configuration of psl.evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psl.config import BatchSize, CountOrZero, Seconds, Share, config
from psl.data.config import LoaderConfig
from psl.distributed.config import ArithmeticConfig

DEFAULT_RESAMPLES = 1000
"""Of the clips, for 95 % intervals."""


@config
class EvaluateConfig:
    """What to evaluate on what."""

    checkpoint: str
    """A run folder (the average of its checkpoints if it has one, else the best one), a
    checkpoint folder, or the name of a fetched teacher (psl teachers)."""
    audio: str
    """Audio dataset with the true labels."""
    out: str
    """Folder for metrics.json and per_class.csv."""
    classes: Literal["same", "shared"] = "same"
    """same refuses audio of other classes than the checkpoint's; shared measures those
    that both have, matched by mid, and leaves out the others."""
    window_seconds: Seconds | None = None
    """Length of the windows in which each clip is scored, s; its score is their mean.
    null for whole clips."""
    hop_seconds: Seconds | None = None
    """From the start of one window to that of the next, s; null for window_seconds."""
    strong: str | None = None
    """CSV of true events as AudioSet-strong has them (segment_id, start_time_seconds,
    end_time_seconds, label), or DESED, to measure what is found when; null for clips
    only."""
    segment_seconds: Seconds | None = None
    """With strong: length of the segments that are scored, s; null for 1."""
    min_overlap: Seconds | None = None
    """With strong: an event counts for a segment if this much of it, s, or half of it
    lies there; null for 0.25, and for a quarter of shorter segments than 1 s."""
    max_left_out: Share | None = None
    """With strong: share of the clips' events that may have an unknown mid or lie
    outside their clip; null for 0."""
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = DEFAULT_RESAMPLES
    """Resamples of the clips for the 95 % intervals; 0 for none."""
    bootstrap_seed: CountOrZero = 0
    """Seed of the resamples."""
    official: str | None = None
    """List of the clips that there should be: AudioSet's segments CSV, or an id, its
    SHA-256 or the name of a file on each line. How many are there is then stated; null
    for no such list."""
    relabelled: str | None = None
    """Segments CSV with other labels of the clips, measured besides the audio's own;
    null for none."""
    corrections: str | None = None
    """File of psl review: measures against the labels as corrected by it, too; null for
    none."""
    ontology: str | None = None
    """Measures against the labels with their ancestors, too: audioset for the ontology
    that is shipped, or a file in the form of its ontology.json; null for none."""
    store_scores: bool = True
    """Write scores.npz, which psl.compare reads: 4 bytes for each clip and class."""
    batch_size: BatchSize = 32
    """Clips scored at a time by each process."""
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    loader: LoaderConfig = LoaderConfig()

    def __post_init__(self) -> None:
        self.loader.check_no_transcode("an evaluation")
        check_windows(self.window_seconds, self.hop_seconds)
        if self.bootstrap == 1:
            raise ValueError(
                "bootstrap = 1: one resample has no interval; set 0 for none, or 1000"
            )
        for name in ("segment_seconds", "min_overlap", "max_left_out"):
            if getattr(self, name) is not None and self.strong is None:
                raise ValueError(f"{name} does nothing without strong; set both")


def check_windows(window_seconds: float | None, hop_seconds: float | None) -> None:
    """ValueError unless windows cover all audio, or there are none."""
    if window_seconds is None and hop_seconds is not None:
        raise ValueError("hop_seconds needs window_seconds; set both")
    if (hop_seconds or 0.0) > (window_seconds or 0.0):
        raise ValueError(
            f"hop_seconds = {hop_seconds:g} is longer than window_seconds = "
            f"{window_seconds:g}: audio between windows would not be scored"
        )
