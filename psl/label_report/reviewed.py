"""Labels against what people said of the same chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from psl.data.corrections import CorrectedLabels
from psl.data.corrections_file import read_corrections
from shards.dataset.reader import MemberReader
from shards.format.chunking import Chunking
from shards.format.index import Index


def compare(
    path: str, audio: Index, labels: Index, chunking: Chunking, threshold: float
) -> dict[str, Any]:
    """How often labels and weak labels agree with the corrections at ``path``.

    Over all classes of chunks that something is known of. People looked where labels
    are doubtful, so this is no measure of all labels.
    """
    corrections = read_corrections(path)
    corrected = CorrectedLabels(corrections, audio)
    reader, rate = MemberReader(labels), audio.properties["sample_rate"]
    found: list[tuple[bool, float, bool]] = []
    for row in corrected.rows:
        probs = reader.labels(row)
        weak = audio.table.weak_targets(np.array([row]), len(audio.classes))[0] > 0
        for k in range(len(probs)):
            start, end = chunking.bounds(k, int(audio.table.count[row]))
            known = corrected.known(row, int(start) / rate, int(end) / rate)
            found += [(y, float(probs[k, c]), bool(weak[c])) for c, y in known.items()]
    said, prob, weak = np.array(found or np.empty((0, 3))).T
    return {
        "file": path,
        "decisions": len(corrections.decisions),
        "elsewhere": corrected.num_elsewhere,
        "judged": len(said),
        "present": int(said.sum()),
        "labels_agree": _share((prob >= threshold) == (said > 0)),
        "weak_labels_agree": _share(weak == said),
        "mean_square_error": _share((prob - said) ** 2),
    }


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
