"""Stored labels -> the same labels, calibrated on the weak labels of their audio.

Owns what is fitted to what, and the second pass over the labels. No teacher, no torch.
Weak labels are incomplete, so a class that annotators often forget stays below its
true frequency; the order of the chunks is the teacher's own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psl.data.labels import LabelLayout, check_counts
from psl.labelling.calibration import (
    NUM_VALUES,
    Line,
    Steps,
    fit_isotonic,
    fit_platt,
    fit_prior,
)
from psl.labelling.calibration_file import (
    CALIBRATION_NAME,
    file_bytes,
    parse_calibration,
)
from psl.labelling.config import CalibrateConfig
from psl.labelling.store import make_builder, store
from shards.dataset.reader import MemberReader
from shards.errors import ShardError
from shards.format.index import Index, open_index
from shards.format.join import check_join
from shards.system.files import read_bounded

MAX_PRIORS_BYTES = 16 << 20
"""A longer CSV of priors is refused."""


def calibrate(config: CalibrateConfig) -> str:
    """Fit ``config.labels`` and write them calibrated; a line for people.

    Raises ShardError for labels of other audio, without weak labels to fit, or that do
    not hold all classes; ValueError for settings that contradict each other.
    """
    if (config.method == "prior") != (config.priors is not None):
        raise ValueError(
            f"method = {config.method} with priors = {config.priors}; expected priors "
            "with method=prior, and only there"
        )
    if Path(config.labels).resolve() == Path(config.out).resolve():
        raise ShardError(
            f"{config.out}: holds the labels themselves; choose another folder"
        )
    audio = open_index(config.audio, kind="audio")
    labels = open_index(config.labels, kind="labels")
    check_join(audio, labels)
    layout = _check_form(labels)
    check_counts(labels, layout.chunking.num_chunks(audio.table.count))
    if config.method != "prior" and not len(audio.table.label):
        raise ShardError(
            f"{config.audio}: has no weak labels to fit; pack it with them, or give "
            "class priors with method=prior priors=FILE"
        )
    reader = MemberReader(labels)
    counts = count_largest(reader, audio)
    lines = _fit(config, counts, audio)
    data = file_bytes(
        audio.classes,
        lines,
        counts.sum(axis=2)[::-1],
        method=config.method,
        labels=labels,
        audio=audio,
    )
    return _second_pass(config, audio, reader, layout, data, lines)


def _check_form(labels: Index) -> LabelLayout:
    """The layout of labels that can be calibrated; ShardError for others."""
    layout = LabelLayout.from_index(labels)
    if layout is None:
        raise ShardError(
            f"{labels.where}: its index does not say how chunks were cut; label again"
        )
    if layout.form.top_k is not None and layout.form.top_k < len(labels.classes):
        raise ShardError(
            f"{labels.where}: holds the {layout.form.top_k} largest of "
            f"{len(labels.classes)} classes, and the others' probabilities are not "
            "known; label without top_k, calibrate, then label with top_k and "
            "calibration=FILE"
        )
    if any("calibration" in made for made in labels.provenances):
        raise ShardError(
            f"{labels.where}: is calibrated already; name the labels it was made from"
        )
    return layout


def count_largest(reader: MemberReader, audio: Index) -> np.ndarray:
    """[2, C, V] clips without and with each weak label, by their largest chunk's label.

    Of the first view; clips without labels do not count.
    """
    num_classes = len(audio.classes)
    counts = np.zeros((2, num_classes, NUM_VALUES), np.int64)
    classes = np.arange(num_classes)
    for row in np.flatnonzero(reader.index.table.count > 0):
        largest = reader.labels(int(row)).max(axis=0) + np.float16(0)
        weak = audio.table.weak_targets(np.array([row]), num_classes)[0]
        counts[weak.astype(np.intp), classes, largest.view(np.uint16)] += 1
    return counts


def _fit(
    config: CalibrateConfig, counts: np.ndarray, audio: Index
) -> Sequence[Line | Steps]:
    if config.priors is None:
        fit = fit_isotonic if config.method == "isotonic" else fit_platt
        return [fit(yes, no) for no, yes in counts.transpose(1, 0, 2)]
    priors = read_priors(config.priors, audio)
    scores = counts.sum(axis=0)
    return [fit_prior(s, p) for s, p in zip(scores, priors, strict=True)]


def read_priors(path: str, audio: Index) -> list[float]:
    """[C] share of clips that have each class, from a CSV with columns mid and prior.

    Raises ShardError naming a line that is not a share in (0, 1), an unknown or
    repeated mid, or a class that is missing.
    """
    text = read_bounded(path, MAX_PRIORS_BYTES).decode("utf-8-sig", "replace")
    rows = csv.DictReader(io.StringIO(text))
    if not {"mid", "prior"} <= set(rows.fieldnames or ()):
        raise ShardError(f"{path}: expected columns mid and prior in its first line")
    found: dict[str, float] = {}
    for row in rows:
        mid, where = row["mid"], f"{path}:{rows.line_num}"
        try:
            prior = float(row["prior"])
        except (TypeError, ValueError):
            prior = float("nan")
        if not 0 < prior < 1:
            raise ShardError(
                f"{where}: prior {row['prior']!r:.40}, expected a share of clips above "
                "0 and below 1"
            )
        if mid not in audio.classes.index_of or mid in found:
            what = "repeated" if mid in found else "not of the audio's classes"
            raise ShardError(f"{where}: mid {mid!r:.40} is {what}")
        found[mid] = prior
    if missing := [mid for mid in audio.classes.mids if mid not in found]:
        raise ShardError(
            f"{path}: no prior for {len(missing)} classes, the first {missing[0]}"
        )
    return [found[mid] for mid in audio.classes.mids]


def _second_pass(
    config: CalibrateConfig,
    audio: Index,
    reader: MemberReader,
    layout: LabelLayout,
    data: bytes,
    lines: Sequence[Line | Steps],
) -> str:
    """Write the calibrated labels."""
    labels, out = reader.index, Path(config.out)
    calibration = parse_calibration(data, audio.classes, where=CALIBRATION_NAME)

    def encode(row: int) -> tuple[bytes, int] | None:
        if not labels.table.count[row]:
            return None
        views = [reader.labels(row, view) for view in range(layout.form.views)]
        probs = calibration.apply(np.concatenate(views))
        return layout.encode(probs), int(labels.table.count[row])

    provenance = {
        **labels.provenances[0],
        "calibration": calibration.provenance,
        "calibrated_from": labels.fingerprint,
    }
    builder = make_builder(out, audio, layout, provenance)
    share = float((labels.table.count == 0).mean())
    if not store(
        *(builder, audio, layout, config.audio, encode),
        max_unlabelled=share,
        calibration=calibration,
        calibrated_from=config.labels,
    ):
        return f"{out}: already there"
    kept = sum(line.how == "kept" for line in lines)
    return (
        f"{out}: labels of {len(audio)} clips, {len(lines) - kept} of {len(lines)} "
        f"classes calibrated by {config.method}"
        + (f", {kept} kept as they were: nothing to fit them to" if kept else "")
    )
