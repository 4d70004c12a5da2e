"""The trainer's examples for a training loop of your own, as torch datasets.

Owns the public ``psl.open_chunks``. What an example is, psl/data/examples.py says; how
the order is resumed, psl/data/torch_order.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from psl.config import parse
from psl.data.augment import TrainAugmentConfig
from psl.data.examples import TrainingData
from psl.data.labels import LabelLayout
from psl.data.loader import LoaderConfig, fetch_ahead
from psl.data.mixup import Mixup
from psl.data.torch_order import ChunkSampler, Order, Visit
from shards.format.classes import Classes
from shards.format.join import open_indexes

Example = dict[str, Any]
"""``waveform``, ``num_samples``, ``target``, ``key``, ``chunk``; of one or a batch."""

DEFAULT_CHUNK_SECONDS = 10.0


class ChunkDataset(Dataset[Example]):
    """Every chunk of a dataset by number, clip after clip (a map-style dataset).

    ``chunks[i]`` is the chunk as it is, a dictionary: ``waveform`` [N] float32 in
    [-1, 1), zero after its ``num_samples``; ``target`` [C] float32 in [0, 1]; ``key``
    of the clip; and ``chunk``, its number in the clip. Worker processes open the
    dataset again.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """``options`` are the arguments of ``open_chunks``."""
        self._options = dict(options)
        self.data, self.augment, self.seed = _open(**options)
        self._ends = np.cumsum(self.data.num_chunks)

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkDataset, (self._options,)

    @property
    def classes(self) -> Classes:
        """The class list, in the order of ``target``."""
        return self.data.audio.index.classes

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms, Hz."""
        return int(self.data.audio.index.properties["sample_rate"])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, item: int | Visit) -> Example:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int | Visit]) -> list[Example]:
        """The examples of a batch, read together. DataLoader calls this."""
        moments = {x[2:] if isinstance(x, Visit) else None for x in items}
        if len(moments) > 1:
            return [self[item] for item in items]
        places = [x[:2] if isinstance(x, Visit) else self._locate(x) for x in items]
        rows, chunks = np.array(places).T
        batch = self.read(rows, chunks, moment=moments.pop())
        return [{name: x[i] for name, x in batch.items()} for i in range(len(items))]

    def _locate(self, number: int) -> tuple[int, int]:
        """Row and chunk of chunk ``number``."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"no chunk {number} of {len(self)}")
        number %= len(self)
        row = int(np.searchsorted(self._ends, number, side="right"))
        return row, number - int(self._ends[row - 1] if row else 0)

    def read(
        self,
        rows: np.ndarray,
        chunks: np.ndarray,
        *,
        moment: tuple[int, int] | None = None,
        mixup: Mixup | None = None,
    ) -> Example:
        """A batch of chunks ``chunks`` [B] of clips ``rows`` [B], as the trainer's.

        ``moment`` is epoch (from 0) and optimizer step (from 1), which decide views,
        augmentation and mixtures; None for the chunks as they are.
        """
        views, step = None, None
        if moment is not None:
            epoch, step = moment
            views = self.data.choose_views(rows, chunks, seed=self.seed, epoch=epoch)
        batch = self.data.batch(rows, chunks, torch.device("cpu"), views, step)
        if mixup is not None and step is not None:
            batch = mixup.mix(batch, step)
        return {
            "waveform": batch.waveform,
            "num_samples": batch.num_samples,
            "target": batch.targets,
            "key": [self.data.audio.index.key(int(row)) for row in rows],
            "chunk": torch.from_numpy(chunks),
        }

    def order(
        self,
        global_batch_size: int = 32,
        *,
        rank: int = 0,
        world_size: int = 1,
        balance: float | None = None,
        balance_limit: float = 20.0,
        mix: Sequence[float] | None = None,
        held_out: np.ndarray | None = None,
    ) -> Order:
        """The trainer's order: global batches that are the same for any world size.

        ``balance``, ``balance_limit`` and ``mix`` are psl.train's data.balance and so
        on; rows ``held_out`` are left out. Raises ValueError if the batch cannot be
        shared by the processes or filled.
        """
        plan = self.data.plan(
            global_batch_size,
            self.seed,
            balance=balance,
            balance_limit=balance_limit,
            mix=mix,
            held_out=held_out,
        )
        plan.local_slice(rank, world_size)  # an error now, not in the first batch
        fingerprint = plan.fingerprint(f"{self.data.fingerprint}+{self.augment}")
        return Order(plan, fingerprint, rank, world_size)

    def stream(self, order: Order) -> ChunkStream:
        """Batches in ``order``, read by threads (an iterable-style dataset)."""
        return ChunkStream(self, order)

    def sampler(self, order: Order) -> ChunkSampler:
        """Batches in ``order`` for DataLoader's ``batch_sampler``; not with mixup."""
        if self.augment.mixup_alpha is not None:
            raise ValueError(
                "augment.mixup_alpha mixes examples of whole batches, which worker "
                "processes do not have; use stream(), or leave mixup out"
            )
        return ChunkSampler(order)


