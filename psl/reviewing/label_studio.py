"""Label Studio's tasks: chunks with the teacher's labels out, annotations back in.

Owns the form of its JSON (labelstud.io, "Import pre-annotations" and "Export
annotations"): an audio region has a start and an end in seconds and labels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from psl.data.pseudo_labels import PseudoLabels
from psl.reviewing.queue import PRESENT_FROM, Item, shown_names
from psl.reviewing.store import Store
from psl.serving.sounds import wav
from shards.dataset.clips import AudioDataset
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.system.files import folder_atomic, read_bounded, write_synced

MAX_BYTES = 1 << 30
MIN_SHARE = 0.5
"""Of a chunk that a region must cover to count as heard there, unless it is short."""
_MIN_SECONDS = 0.25


def export_tasks(
    out: Path, items: Sequence[Item], classes: Classes, audio: AudioDataset
) -> None:
    """Write ``out``: tasks.json, config.xml, and the clips as WAV files.

    Raises ValueError if it exists.
    """
    if out.exists():
        raise ValueError(f"{out}: exists; choose another folder, or remove it")
    clips = list(dict.fromkeys(item.key for item in items))
    with folder_atomic(out) as aside:
        (aside / "audio").mkdir()
        for number, key in enumerate(clips):
            sound = wav(audio.pcm(key), audio.sample_rate)
            write_synced(aside / "audio" / f"{number:06}.wav", sound)
        tasks = [
            _task(number, [item for item in items if item.key == key], classes, out)
            for number, key in enumerate(clips)
        ]
        asked = sorted({c for item in items for c in item.classes})
        write_synced(aside / "tasks.json", json.dumps(tasks, indent=1))
        names = shown_names(classes)
        write_synced(aside / "config.xml", _config(names[c] for c in asked))
    print(
        f"{out}: {len(items)} chunks of {len(clips)} clips. In Label Studio, make a "
        f"project with config.xml, serve this folder as local files (its parent as "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), import tasks.json; later export as "
        "JSON and read it with --import-label-studio"
    )


def _task(
    number: int, items: Sequence[Item], classes: Classes, out: Path
) -> dict[str, Any]:
    """One clip, with the chunks that are asked about and what the teacher says."""
    names = shown_names(classes)
    said = [
        _region(item.start, item.end, names[c], p)
        for item in items
        for c, p in zip(item.classes, item.probs, strict=True)
        if p >= PRESENT_FROM
    ]
    return {
        "data": {
            "audio": f"/data/local-files/?d={quote(out.name)}/audio/{number:06}.wav",
            "key": items[0].key,
            "chunks": [
                {
                    "start": item.start,
                    "end": item.end,
                    "classes": [classes.mids[c] for c in item.classes],
                }
                for item in items
            ],
        },
        "predictions": [{"model_version": "teacher", "result": said}],
    }


def _region(start: float, end: float, name: str, score: float) -> dict[str, Any]:
    return {
        "from_name": "labels",
        "to_name": "audio",
        "type": "labels",
        "score": round(score, 3),
        "value": {"start": start, "end": end, "channel": 0, "labels": [name]},
    }


def _config(names: Iterator[str]) -> str:
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        "<View>\n"
        '  <Labels name="labels" toName="audio">\n'
        f"{labels}  </Labels>\n"
        '  <Audio name="audio" value="$audio"/>\n'
        "</View>\n"
    )


def import_tasks(path: Path, labels: PseudoLabels, store: Store) -> int:
    """Add what people annotated to ``store``; how many decisions that were.

    Each class that was asked about in a chunk, or labelled there, is present if the
    regions of it cover half of the chunk, or 0.25 s of it. Raises ShardError naming
    the task if the file is not Label Studio's export of these labels, and adds nothing.
    """
    try:
        tasks = json.loads(read_bounded(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON: {error}") from None
    if not isinstance(tasks, list):
        raise ShardError(f"{path}: expected a list of tasks, exported as JSON")
    found = [
        decision
        for number, task in enumerate(tasks, start=1)
        for decision in _decisions(task, labels, f"{path}: task {number}")
    ]
    for part, said in found:
        store.decide(part, said)
    return len(found)


def _decisions(
    task: Any, labels: PseudoLabels, where: str
) -> Iterator[tuple[tuple[str, float, float], dict[str, bool]]]:
    """The chunks of one task that somebody annotated."""
    try:
        key, chunks = task["data"]["key"], task["data"]["chunks"]
        done = [a for a in task["annotations"] if not a.get("was_cancelled")]
        regions = [r for a in done[-1:] for r in a["result"] if r["type"] == "labels"]
        heard = [
            (float(v["start"]), float(v["end"]), str(name))
            for v in (r["value"] for r in regions)
            for name in v["labels"]
        ]
        asked = [
            (float(c["start"]), float(c["end"]), [str(m) for m in c["classes"]])
            for c in chunks
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(
            f"{where}: {type(error).__name__} {error}; expected an export (JSON, not "
            "JSON-MIN) of tasks of psl review"
        ) from None
    if not isinstance(key, str) or key not in labels:
        raise ShardError(f"{where}: clip {key!r} is not in {labels.index.where}")
    _check_chunks(key, asked, labels, where)
    if not all(math.isfinite(start) and math.isfinite(end) for start, end, _ in heard):
        raise ShardError(f"{where}: a region starts or ends nowhere")
    mid_of = dict(zip(shown_names(labels.classes), labels.classes.mids, strict=True))
    for _, _, name in heard:
        if name not in mid_of:
            raise ShardError(f"{where}: label {name!r} is not one of the classes")
    for start, end, mids in asked if done else ():
        there = {
            mid_of[name]
            for name in {name for _, _, name in heard}
            if _covered(heard, name, start, end)
        }
        yield (
            (key, start, end),
            {mid: mid in there for mid in dict.fromkeys([*mids, *sorted(there)])},
        )


def _check_chunks(
    key: str,
    asked: Sequence[tuple[float, float, list[str]]],
    labels: PseudoLabels,
    where: str,
) -> None:
    """ShardError unless all are chunks of a clip, with classes of the labels."""
    chunks = np.stack(labels.times(key), axis=1)
    for start, end, mids in asked:
        if not np.isclose(chunks, (start, end), rtol=0, atol=1e-3).all(axis=1).any():
            raise ShardError(
                f"{where}: {start:g} to {end:g} s is no chunk of clip {key!r} in "
                f"{labels.index.where}; read it with the labels that were exported"
            )
        if not mids or any(mid not in labels.classes.index_of for mid in mids):
            raise ShardError(
                f"{where}: asks for classes {', '.join(mids) or 'none'}; expected "
                f"classes of {labels.index.where}"
            )


def _covered(
    heard: Sequence[tuple[float, float, str]], name: str, start: float, end: float
) -> bool:
    seconds = sum(
        max(0.0, min(b, end) - max(a, start)) for a, b, n in heard if n == name
    )
    return seconds >= min(_MIN_SECONDS, MIN_SHARE * (end - start))
