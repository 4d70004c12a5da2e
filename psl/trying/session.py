"""Sounds that a page sends -> what a model hears in them, over time."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from psl.serving.local import Refused, Reply, Request, Routes, as_json
from psl.serving.page import page
from psl.serving.sounds import spectrogram
from psl.tagger import Tagger
from psl.tagging.readers import open_audio
from psl.tagging.windows import Cut
from shards.errors import ShardError
from shards.system.text import plain

MAX_BYTES = 200 << 20
MAX_SECONDS = 600.0
"""Of a sound that is tagged and drawn; psl tag takes any length."""
NUM_CLASSES = 10
"""Classes shown, those with the highest probability."""


class Session:
    """One model, and a page to try it."""

    def __init__(self, tagger: Tagger, name: str, cut: Cut) -> None:
        self._tagger, self._name, self._cut = tagger, name, cut
        self._guard = threading.Lock()

    @property
    def routes(self) -> Routes:
        """For a LocalServer, with MAX_BYTES as its longest request."""
        shown = page("psl.trying", "psl demo")
        return {
            ("GET", ""): lambda request: shown,
            ("GET", "model"): self._model,
            ("POST", "sound"): self._tag,
        }

    def _model(self, request: Request) -> Reply:
        del request
        return as_json(
            {
                "name": plain(self._name, 200),
                "num_classes": len(self._tagger.classes),
                "window": self._cut.window_seconds,
                "hop": self._cut.hop_seconds,
                "max_bytes": MAX_BYTES,
                "max_seconds": MAX_SECONDS,
            }
        )

    def _tag(self, request: Request) -> Reply:
        """What is heard in a file, whose bytes are the body."""
        if not request.body:
            raise Refused(400, "an empty file; choose a recording")
        with self._guard, tempfile.NamedTemporaryFile(prefix="psl-demo-") as file:
            file.write(request.body)
            file.flush()
            try:
                return as_json(self._heard(Path(file.name)))
            except (ShardError, ValueError) as error:
                reason = str(error).removeprefix(f"{file.name}: ")
                raise Refused(422, f"this file cannot be used: {reason}") from None

    def _heard(self, path: Path) -> dict[str, Any]:
        windows = list(
            itertools.takewhile(
                lambda window: window.start < MAX_SECONDS,
                self._tagger.windows(path, self._cut),
            )
        )
        if not windows:
            raise ShardError("no audio in it")
        probs = np.stack([window.probs for window in windows])
        shown = np.argsort(-probs.max(axis=0), kind="stable")[:NUM_CLASSES]
        names, rate = self._tagger.classes.names, self._tagger.sample_rate
        samples = self._samples(path)
        return {
            "seconds": len(samples) / rate,
            "is_cut": windows[-1].end >= MAX_SECONDS,
            "starts": [round(window.start, 3) for window in windows],
            "ends": [round(window.end, 3) for window in windows],
            "classes": [
                {"name": plain(names[c]), "probs": probs[:, c].round(4).tolist()}
                for c in shown.tolist()
            ],
            "spectrogram": spectrogram(samples, rate),
        }

    def _samples(self, path: Path) -> np.ndarray:
        """[N] int16, at most MAX_SECONDS."""
        rate = self._tagger.sample_rate
        with open_audio(path, sample_rate=rate) as audio:
            blocks = list(_up_to(audio.blocks, round(MAX_SECONDS * rate)))
        return np.concatenate(blocks)


def _up_to(blocks: Iterator[np.ndarray], number: int) -> Iterator[np.ndarray]:
    for block in blocks:
        yield block[:number]
        number -= len(block)
        if number <= 0:
            return
