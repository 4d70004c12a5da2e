"""The configuration of a training run.

Owns the fields that belong to no component; each component keeps its own.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from psl.config import STRICT
from psl.data.augment import TrainAugmentConfig
from psl.data.labels import Setting
from psl.data.loader import LoaderConfig
from psl.distributed import launch
from psl.job.attempt import AttemptConfig
from psl.models.families import ModelConfig
from psl.models.mobilenetv2 import MobileNetV2Config
from psl.teachers.config import TeacherList
from psl.training.optim import OptimConfig
from psl.training.step import Nonfinite


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Datasets of a run."""

    audio: list[str]
    """Audio datasets to train on, taken together."""
    valid: str
    """What chooses the best checkpoint: an audio dataset, not the one you report;
    held_out for a part of audio that is not trained on; train for audio itself, as the
    paper's program has it."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """With valid held_out: about which share of the recordings; the same each time."""
    labels: Literal["online"] | list[str] | None = None
    """Label datasets, one for each of audio; null trains on the weak labels; online has
    data.teacher label each batch as it comes."""
    teacher: TeacherList | None = None
    """With labels online: who labels, by path, as for psl.label."""
    max_unlabelled: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the clips that may be left out because psl.label could not label
    them; 0 refuses such labels."""
    chunk_seconds: float = Field(default=10.0, gt=0)
    """Length of a training example, s; that of the labels if there are any."""
    hop_seconds: float | None = Field(default=None, gt=0)
    """From the start of one example to that of the next, s; null for that of the
    labels if there are any, else for chunk_seconds."""
    label_settings: dict[str, Setting] | None = None
    """What labels must say of themselves, such as {teacher_sha256: ...}: properties or
    provenance in their index.json, by name; null for a name they must not have."""
    alpha: float = Field(default=1.0, ge=0, le=1)
    """Weight of the pseudo labels against the weak ones in the target."""
    balance: float | None = Field(default=None, ge=0, le=1)
    """Copies of a clip in an epoch go by (sum of 1 / clips of each of its classes) to
    this power: 1 shows rare classes about as often as common ones, 0.5 goes part of the
    way, null shows each clip once. An epoch stays as long."""
    balance_limit: float = Field(default=20.0, ge=1, allow_inf_nan=False)
    """Copies in an epoch, over those of an average clip, that balance gives at most."""
    mix: list[float] | None = None
    """One positive number for each of audio: its share of an epoch, relative to their
    sum; classes are then balanced within each. null for as many chunks as there are."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A training run."""

    run_dir: str
    """Folder of the run; an unfinished run in it goes on where it stopped."""
    data: DataConfig
    model: ModelConfig = MobileNetV2Config()
    start: str | None = None
    """Weights to start from: a run (its average, else its best checkpoint), a
    checkpoint folder, or a Hugging Face EfficientNet, ResNet or AST (folder or Hub
    name) for these families. The classifier is new where the classes are others; all
    else must fit, and model.front_end be the same. null for fresh weights."""
    optim: OptimConfig = OptimConfig()
    loader: LoaderConfig = LoaderConfig()
    augment: TrainAugmentConfig = TrainAugmentConfig()
    global_batch_size: int = Field(default=32, gt=0)
    """Chunks per optimizer step over all processes; their number must divide it."""
    epochs: int = Field(default=300, gt=0)
    """Epochs at most; each has as many chunks as the data, balanced or not."""
    patience: int | None = Field(default=15, gt=0)
    """Validations without a better mAP after which training ends; null for never."""
    keep_best: int = Field(default=4, gt=0)
    """Checkpoints kept by validation mAP, beside the newest two."""
    average_best: int | None = Field(default=None, gt=0)
    """How many of the best checkpoints to average at the end; the average is then what
    the run stands for. At most keep_best; null for the best one alone."""
    precision: launch.Precision | None = None
    """Autocast type of the forward pass; no for none (float32; TF32 on some GPUs); null
    for what accelerate launch says, or else no."""
    strategy: launch.Strategy | None = None
    """What each process holds: ddp everything; zero1 a part of Adam's state, zero2 also
    of the gradients, zero3 also of the weights, all three by DeepSpeed; null for what
    accelerate launch says, or else ddp. A run may go on with another one."""
    seed: int = Field(default=0, ge=0)
    """Of the initial weights, the order of chunks, dropout and augment."""
    log_every: int = Field(default=20, gt=0)
    """Steps between records of loss and speed; each epoch's end has one, too."""
    save_every: int | None = Field(default=None, gt=0)
    """Steps between checkpoints inside an epoch; null for one at each epoch's end."""
    valid_every: int | None = Field(default=None, gt=0)
    """Steps between validations, each with a checkpoint, for epochs that take days; the
    last step has one, too. null for one at each epoch's end."""
    accumulation_steps: int = Field(default=1, gt=0)
    """Parts of each process's share of a global batch, one after the other; BatchNorm
    sees a part at a time."""
    nonfinite: Nonfinite = "stop"
    """What to do when loss or gradient is NaN or infinite: stop the run, or skip the
    update."""
    max_skipped_steps: int = Field(default=10, ge=0)
    """Updates that a run may skip before it stops after all."""
    compile: bool = False
    """Compile the model for training with torch.compile; slow to start."""
    sync_batch_norm: bool = False
    """Take BatchNorm statistics over the whole global batch; GPUs only."""
    attempt: AttemptConfig = AttemptConfig()
    accept_changes: list[str] = Field(default_factory=list)
    """Keys that a resumed run may change although the rest of the run then differs from
    its beginning, such as [epochs] or [optim.learning_rate]."""
