"""The configurations of loading and of augmentation, stored and in training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psl.config import Seconds, config
from shards.dataset.cache import DEFAULT_LIMIT_BYTES
from shards.format.meta import MAX_GAIN_DB

RollFill = Literal["wrap", "zero"]
MixupLabels = Literal["mixed", "heard"]
Setting = str | int | float | bool | None
"""A property or provenance field of a label dataset."""

Decibels = Annotated[float, Field(ge=1e-6, le=MAX_GAIN_DB)]
"""The largest gain, dB."""
NumMasks = Annotated[int, Field(ge=0, le=1000)]
"""Masks over one example."""


@config
class LoaderConfig:
    """How batches are fetched; has no effect on their contents."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads per process that read and decode; null for the number of cores, at most
    16."""
    prefetch: int = Field(default=8, ge=1, le=10_000)
    """Batches fetched ahead; one for each thread if that is more."""
    cache: str | None = None
    """Folder for shards of datasets at a URL, shared by all processes that name it;
    null for psl/shards in the user's cache folder. Best on a local disk."""
    cache_gb: float = Field(default=DEFAULT_LIMIT_BYTES / 1e9, ge=1e-9, le=1e9)
    """Size of that folder at most, 1e9 bytes; least recently used shards make room."""
    transcode: Literal["wav"] | None = None
    """wav keeps the clips of FLAC, Opus and source shards decoded in the same folder,
    also those of local datasets, as far as they fit: training then decodes each once.
    The samples are the same. null decodes them every time."""
    readahead_gb: float | None = Field(default=None, ge=0, le=1e9)
    """Local shards that training asks the kernel to read before they are needed, 1e9
    bytes a process; null for a quarter of the memory that is available at the start,
    shared by the processes of the machine, 0 for none."""

    def check_no_transcode(self, what: str) -> None:
        """ValueError if decoded clips are to be kept for a job that reads each once."""
        if self.transcode is not None:
            raise ValueError(
                f"loader.transcode = {self.transcode} keeps decoded clips for the next "
                f"epoch, but {what} reads each once; leave it out"
            )


@config
class AugmentConfig:
    """How the views of a chunk differ from it."""

    seed: int = Field(default=0, ge=0, lt=1 << 31)
    """Seed of gains and rolls."""
    gain_db: Decibels | None = None
    """Gains are drawn evenly between minus this and this, dB; null for none. Samples
    outside the range of int16 are clipped."""
    roll_seconds: Seconds | None = None
    """Chunks are moved in time by up to this, s, either way, but by no more than half
    of the audio they hold; null for not at all."""
    roll_fill: RollFill = "wrap"
    """What comes in at one end: wrap for what left at the other, zero for silence."""

    def check_used(self) -> None:
        """ValueError for an option that has no effect, as another one is unset."""
        is_on = self.gain_db is not None or self.roll_seconds is not None
        if self.seed and not is_on:
            raise ValueError(
                f"augment.seed = {self.seed} without gain_db or roll_seconds: there is "
                "nothing to draw; set views and one of these, or leave the seed out"
            )
        if self.roll_fill != "wrap" and self.roll_seconds is None:
            raise ValueError(
                f"augment.roll_fill = {self.roll_fill} without roll_seconds: nothing "
                "is rolled; set augment.roll_seconds, or leave roll_fill out"
            )


@config
class TrainAugmentConfig:
    """What is done to the examples of training; nothing by default."""

    gain_db: Decibels | None = None
    """Gains are drawn evenly between minus this and this, dB; null for none. Samples
    outside the range of int16 are clipped."""
    roll_seconds: Seconds | None = None
    """Examples are moved in time by up to this, s, either way, but by no more than half
    of the audio they hold; null for not at all."""
    roll_fill: RollFill | None = None
    """With roll_seconds, what comes in at one end: wrap for what left at the other,
    zero for silence; null for wrap."""
    crop: Literal["random"] | None = None
    """random takes each example of data.chunk_seconds from anywhere in its clip, not
    with stored labels; null for the clip's chunks."""
    mixup_alpha: float | None = Field(default=None, ge=1e-3, le=1e6)
    """Waveforms and targets of two examples are mixed, with a share of the first drawn
    from Beta(this, this): 1 for a uniform share, less for mostly one of the two; null
    for no mixup."""
    mixup_probability: float | None = Field(default=None, gt=0, le=1)
    """With mixup_alpha, the probability that an example is mixed; null for 1."""
    mixup_labels: MixupLabels | None = None
    """With mixup_alpha and data.labels=online, the targets of a mixture: mixed from the
    teacher's for the two examples, or heard by the teacher in the mixture; null for
    mixed."""
    time_masks: NumMasks = 0
    """Masks in time over the features of each example (SpecAugment)."""
    time_mask_seconds: Seconds | None = None
    """Longest time mask, s; lengths are drawn evenly from 0 to this."""
    frequency_masks: NumMasks = 0
    """Masks in frequency over the features of each example (SpecAugment)."""
    frequency_mask_share: float | None = Field(default=None, gt=0, lt=1)
    """Widest frequency mask, as a share of the mel bands; widths are drawn evenly from
    0 to this."""

    def __post_init__(self) -> None:
        for needed, *others in _TOGETHER:
            for name in others:
                if getattr(self, name) is not None and not getattr(self, needed):
                    raise ValueError(f"{name} does nothing without {needed}; set both")
        for number, size in _MASKS:
            if getattr(self, number) and getattr(self, size) is None:
                raise ValueError(f"{number} need {size}; set both")


_MASKS = (
    ("time_masks", "time_mask_seconds"),
    ("frequency_masks", "frequency_mask_share"),
)
_TOGETHER = (
    ("roll_seconds", "roll_fill"),
    ("mixup_alpha", "mixup_probability", "mixup_labels"),
    *_MASKS,
)
"""A field, and those that do nothing without it."""
