"""All trackers of a run: what each gets, and that none of them stops it.

Owns the rule that a tracker which raises is left, with one warning. Only the main
process has one of these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import yaml

from psl.config import to_yaml
from psl.data.validation import Validation
from psl.evaluation.labels import Labels
from psl.evaluation.score_tables import ScoreTable, SomeClips
from psl.training.board import Board, Clip, choose_clips, class_indices, has_matplotlib
from psl.training.config import BoardConfig, TrainConfig
from psl.training.trackers import RemoteTracker
from shards.format.classes import Classes
from shards.system.extras import pip_install

_log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"


class _Tracker(Protocol):
    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Take values of a step."""

    def close(self) -> None:
        """Send the rest."""


def check_board(board: BoardConfig, classes: Classes) -> None:
    """ValueError if ``board.curves`` names a class that there is not."""
    class_indices(board.curves, classes)


class Tracking:
    """The trackers of one start of a run; those that fail are left one by one."""

    def __init__(self, config: TrainConfig, valid: Validation, *, start: int) -> None:
        """``start`` steps are done."""
        self._trackers: dict[str, _Tracker] = {}
        self._valid, self._clips = valid, list[Clip]()
        self._curves = class_indices(config.board.curves, valid.index.classes)
        self._rate = int(valid.index.properties["sample_rate"])
        self._board: Board | None = None
        values = flat(yaml.safe_load(to_yaml(config)))
        for name in dict.fromkeys(config.tracker):
            self._try(name, partial(self._open, name, config, values, start))
        self._try(TENSORBOARD, lambda: self._play(config.board.clips))

    def _open(
        self, name: str, config: TrainConfig, values: dict[str, Any], start: int
    ) -> None:
        if name == TENSORBOARD:
            self._board = Board(config.run_dir, values, start=start)
            self._trackers[name] = self._board
        else:
            self._trackers[name] = RemoteTracker(
                name, config.run_dir, values, project=config.tracker_project
            )

    def _play(self, num_clips: int) -> None:
        if self._board is None or not num_clips:
            return
        self._clips = choose_clips(self._valid, num_clips)
        self._board.play(self._clips, self._rate)
        if not has_matplotlib():
            _log.warning(
                "board.clips: no pictures, as matplotlib is not installed; run %s",
                pip_install("report"),
            )

    def _try(self, name: str, action: Callable[[], None]) -> None:
        """Do something with a tracker; it is left if that fails."""
        try:
            action()
        except Exception as error:
            self._trackers.pop(name, None)
            if name == TENSORBOARD:
                self._board = None
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            _log.warning(
                "tracker %s failed and gets nothing more in this start of the run: %s; "
                "metrics.jsonl has everything",
                name,
                reason,
            )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Pass values on to all."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, partial(tracker.record, step, values))

    def show(self, step: int, labels: Labels, scores: ScoreTable) -> None:
        """Curves and clips of a validation of V clips: weak labels, scores [V, C]."""
        self._try(TENSORBOARD, lambda: self._show(step, labels, scores))

    def _show(self, step: int, labels: Labels, scores: ScoreTable) -> None:
        if self._board is None:
            return
        if self._curves:
            columns = {
                c: column.copy()
                for c, column in enumerate(scores.columns())
                if c in self._curves.values()
            }
            curves = {n: (labels.has(c), columns[c]) for n, c in self._curves.items()}
            self._board.curves(step, curves)
        if self._clips and has_matplotlib():
            names = self._valid.index.classes.names
            places = np.array([clip.place for clip in self._clips])
            blocks = [block for _, block in SomeClips(scores, places).row_blocks()]
            for clip, row in zip(self._clips, np.concatenate(blocks), strict=True):
                by_name = dict(zip(names, row.tolist(), strict=True))
                self._board.picture(step, clip, by_name, self._rate)

    def close(self) -> None:
        """Send what is left, within CLOSE_SECONDS each."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A configuration's values by their whole name; lists as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        elif value is None or isinstance(value, bool | int | float | str):
            found[f"{above}{name}"] = value
        else:
            found[f"{above}{name}"] = str(value)
    return found