class ChunkStream(IterableDataset[Example]):
    """This process's share of each global batch, an epoch each time it is iterated.

    A batch is a dictionary as of ChunkDataset, with B in front of the shapes and lists
    for ``key``. ``state_dict`` is where it stands after the batches given so far;
    loaded into a new stream, also of another world size, that continues there.
    """

    def __init__(self, chunks: ChunkDataset, order: Order) -> None:
        self.chunks, self.order = chunks, order
        self._steps_done = 0
        self._mixup = Mixup.from_config(
            chunks.augment,
            seed=chunks.seed,
            global_batch_size=order.plan.global_batch_size,
            share=order.plan.local_slice(order.rank, order.world_size),
        )

    def __len__(self) -> int:
        return self.order.steps_per_epoch

    def __iter__(self) -> Iterator[Example]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "a ChunkStream reads with threads of its own, and a copy in a worker "
                "process would lose its position; use num_workers=0, or "
                "DataLoader(chunks, batch_sampler=chunks.sampler(order))"
            )
        order, first = self.order, self._steps_done + 1
        epoch, start = divmod(self._steps_done, order.steps_per_epoch)
        chosen = self.chunks.data.steps(
            order.plan,
            epoch,
            start=start,
            rank=order.rank,
            world_size=order.world_size,
        )

        def read(item: tuple[int, tuple[np.ndarray, np.ndarray]]) -> Example:
            step, (rows, chunks) = item
            moment = epoch, step
            return self.chunks.read(rows, chunks, moment=moment, mixup=self._mixup)

        items, config = enumerate(chosen, start=first), self.chunks.data.loader
        for step, batch in enumerate(fetch_ahead(read, items, config), start=first):
            self._steps_done = step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: after the last batch that it gave."""
        return self.order.state_dict(self._steps_done)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``; ValueError if it is of another order."""
        self._steps_done = self.order.steps_done(state)


def open_chunks(
    audio: str | Path | Sequence[str | Path],
    labels: str | Path | Sequence[str | Path] | None = None,
    *,
    chunk_seconds: float | None = None,
    hop_seconds: float | None = None,
    alpha: float = 1.0,
    max_unlabelled: float = 0.0,
    augment: Mapping[str, Any] | None = None,
    seed: int = 0,
    loader: LoaderConfig | None = None,
) -> ChunkDataset:
    """The examples of ``psl.train`` on these datasets, as a torch dataset.

    ``audio`` and ``labels`` are one dataset or several, as data.audio and data.labels
    of psl.train; without ``labels`` targets are the weak labels of the clip. Chunks
    have the length of the labels, or ``chunk_seconds`` (default 10). ``augment`` has
    the keys of psl.train's augment, such as ``{"gain_db": 6}``; masks of features are
    the model's, so they are refused here. ``seed`` decides order and augmentation.

    >>> chunks = psl.open_chunks("data/balanced", "data/labels_2s", seed=1)
    >>> chunks[0]["waveform"].shape
    torch.Size([32000])
    >>> stream = chunks.stream(chunks.order(global_batch_size=32))
    >>> for batch in stream:
    ...     loss = criterion(model(batch["waveform"]), batch["target"])

    Raises ShardError for a missing or damaged dataset or labels that do not fit the
    audio, ValueError for options that do not fit.
    """
    return ChunkDataset(
        {
            "audio": _folders(audio),
            "labels": None if labels is None else _folders(labels),
            "chunk_seconds": chunk_seconds,
            "hop_seconds": hop_seconds,
            "alpha": alpha,
            "max_unlabelled": max_unlabelled,
            "augment": dict(augment or {}),
            "seed": seed,
            "loader": loader,
        }
    )


def _folders(places: str | Path | Sequence[str | Path]) -> list[str]:
    """One folder or several, as a list."""
    if isinstance(places, str | Path):
        return [str(places)]
    return [str(place) for place in places]


def _open(
    *,
    audio: list[str],
    labels: list[str] | None,
    chunk_seconds: float | None,
    hop_seconds: float | None,
    alpha: float,
    max_unlabelled: float,
    augment: Mapping[str, Any],
    seed: int,
    loader: LoaderConfig | None,
) -> tuple[TrainingData, TrainAugmentConfig, int]:
    config = parse(TrainAugmentConfig, dict(augment), where="augment")
    for name in ("time_masks", "frequency_masks", "mixup_labels"):
        if getattr(config, name):
            raise ValueError(
                f"augment.{name}: not part of the examples but of psl.train's model or "
                "teacher; leave it out"
            )
    data = TrainingData.open(
        audio,
        labels,
        chunk_seconds=chunk_seconds or _chunk_seconds(labels),
        hop_seconds=hop_seconds,
        alpha=alpha,
        max_unlabelled=max_unlabelled,
        loader=loader,
    )
    return data.augmented(config, seed=seed), config, seed


def _chunk_seconds(labels: list[str] | None) -> float:
    """The length of the chunks of ``labels``, or the default."""
    if labels is None:
        return DEFAULT_CHUNK_SECONDS
    index = open_indexes(labels, kind="labels")
    layout = LabelLayout.from_index(index)
    if layout is None:
        return DEFAULT_CHUNK_SECONDS
    return layout.chunking.chunk_samples / index.properties["sample_rate"]
