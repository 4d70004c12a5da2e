"""The configuration of a training run, and of averaging its checkpoints.

Owns the fields that belong to no other room; each room keeps its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psl.config import BatchSize, Count, CountOrZero, Seconds, Share, config
from psl.data.config import LoaderConfig, Setting, TrainAugmentConfig
from psl.distributed.config import ArithmeticConfig, Precision, Strategy
from psl.job.config import AttemptConfig
from psl.models.config import MobileNetV2Config, ModelConfig
from psl.teachers.config import TeacherList

Nonfinite = Literal["stop", "skip"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

DEFAULT_BATCH_SIZE = 32
"""Chunks per optimizer step unless told otherwise (the published code's)."""
_MOST_CHUNKS = 1 << 20
MOST_PROFILED = 100
"""Steps in a profile: a trace of 100 has about a million events."""


def chunks_in(batch_seconds: float, chunk_seconds: float) -> int:
    """How many chunks a batch of ``batch_seconds`` has.

    Raises ValueError unless that is a whole number, from 1 to 2 ** 20.
    """
    chunks = round(batch_seconds / chunk_seconds)
    if abs(chunks * chunk_seconds - batch_seconds) > 1e-6 * batch_seconds:
        near = max(chunks, 1)
        raise ValueError(
            f"batch_seconds = {batch_seconds:g} is {batch_seconds / chunk_seconds:g} "
            f"chunks of data.chunk_seconds = {chunk_seconds:g}; expected a whole "
            f"number, such as batch_seconds={near * chunk_seconds:g} for {near}"
        )
    if not 1 <= chunks <= _MOST_CHUNKS:
        raise ValueError(
            f"batch_seconds = {batch_seconds:g} is {chunks} chunks of "
            f"data.chunk_seconds = {chunk_seconds:g}; expected 1 to {_MOST_CHUNKS}"
        )
    return chunks


@config
class DataConfig:
    """Datasets of a run."""

    audio: list[str]
    """Audio datasets to train on, taken together."""
    valid: str
    """What chooses the best checkpoint: an audio dataset, not the one you report;
    held_out for a part of audio that is not trained on; train for the training audio,
    as in the paper's code."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """With valid=held_out: the share of the recordings, about; the same each time."""
    labels: Literal["online"] | list[str] | None = None
    """Label datasets, one for each of audio; null trains on the weak labels; with
    online, data.teacher labels every batch during training."""
    teacher: TeacherList | None = None
    """With labels=online: teachers, by path, as for psl.label."""
    max_unlabelled: Share = 0.0
    """Fraction of the clips that may be left out because psl.label could not label
    them; 0 refuses such labels."""
    labels_on_device: bool = False
    """Keep all stored labels on the device that trains, where a batch takes its own:
    1.05 kB for a chunk of 527 classes. Not with corrections."""
    chunk_seconds: Seconds = 10.0
    """Length of a training example, s; that of the labels if there are any."""
    hop_seconds: Seconds | None = None
    """From the start of one example to that of the next, s; null for that of the
    labels if there are any, else for chunk_seconds."""
    label_settings: dict[str, Setting] | None = None
    """Properties or provenance that the index.json of labels must have, such as
    {teacher_sha256: ...}; null for a name it must not have."""
    alpha: Share = 1.0
    """Weight of the pseudo labels against the weak ones in the target."""
    ontology: str | None = None
    """Adds each weak label's ancestors, in training and validation: audioset for the
    ontology that is shipped, or a file in the form of its ontology.json."""
    corrections: str | None = None
    """File of psl review: what people said of chunks, in place of their labels, in
    training and for clips held out of it. Not with labels=online."""
    balance: Share | None = None
    """Copies of a clip in an epoch are proportional to (sum over its classes of
    1 / clips of the class) ** balance: 1 shows rare classes about as often as common
    ones, 0.5 is in between, null shows each clip once. An epoch stays as long."""
    balance_limit: float = Field(default=20.0, ge=1, le=1e6)
    """Most copies that balance gives a clip, relative to an average clip."""
    mix: list[Annotated[float, Field(ge=1e-9, le=1e9)]] | None = None
    """One positive number for each of audio: its share of an epoch, relative to their
    sum; classes are then balanced within each. null for as many chunks as there are."""


@config
class OptimConfig:
    """Adam; the defaults are the paper's."""

    name: Literal["adam", "adamw"] = "adam"
    """adamw takes weight_decay off the weights themselves, not into the gradient."""
    learning_rate: float = Field(default=1e-3, ge=1e-12, le=1e30)
    """Peak learning rate."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up; cosine falls to 0 at the last step of all epochs."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    """adam: L2 penalty on all parameters. adamw: share of a weight that is taken off
    per step and unit of learning rate; none off biases and norms."""
    clip_grad_norm: float | None = Field(default=None, ge=1e-30, le=1e30)
    """Largest gradient norm; null for no clipping."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights (EMA), which is then what is validated
    and saved; null disables it. In the first steps min(decay, (1 + step) / (10 +
    step)). Not for strategy zero3."""
    layer_decay: float | None = Field(default=None, ge=1e-3, le=1)
    """Factor on the learning rate from a layer to the one before it, so that the first
    layers of pretrained weights move least; null for one rate for all layers."""
    classifier_factor: float = Field(default=1.0, ge=1e-6, le=1e6)
    """Factor on the learning rate of the last layer, which is new where weights come
    from another label set."""


def _default_trackers() -> list[TrackerName]:
    return ["tensorboard"]


@config
class BoardConfig:
    """What TensorBoard shows beyond numbers, at each validation."""

    curves: list[str] = Field(default_factory=list)
    """Classes, by display name or mid, whose precision-recall curves to draw."""
    clips: int = Field(default=0, ge=0, le=100)
    """Validation clips to play, each with a picture of its spectrogram, its labels and
    its highest scores (pictures need matplotlib)."""


@config
class TrainConfig:
    """A training run."""

    run_dir: str
    """Folder of the run; an unfinished run in it resumes where it stopped."""
    data: DataConfig
    model: ModelConfig = MobileNetV2Config()
    start: str | None = None
    """Weights to start from: a run (its average, else its best checkpoint), a
    checkpoint folder, the name of a fetched teacher (psl teachers), or a Hugging Face
    EfficientNet, ResNet or AST (folder or Hub name) for these families. The classifier
    is new where the classes differ; all other weights must fit, and model.front_end
    must be the same. null for fresh weights."""
    optim: OptimConfig = OptimConfig()
    loader: LoaderConfig = LoaderConfig()
    augment: TrainAugmentConfig = TrainAugmentConfig()
    global_batch_size: BatchSize | None = None
    """Chunks per optimizer step over all processes; their number must divide it. null
    for what batch_seconds says, or else 32."""
    batch_seconds: float | None = Field(default=None, ge=0.001, le=1e9)
    """Seconds of audio per optimizer step, instead of global_batch_size: a multiple of
    data.chunk_seconds, so that students of 10-s and 2-s chunks hear as much a step."""
    epochs: int = Field(default=300, ge=1, le=1_000_000)
    """Epochs at most; each has as many chunks as the data, balanced or not."""
    patience: Count | None = 15
    """Validations without a better mAP after which training ends; null for never."""
    keep_best: Count = 4
    """Checkpoints kept by validation mAP, besides the newest two."""
    average_best: Count | None = None
    """How many of the best checkpoints to average at the end; the average is then the
    run's result. At most keep_best; null for the best one alone."""
    precision: Precision | None = None
    """Autocast type of the forward pass; no for none (float32, of which arithmetic
    says how a GPU computes it); null for what accelerate launch says, or else no."""
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    strategy: Strategy | None = None
    """What is split among the processes: ddp nothing; zero1 the optimizer's state,
    zero2 also the gradients, zero3 also the weights, all three by DeepSpeed; null for
    what accelerate launch says, or else ddp. It may change when a run resumes."""
    bucket_mb: float | None = Field(default=None, gt=0, le=1e6)
    """Cut the gradient into buckets of at most this many MB (1e6 bytes), each of which
    is shared while the backward pass still computes the next; null for one all-reduce
    at its end. Only with strategy=ddp, not with cuda_graph; idle on one process."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Seed of the initial weights, the order of chunks, dropout and augment."""
    log_every: Count = 20
    """Steps between records of loss and speed; each epoch's end has one, too."""
    save_every: Count | None = None
    """Steps between checkpoints inside an epoch; null for one at each epoch's end."""
    valid_every: Count | None = None
    """Steps between validations, each with a checkpoint, for epochs that take days; the
    last step has one, too. null for one at each epoch's end."""
    accumulation_steps: BatchSize = 1
    """Parts of each process's share of a global batch, one after the other; BatchNorm
    sees a part at a time."""
    tracker: list[TrackerName] = Field(default_factory=_default_trackers)
    """Where metrics go besides metrics.jsonl; a tracker that fails is left, with a
    warning, and the run goes on. [] for nowhere."""
    tracker_project: str = "psl"
    """Project of W&B and trackio, experiment of MLflow."""
    board: BoardConfig = BoardConfig()
    nonfinite: Nonfinite = "stop"
    """What to do when loss or gradient is NaN or infinite: stop the run, or skip the
    update."""
    max_skipped_steps: CountOrZero = 10
    """Updates that a run may skip; one more stops it."""
    compile: bool = False
    """Compile the model for training with torch.compile; slow to start."""
    cuda_graph: bool = False
    """Record the training step as a CUDA graph and replay it, which takes the host out
    of the way at small batches; GPUs only, with strategy=ddp."""
    profile: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """First and last step to profile, such as [20, 30], at most 100: for each rank a
    Chrome trace, and on a GPU its memory, in the folder profile of run_dir."""
    peak_tflops: float | None = Field(default=None, gt=0, le=1e6)
    """TFLOP/s that the device of one process can do at most, for the MFU; null for
    what is known of its GPU (psl/distributed/peaks.py), and no MFU if nothing is."""
    sync_batch_norm: bool = False
    """Take BatchNorm statistics over the whole global batch; GPUs only."""
    attempt: AttemptConfig = AttemptConfig()
    accept_changes: list[str] = Field(default_factory=list)
    """Keys that a resumed run may change although the rest of the run then differs from
    its beginning, such as [epochs] or [optim.learning_rate]."""

    def __post_init__(self) -> None:
        _check_profile(self.profile)
        given, chunks = self.global_batch_size, self.chunks_per_step
        if given is not None and given != chunks:
            raise ValueError(
                f"batch_seconds = {self.batch_seconds:g} is {chunks} chunks of "
                f"data.chunk_seconds = {self.data.chunk_seconds:g}, but "
                f"global_batch_size = {given}; set one of the two to null"
            )

    @property
    def chunks_per_step(self) -> int:
        """Chunks per optimizer step over all processes, whichever key says it.

        Raises ValueError unless batch_seconds is a whole number of chunks.
        """
        if self.batch_seconds is None:
            return self.global_batch_size or DEFAULT_BATCH_SIZE
        return chunks_in(self.batch_seconds, self.data.chunk_seconds)


def _check_profile(steps: list[int] | None) -> None:
    """ValueError unless the steps are in order, and few enough for a trace."""
    if steps is not None and not steps[0] <= steps[1] < steps[0] + MOST_PROFILED:
        raise ValueError(
            f"profile = {steps}: expected the first and the last step, at most "
            f"{MOST_PROFILED} steps, such as profile=[20,30]"
        )


@config
class AverageConfig:
    """What to average."""

    run: str
    """Folder of a finished run."""
    k: Count = 4
    """Checkpoints to average, the best by validation mAP; fewer if there are fewer."""
