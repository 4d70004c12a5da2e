"""Audio of any length -> embeddings of its windows, file by file.

Owns the work of psl.embed: it resumes where it was stopped, and a file that cannot be
read is told and counted while the others go on. Silent windows have no embedding.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from psl.distributed.runtime import move_model
from psl.embeddings.store import About, Part, save_part, write_npz, write_parquet
from psl.evaluation.scoring import MIN_SECONDS
from psl.models.embedding import embed, last_layer
from psl.models.families import FAMILIES
from psl.tagging.readers import STDIN, open_audio
from psl.tagging.windows import MIN_LEVEL_DBFS, Cut, batches
from psl.teachers.named import checkpoint_of
from psl.weights.checkpoint import Checkpoint, load_checkpoint
from psl.weights.kinds import is_onnx
from psl.weights.tensors import tensors_sha256
from shards.errors import ShardError
from shards.remote.places import is_url
from shards.system.exits import message_of
from shards.system.files import remove_folder, sha256_of, write_atomic

_log = logging.getLogger(__name__)

_LARGEST = 65504.0
"""Of a float16."""


class Embedder:
    """A model in evaluation mode, called with windows."""

    def __init__(self, model: str | Path, device: str | None = None) -> None:
        """Raises ValueError for an exported file, else what load_checkpoint does."""
        if is_onnx(model) or Path(model).suffix == ".tflite":
            raise ValueError(
                f"{model}: an exported file does not show its embeddings; give the "
                "run or checkpoint folder that it was made of"
            )
        self.name = str(model)
        self.checkpoint = load_checkpoint(checkpoint_of(str(model)))
        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._device = torch.device(name)
        self._model: nn.Module = move_model(self.checkpoint.build_model(), self._device)
        self._rate = self.checkpoint.model_config.front_end.sample_rate

    def about(self, cut: Cut) -> About:
        """The description of what ``part`` gives."""
        assert cut.window_seconds is not None
        weight, _ = last_weights(self.checkpoint)
        return About(
            model=self.name,
            backbone_sha256=backbone_sha256(self.checkpoint),
            sample_rate=self._rate,
            window_seconds=cut.window_seconds,
            hop_seconds=cut.hop_seconds or cut.window_seconds,
            size=weight.shape[1],
        )

    def part(self, place: str, cut: Cut) -> Part:
        """The windows of one file that are not silent; ShardError if it is damaged."""
        starts, ends, vectors = [], [], []
        with (
            open_audio(place, sample_rate=self._rate) as audio,
            tqdm(desc=Path(place).name, unit="s", disable=None, leave=False) as bar,
        ):
            for first, pcm in batches(audio.blocks, rate=self._rate, cut=cut):
                waveform = pcm.astype(np.float32) / 32768
                heard = waveform.var(axis=1, dtype=np.float64)
                heard = np.flatnonzero(heard > 10 ** (MIN_LEVEL_DBFS / 10))
                if len(heard):
                    vectors.append(self._embed(waveform[heard]))
                begin = np.array(first, np.float64)[heard] / self._rate
                starts.append(begin)
                ends.append(begin + pcm.shape[1] / self._rate)
                bar.update(round((first[-1] + pcm.shape[1]) / self._rate) - bar.n)
        size = last_weights(self.checkpoint)[0].shape[1]
        return Part(
            place,
            np.concatenate(starts or [np.zeros(0)]),
            np.concatenate(ends or [np.zeros(0)]),
            np.concatenate(vectors or [np.zeros((0, size), np.float16)]),
        )

    def _embed(self, waveform: np.ndarray) -> np.ndarray:
        """[B, D] float16 of windows [B, N]."""
        samples = torch.from_numpy(waveform).to(self._device)
        missing = max(0, round(MIN_SECONDS * self._rate) - samples.shape[1])
        lengths = torch.full((len(samples),), samples.shape[1], device=self._device)
        clip = embed(self._model, nn.functional.pad(samples, (0, missing)), lengths)
        values = clip.clip.clamp(-_LARGEST, _LARGEST).cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.name}: gives embeddings that are not finite; its weights are "
                "damaged: use another checkpoint"
            )
        return values.astype(np.float16)


def last_weights(checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of the last layer."""
    name = last_layer(checkpoint.model_config)
    weights = checkpoint.weights
    return weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()


def backbone_sha256(checkpoint: Checkpoint) -> str:
    """Hash of all weights that the classes have no part in.

    A model and what psl.adapt made of it have the same.
    """
    last = last_layer(checkpoint.model_config)
    of_classes = (FAMILIES[checkpoint.model_config.name].classifier, f"{last}.")
    return tensors_sha256(
        {n: t for n, t in checkpoint.weights.items() if not n.startswith(of_classes)}
    )


def make(
    embedder: Embedder, places: Mapping[str, str] | Iterable[str], out: Path, cut: Cut
) -> tuple[int, dict[str, str]]:
    """Write ``out``; the number of windows, and why files could not be read.

    Raises ShardError if no file could be.
    """
    about = embedder.about(cut)
    failures: dict[str, str] = {}
    folder = _parts_folder(out, about)
    parts = []
    listed = list(places)
    for place in tqdm(listed, desc="embed", unit="file", disable=None):
        path = folder / f"{_identity(place)}.npz"
        if not path.exists():
            try:
                save_part(path, embedder.part(place, cut))
            except (ShardError, OSError) as error:
                if getattr(error, "is_write", False):
                    raise
                failures[place] = message_of(error) or repr(error)
                _log.warning("%s", failures[place])
                continue
        parts.append(path)
    if not parts:
        raise ShardError(f"none of {len(listed)} files could be read; see above")
    write = write_parquet if out.suffix.lower() == ".parquet" else write_npz
    total = write(out, about, parts)
    remove_folder(folder)
    return total, failures


def _parts_folder(out: Path, about: About) -> Path:
    """The folder of the parts, with those of the same work only."""
    folder = out.with_name(f".{out.name}.parts")
    noted, text = folder / "about.json", json.dumps(asdict(about), sort_keys=True)
    if folder.exists() and not (noted.exists() and noted.read_text() == text):
        remove_folder(folder)
    write_atomic(noted, text)
    return folder


def _identity(place: str) -> str:
    """Changes with the place and, of a file here, with its size and date."""
    state = ""
    if place != STDIN and not is_url(place) and os.path.exists(place):
        status = os.stat(place)
        state = f"{status.st_size} {status.st_mtime_ns}"
    return sha256_of(os.fsencode(f"{place}\n{state}"))[:24]


def query_vectors(embedder: Embedder, place: str, cut: Cut) -> np.ndarray:
    """[Q, D] float32 of a file to look for; ShardError if it is silent."""
    part = embedder.part(place, cut)
    if not len(part.vectors):
        raise ShardError(f"{place}: silence; there is nothing to look for")
    return part.vectors.astype(np.float32)
