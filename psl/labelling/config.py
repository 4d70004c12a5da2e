"""The configurations of labelling: with a teacher, from others, for another packing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from psl.config import BatchSize, Seconds, Share, config
from psl.data.config import AugmentConfig, LoaderConfig
from psl.data.labels import LabelLayout
from psl.data.views import Augmentation
from psl.distributed.config import ArithmeticConfig, Precision
from psl.labelling.hearing import Fill, Hearing, hearing_of
from psl.teachers.config import TeacherList
from shards.format.chunking import Chunking
from shards.format.index import Index
from shards.format.label_codec import MAX_VIEWS, LabelForm, Tail


@config
class LabelConfig:
    """Which teacher labels what, how finely."""

    teacher: TeacherList
    """Teachers, by path; several give the mean of their probabilities."""
    audio: str
    """Audio dataset to label."""
    out: str
    """Label dataset to make; all processes that name it share the work."""
    chunk_seconds: Seconds = 2.0
    """Length of the chunks that get one label vector each, s."""
    hop_seconds: Seconds | None = None
    """From the start of one chunk to that of the next, s; null for chunk_seconds."""
    context_seconds: Seconds | None = None
    """What the teacher hears for the label of a chunk: so much of the clip, s, with the
    chunk in its middle, and within the clip; null for the chunk alone."""
    fill: Fill = "none"
    """Make each chunk longer for the teacher: repeat it, or put zeros after it."""
    fill_seconds: Seconds | None = None
    """With fill, how long, s: what the teacher was trained on."""
    top_k: int | None = Field(default=None, ge=1, le=1_000_000)
    """Store only this many classes of each chunk, the most probable; null for all."""
    tail: Tail | None = None
    """With top_k, what the other classes get: zero, or mean for the mean of theirs, so
    that the sum is kept; null for mean."""
    views: int = Field(default=1, ge=1, le=MAX_VIEWS)
    """Views of each chunk that are labelled; the first is the chunk as it is."""
    augment: AugmentConfig = AugmentConfig()
    batch_size: BatchSize = 64
    """Chunks the teacher sees at a time; the same for all processes, as it decides how
    the last bit is rounded."""
    precision: Precision = "no"
    """Autocast type of the teacher; no for none (float32, of which arithmetic says
    how a GPU computes it)."""
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    compile: bool = False
    """Compile the teacher with torch.compile; slow to start."""
    calibration: str | None = None
    """A calibration.json, or the label dataset that has one (psl.calibrate), applied to
    the probabilities before they are stored; null for none."""
    max_unlabelled: Share = 0.0
    """Fraction of the clips that may fail to decode; they get a row without chunks. One
    more stops the job, so 0 stops it at the first."""
    wait: bool = True
    """Stay while other processes work, to take over what they leave behind; false exits
    when no shard is free."""
    lease_seconds: float = Field(default=180.0, ge=1, le=1_000_000)
    """Time without a sign of life after which others take over the shards of a process,
    s. Network file systems may show files up to a minute late."""
    loader: LoaderConfig = LoaderConfig()


def label_layout(config: LabelConfig, audio: Index) -> LabelLayout:
    """The layout of the labels that ``config`` asks for.

    Raises ValueError for settings that contradict each other or the audio.
    """
    rate = audio.properties["sample_rate"]
    tail = config.tail or ("mean" if config.top_k else None)
    form = LabelForm(config.views, config.top_k, tail)
    form.check(len(audio.classes))
    augmentation = Augmentation.from_config(config.augment, rate)
    if (config.views > 1) != augmentation.is_on:
        raise ValueError(
            f"views = {config.views} with {config.augment}: views beyond the first "
            "need augment.gain_db or augment.roll_seconds to differ, and these do "
            "nothing without them"
        )
    config.augment.check_used()
    chunking = Chunking.from_seconds(config.chunk_seconds, rate, config.hop_seconds)
    return LabelLayout(chunking, form, augmentation)


def label_hearing(config: LabelConfig, audio: Index) -> Hearing:
    """What the teacher hears; ValueError for settings that contradict each other."""
    return hearing_of(
        chunk_seconds=config.chunk_seconds,
        context_seconds=config.context_seconds,
        fill=config.fill,
        fill_seconds=config.fill_seconds,
        views=config.views,
        sample_rate=audio.properties["sample_rate"],
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


PathList = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
"""A path, or several."""


@config
class ReorderConfig:
    """Which labels, for which audio."""

    labels: PathList
    """Label datasets, in any order; one path, or several in brackets."""
    audio: str
    """Audio dataset with the same clips, in any order and at any rate."""
    out: str
    """Label dataset to make."""
    old_audio: PathList | None = None
    """Audio datasets that the labels were made for, to compare the clips' lengths; null
    for those that the labels' made.json names, if they are still there."""


@config
class CalibrateConfig:
    """Which labels, on which weak labels."""

    labels: str
    """Label dataset with all classes (no top_k)."""
    audio: str
    """The audio dataset that they are of; its weak labels are what is fitted."""
    out: str
    """Label dataset to make; gets calibration.json too."""
    method: Literal["platt", "isotonic", "prior"] = "platt"
    """platt: by class sigmoid(a * logit + b), on the weak labels of the clips.
    isotonic: by class any curve that never falls, for many clips. prior: b alone, so
    that the classes are as frequent as priors says; needs no weak labels."""
    priors: str | None = None
    """With method=prior, a CSV with columns mid and prior: the share of clips that have
    the class."""


@config
class ImportConfig:
    """Which labels of others, for which audio."""

    source: str
    """A .parquet or .h5 file with a row for each chunk, in any order."""
    audio: str
    """Audio dataset whose clips they are of."""
    out: str
    """Label dataset to make."""
    chunk_seconds: Seconds = 2.0
    """Length of the chunks, s."""
    hop_seconds: Seconds | None = None
    """From the start of one chunk to that of the next, s; null for chunk_seconds."""
    key: str = "key"
    """Column, or HDF5 dataset, with the key of each chunk's clip."""
    chunk: str = "chunk"
    """The one with the number of the chunk in its clip, from 0."""
    probs: str = "probabilities"
    """The one with its probabilities: a list, or in HDF5 a row, with one per class."""
    classes: str | None = None
    """class_labels_indices.csv in the order of the probabilities; null if that is the
    audio's. Classes that the audio does not have are left out."""
    max_unlabelled: Share = 0.0
    """Fraction of the clips that may have no row; they get no labels."""
