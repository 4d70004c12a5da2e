"""The datasets of a run, opened together, and the clips of a batch.

Owns which options of the data fit each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.data.examples import TrainingData
from psl.data.validation import HELD_OUT, Validation, open_validation
from psl.distributed import runtime
from psl.training.config import TrainConfig
from shards.order.plan import Plan


def open_data(config: TrainConfig) -> tuple[TrainingData, Validation, Plan]:
    """What is trained on, what is validated on, and the order.

    Raises ValueError or ShardError if they do not fit each other or the options.
    """
    online = config.data.labels == "online"
    if online != (config.data.teacher is not None):
        raise ValueError(
            "data.labels=online and data.teacher=PATH belong together; set both, or "
            "neither"
        )
    if config.augment.mixup_labels is not None and not online:
        raise ValueError("augment.mixup_labels needs data.labels=online; remove it")
    if config.data.corrections is not None and online:
        raise ValueError(
            "data.corrections has no effect on labels that a teacher makes online; "
            "label the audio first, and name the labels in data.labels"
        )
    data = TrainingData.open(
        config.data.audio,
        None if config.data.labels == "online" else config.data.labels,
        online=online,
        chunk_seconds=config.data.chunk_seconds,
        alpha=config.data.alpha,
        max_unlabelled=config.data.max_unlabelled,
        hop_seconds=config.data.hop_seconds,
        label_settings=config.data.label_settings,
        ontology=config.data.ontology,
        corrections=config.data.corrections,
        loader=config.loader,
    )
    data = data.augmented(config.augment, seed=config.seed)
    wanted, audio = config.data, data.audio.index
    valid = open_validation(
        wanted.valid, wanted.held_out_share, audio, ontology=wanted.ontology
    )
    plan = data.plan(
        config.chunks_per_step,
        config.seed,
        balance=config.data.balance,
        balance_limit=config.data.balance_limit,
        mix=config.data.mix,
        held_out=valid.rows if wanted.valid == HELD_OUT else None,
    )
    return data, valid, plan


def batch_keys(
    data: TrainingData,
    plan: Plan,
    step: int,
    world_size: int,
    ranks: Sequence[int] = (),
) -> str:
    """The keys in the batch of optimizer step ``step`` (from 1), by rank.

    Only those of ``ranks``, if any are given.
    """
    epoch, done = divmod(step - 1, plan.num_steps)
    rows, _ = next(plan.steps(epoch, start=done))
    shares = {r: plan.local_slice(r, world_size) for r in ranks or range(world_size)}
    index = data.audio.index
    return "; ".join(
        f"rank {rank}: " + ", ".join(index.key(int(row)) for row in rows[share])
        for rank, share in shares.items()
    )


def describe_batch(config: TrainConfig, step: int) -> str:
    """The keys in the batch of a step, for a run that is not open."""
    data, _, plan = open_data(config)
    return batch_keys(data, plan, step, runtime.rank_and_world_size()[1])
