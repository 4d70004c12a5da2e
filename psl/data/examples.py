"""Datasets of a run, joined -> its plan, and batches with their targets.

Owns what an example of training is: a chunk, and the view of it that is shown. Its
target is psl/data/targets.py's, threads and devices are psl/data/loader.py's, the order
is shards/order/plan.py's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from psl.data.ahead import Ahead, check_fits_cache
from psl.data.augment import WaveAugment
from psl.data.batch import Batch, to_device
from psl.data.batch_memory import BatchMemory
from psl.data.checks import check_has_labels
from psl.data.config import LoaderConfig, Setting, TrainAugmentConfig
from psl.data.corrections import CorrectedLabels, with_corrections
from psl.data.device_labels import DeviceLabels
from psl.data.labels import LabelLayout, check_allowed, count_unlabelled, open_labels
from psl.data.loader import open_cache, read_windows
from psl.data.targets import Targets
from psl.data.transcode import keep_decoded
from psl.data.views import choose_views
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.join import concatenate, open_each
from shards.format.ontology import with_ancestors
from shards.order.balance import sampling_weights
from shards.order.plan import Plan


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Audio, and labels if any, joined and cut into chunks."""

    audio: MemberReader
    labels: MemberReader | None
    chunking: Chunking
    alpha: float
    """Weight of the pseudo labels against the weak ones."""
    clips_per_folder: tuple[int, ...]
    """Clips of each audio folder, in the order of the rows."""
    loader: LoaderConfig = LoaderConfig()
    memory: BatchMemory = dataclasses.field(default_factory=BatchMemory)
    """What batches are written to, and copied to a GPU from."""
    layout: LabelLayout | None = None
    """Chunks, form and views of the labels, if there are any."""
    corrected: CorrectedLabels | None = None
    """What people said of the clips; None for nothing."""
    wave_augment: WaveAugment | None = None
    """What is done to the samples of each example; None for nothing."""
    device_labels: DeviceLabels | None = None
    """The labels on the device that trains; None to read them from their shards."""

    @staticmethod
    def open(
        audio_folders: list[str],
        label_folders: list[str] | None,
        *,
        chunk_seconds: float,
        alpha: float,
        hop_seconds: float | None = None,
        label_settings: Mapping[str, Setting] | None = None,
        max_unlabelled: float = 0.0,
        online: bool = False,
        ontology: str | None = None,
        corrections: str | None = None,
        loader: LoaderConfig | None = None,
    ) -> TrainingData:
        """Open and join; raises ShardError or ValueError if they do not fit.

        Up to the fraction ``max_unlabelled`` of the clips may have a label row without
        chunks; they are left out of the plan. With ``online`` a teacher makes the
        targets (psl/training/online.py), and no weak label is needed. ``ontology`` adds
        ancestors to weak labels. ``corrections`` is a file of psl review.
        """
        loader = loader or LoaderConfig()
        cache = open_cache(loader)
        folders = open_each(audio_folders, kind="audio")
        audio = concatenate(folders)
        if (label_folders is None and not online) or alpha < 1:
            check_has_labels(audio, "train on weak labels")
        labels, layout = None, None
        if label_folders is not None:
            index, layout = open_labels(
                label_folders,
                audio,
                chunk_seconds=chunk_seconds,
                hop_seconds=hop_seconds,
                settings=label_settings,
            )
            check_allowed(index, max_unlabelled)
            labels, chunking = MemberReader(index, cache), layout.chunking
        else:
            rate = audio.properties["sample_rate"]
            chunking = Chunking.from_seconds(chunk_seconds, rate, hop_seconds)
            if max_unlabelled:
                raise ValueError(
                    f"data.max_unlabelled = {max_unlabelled:g} has no effect without "
                    "stored labels; name label folders in data.labels, or leave "
                    "data.max_unlabelled out"
                )
            if label_settings:
                raise ValueError(
                    "data.label_settings has no effect without stored labels; name "
                    "label folders in data.labels, or leave data.label_settings out"
                )
        corrected = None
        if corrections is not None:
            audio, corrected = with_corrections(audio, corrections)
        reader = MemberReader(with_ancestors(audio, ontology), cache)
        keep_decoded(reader, chunking, loader)
        return TrainingData(
            audio=reader,
            corrected=corrected,
            labels=labels,
            chunking=chunking,
            alpha=alpha,
            clips_per_folder=tuple(len(folder) for folder in folders),
            loader=loader,
            layout=layout,
        )

    def augmented(self, config: TrainAugmentConfig, *, seed: int) -> TrainingData:
        """The same with the augmentation of ``config``; ValueError if it cannot be."""
        if config.crop is not None and self.labels is not None:
            raise ValueError(
                "augment.crop: stored labels are for fixed chunks, not for windows "
                "anywhere in a clip; leave it out, or use data.labels=online or weak "
                "labels"
            )
        longest = self.audio.index.table.count.max(initial=0)
        if config.crop is not None and longest <= self.chunking.chunk_samples:
            raise ValueError(
                "augment.crop: no clip is longer than an example; set a shorter "
                "data.chunk_seconds, or leave it out"
            )
        rate = self.audio.index.properties["sample_rate"]
        wave_augment = WaveAugment.from_config(config, seed=seed, sample_rate=rate)
        return dataclasses.replace(self, wave_augment=wave_augment)

    def with_labels_on(self, device: torch.device) -> TrainingData:
        """The same with all labels on ``device``.

        Raises ValueError if there are none, or they do not fit; ShardError if one is
        damaged.
        """
        if self.labels is None:
            raise ValueError(
                "data.labels_on_device has no effect without stored labels; name label "
                "folders in data.labels, or leave it out"
            )
        if self.corrected is not None:
            raise ValueError(
                "data.labels_on_device: data.corrections changes labels on the host; "
                "set data.labels_on_device=false"
            )
        labels = DeviceLabels.read(self.labels, device)
        return dataclasses.replace(self, device_labels=labels)

    def plan(
        self,
        global_batch_size: int,
        seed: int,
        *,
        balance: float | None = None,
        balance_limit: float = 1.0,
        mix: Sequence[float] | None = None,
        held_out: np.ndarray | None = None,
    ) -> Plan:
        """The order in which training visits the chunks, except of rows ``held_out``.

        Raises ValueError if there are too few chunks, if ``mix`` does not fit the
        folders, or if there is no label to balance by.
        """
        index = self.audio.index
        if balance is not None:
            check_has_labels(index, "balance")
        num_chunks = self.num_chunks
        if held_out is not None:
            num_chunks[held_out] = 0
        return Plan(
            num_chunks=num_chunks,
            clips_per_shard=np.array([shard.num_clips for shard in index.shards]),
            global_batch_size=global_batch_size,
            seed=seed,
            weights=sampling_weights(
                num_chunks,
                index.table.label_start,
                index.table.label,
                clips_per_folder=self.clips_per_folder,
                balance=balance,
                balance_limit=balance_limit,
                mix=mix,
            ),
        )

    def steps(
        self, plan: Plan, epoch: int, *, start: int, rank: int, world_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``plan.steps``, with the shards of two windows made ready ahead.

        Remote ones are fetched, local ones asked of the kernel, and clips decoded for
        later, if they are to be kept. Raises ValueError if the cache cannot hold a
        window.
        """
        if self.is_remote:
            self.check_cache(plan, rank=rank, world_size=world_size, at=(epoch, start))
        ranks = {"rank": rank, "world_size": world_size}
        with Ahead(self._readers, self.loader, plan, **ranks) as ahead:
            steps = plan.steps(epoch, start=start, **ranks)
            for step, chunks in enumerate(steps, start=start):
                if step == start:
                    ahead.begin(epoch, step)
                elif step % plan.window_steps == 0:
                    ahead.turn_to(epoch, step)
                yield chunks

    def check_cache(
        self, plan: Plan, *, rank: int, world_size: int, at: tuple[int, int] = (0, 0)
    ) -> None:
        """ValueError if the cache cannot hold what ``rank`` reads from a step on.

        ``at`` is its epoch and step.
        """
        if self.is_remote:
            needed = plan.shards_needed(*at, rank=rank, world_size=world_size)
            check_fits_cache(self._readers, self.loader, needed)

    @property
    def is_remote(self) -> bool:
        """Whether any shard lies elsewhere, and goes through the cache."""
        return any(reader.any_remote for reader in self._readers)

    @property
    def _targets(self) -> Targets:
        return Targets(
            self.audio.index,
            self.labels,
            self.alpha,
            self.corrected,
            self.device_labels,
            self.memory,
        )

    @property
    def _readers(self) -> list[MemberReader]:
        return [reader for reader in (self.audio, self.labels) if reader]

    @property
    def num_chunks(self) -> np.ndarray:
        """Chunks of every clip [R] int64; 0 of clips that could not be labelled."""
        num_chunks = self.chunking.num_chunks(self.audio.index.table.count)
        if self.labels is not None:
            num_chunks[self.labels.index.table.count == 0] = 0
        return num_chunks

    @property
    def num_unlabelled(self) -> int:
        """Clips that are left out because they could not be labelled."""
        return count_unlabelled(self.labels.index) if self.labels else 0

    @property
    def fingerprint(self) -> str:
        """Hash of the data, to tell whether two runs see the same examples."""
        labels = self.labels.index.fingerprint if self.labels else "weak"
        audio = self.audio.index.fingerprint
        return f"{audio}+{labels}+{self.alpha}+{self.chunking}"

    def choose_views(
        self, rows: np.ndarray, chunks: np.ndarray, *, seed: int, epoch: int
    ) -> np.ndarray | None:
        """The view [B] in which an epoch shows each chunk; None if they have one."""
        if self.layout is None or self.layout.form.views == 1:
            return None
        num_views = self.layout.form.views
        return choose_views(num_views, rows, chunks, seed=seed, epoch=epoch)

    def batch(
        self,
        rows: np.ndarray,
        chunks: np.ndarray,
        device: torch.device,
        views: np.ndarray | None = None,
        step: int | None = None,
    ) -> Batch:
        """The chunks ``chunks`` [B] of clips ``rows`` [B] with their targets.

        Both as in ``views`` [B] of the labels; None for the chunks as they are. The
        run's augmentation of samples comes on top, for optimizer step ``step`` (from
        1); None for no augmentation.
        """
        keys = self.audio.index.table.key[rows]
        counts = self.audio.index.table.count[rows]
        bounds = self.chunking.bounds(chunks, counts)
        if self.wave_augment is not None and step is not None:
            bounds = self.wave_augment.bounds(
                self.chunking, chunks, counts, keys=keys, step=step
            )
        pcm, lengths = read_windows(
            self.audio, rows, bounds, self.chunking.chunk_samples, self.memory
        )
        if views is None:
            views = np.zeros(len(rows), np.int64)
        if self.layout is not None:
            self.layout.augmentation.apply(
                pcm, lengths, keys=keys, chunks=chunks, views=views
            )
        if self.wave_augment is not None and step is not None:
            self.wave_augment.apply(pcm, lengths, keys=keys, chunks=chunks, step=step)
        return Batch(
            pcm=self.memory.to_device(pcm, device),
            num_samples=to_device(lengths, device),
            is_whole=bool((lengths == self.chunking.chunk_samples).all()),
            targets=self._targets.make(rows, chunks, views, bounds, device),
        )
