"""What to find when: the configuration of psl.events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psl.config import BatchSize, Seconds, Share, config
from psl.data.config import LoaderConfig
from psl.evaluation.config import check_windows

DEFAULT_THRESHOLD = 0.5
SecondsOrZero = Annotated[float, Field(ge=0, le=600)]
"""A length in time, or none."""


@config
class EventsConfig:
    """What finds events in what, and by which rules."""

    checkpoint: str
    """A run folder (the average of its checkpoints if it has one, else the best one), a
    checkpoint folder, or the name of a published teacher."""
    audio: str
    """Audio dataset to find events in."""
    out: str
    """Folder for events.tsv, rules.json and, with strong, metrics.json, per_class.csv
    and clip.png."""
    classes: Literal["same", "shared"] = "same"
    """same refuses audio of other classes than the checkpoint's; shared finds events of
    those that both have, matched by mid."""
    strong: str | None = None
    """CSV of the true events of audio as AudioSet-strong has them (segment_id,
    start_time_seconds, end_time_seconds, label) or DESED (filename, onset, offset,
    event_label), to measure against; null for none."""
    fit_audio: str | None = None
    """Audio dataset to fit thresholds and median filters to, class by class: not the
    one you report. null for the rules below."""
    fit_strong: str | None = None
    """CSV of the true events of fit_audio, in one of the same forms."""
    fit_for: Literal["segment", "event"] = "segment"
    """With fit_audio: the F1 that is to be high, of 1-s segments or of events."""
    rules: str | None = None
    """rules.json of an earlier call, to apply; null for the rules below."""
    threshold: float = Field(default=DEFAULT_THRESHOLD, ge=0, le=1)
    """A class sounds in a frame whose probability is at least this."""
    median_seconds: SecondsOrZero = 0.0
    """Length of a median filter over the frames, s; 0 for none."""
    min_seconds: SecondsOrZero = 0.0
    """Shorter events are dropped, s."""
    max_gap_seconds: SecondsOrZero = 0.0
    """Shorter gaps between events of a class are filled, s."""
    window_seconds: Seconds | None = None
    """Length of the windows in which each clip is scored, s, each a frame; null for the
    model's own frames."""
    hop_seconds: Seconds | None = None
    """From the start of one window to that of the next, s; null for window_seconds."""
    form: Literal["audioset", "desed"] = "audioset"
    """Columns of events.tsv: AudioSet-strong's, with mids, or DESED's (filename, onset,
    offset, event_label), with names of classes, and files named as in strong."""
    max_left_out: Share | None = None
    """Share of the true events, of each list, that may have an unknown mid or lie
    outside their clip; null for 0."""
    batch_size: BatchSize = 32
    """Clips scored at a time."""
    loader: LoaderConfig = LoaderConfig()

    def __post_init__(self) -> None:
        self.loader.check_no_transcode("detecting events")
        if (self.fit_audio is None) != (self.fit_strong is None):
            raise ValueError("fit_audio and fit_strong belong together; set both")
        if self.fit_audio is not None and self.rules is not None:
            raise ValueError(
                "rules are fitted to fit_audio or read from rules, not both; leave one "
                "out"
            )
        if self.fit_audio is None and self.fit_for != "segment":
            raise ValueError("fit_for does nothing without fit_audio; set both")
        lists = (self.strong, self.fit_strong)
        if lists == (None, None) and self.max_left_out is not None:
            raise ValueError("max_left_out does nothing without strong; set both")
        if self.rules is not None:
            self._check_rules_alone()
        check_windows(self.window_seconds, self.hop_seconds)

    def _check_rules_alone(self) -> None:
        """ValueError if a rule is given besides the file of all rules."""
        given = {
            "threshold": self.threshold != DEFAULT_THRESHOLD,
            "median_seconds": self.median_seconds,
            "min_seconds": self.min_seconds,
            "max_gap_seconds": self.max_gap_seconds,
        }
        if names := [name for name, is_set in given.items() if is_set]:
            raise ValueError(
                f"{names[0]} does nothing with rules, a file that has it for each "
                "class; leave one of the two out"
            )
