"""Label Studio's tasks: chunks with the teacher's labels out, annotations back in.

Owns the form of its JSON (labelstud.io, "Import pre-annotations" and "Export
annotations"): an audio region has a start and an end in seconds and labels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from psl.data.pseudo_labels import PseudoLabels
from psl.reviewing.queue import PRESENT_FROM, Item, shown_names
from psl.reviewing.store import Part, Store
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
        f"{out}: {len(items)} chunks of {len(clips)} clips. Start Label Studio with "
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={out.absolute().parent}; make a "
        f"project with config.xml, add the local storage {out.absolute()} without a "
        "sync, and import tasks.json. Later export as JSON and read that with "
        "--import-label-studio"
    )


def _task(
    number: int, items: Sequence[Item], classes: Classes, out: Path
) -> dict[str, Any]:
    """One clip, with the chunks that are asked about and what the teacher says."""
    names = shown_names(classes)
    said = [region for item in items for region in _proposed(item, names)]
    return {
        "data": {
            "audio": f"/data/local-files/?d={quote(out.name)}/audio/{number:06}.wav",
            "key": items[0].key,
            "asked": "; ".join(
                f"{item.start:g} to {item.end:g} s: "
                + ", ".join(names[c] for c in item.classes)
                for item in items
            ),
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


def _proposed(item: Item, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The region of a chunk with the classes that the teacher gives; none without.

    It is one region: one cannot draw, nor select in the waveform, below another one
    (Label Studio 1.23.2). Its score is that of the class that is least sure.
    """
    there = {
        names[c]: p
        for c, p in zip(item.classes, item.probs, strict=True)
        if p >= PRESENT_FROM
    }
    if there:
        yield {
            "from_name": "labels",
            "to_name": "audio",
            "type": "labels",
            "score": round(min(there.values()), 3),
            "value": {
                "start": item.start,
                "end": item.end,
                "channel": 0,
                "labels": list(there),
            },
        }


def _config(names: Iterator[str]) -> str:
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    return (
        "<View>\n"
        '  <Labels name="labels" toName="audio" choice="multiple">\n'
        f"{labels}  </Labels>\n"
        '  <Header value="$asked"/>\n'
        '  <Audio name="audio" value="$audio"/>\n'
        "</View>\n"
    )


@dataclass(frozen=True)
class Imported:
    """What an export added to a file of corrections."""

    decided: int
    """Chunks with a decision that the file did not have."""
    skipped: int
    """The same of skips."""
    known: int
    """Chunks of which the file says this already; nothing is added for them."""
    open_tasks: int
    """Tasks that nobody answered."""

    def __str__(self) -> str:
        return (
            f"{self.decided} decisions and {self.skipped} skipped chunks added; "
            f"already there: {self.known}, open tasks: {self.open_tasks}"
        )


def import_tasks(path: Path, labels: PseudoLabels, store: Store) -> Imported:
    """Add what people annotated or skipped to ``store``.

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
    answers = [
        _answers(task, labels, f"{path}: task {number}")
        for number, task in enumerate(tasks, start=1)
    ]
    held = {(line.key, line.start, line.end): line.classes for line in store.held()}
    counts: Counter[str] = Counter()
    for part, said in (answer for of_task in answers for answer in of_task):
        if held.get(part) == said:
            counts["known"] += 1
        elif said:
            store.decide(part, said)
            counts["decided"] += 1
        else:
            store.skip(part)
            counts["skipped"] += 1
    return Imported(
        counts["decided"],
        counts["skipped"],
        counts["known"],
        sum(not of_task for of_task in answers),
    )


def _answers(
    task: Any, labels: PseudoLabels, where: str
) -> list[tuple[Part, dict[str, bool]]]:
    """The chunks of one task and what was said of them, by mid.

    Nothing by mid for a task that was skipped; no chunks for one that is open.
    """
    try:
        key, chunks = task["data"]["key"], task["data"]["chunks"]
        answer = _newest(task["annotations"])
        is_skipped = answer is not None and bool(answer.get("was_cancelled"))
        results = answer["result"] if answer is not None and not is_skipped else ()
        heard = [
            (float(v["start"]), float(v["end"]), str(name))
            for v in (r["value"] for r in results if r["type"] == "labels")
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
    if answer is None:
        return []
    return [
        (
            (key, start, end),
            {} if is_skipped else _said(heard, (start, end), mids, mid_of),
        )
        for start, end, mids in asked
    ]


def _newest(annotations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What was submitted or changed last; a skip only if nothing else was.

    The server lists annotations by their ids, also if an older one was changed later.
    """
    done = [a for a in annotations if not a.get("was_cancelled")] or list(annotations)
    by_time = sorted(done, key=lambda a: str(a.get("updated_at", "")))
    return by_time[-1] if by_time else None


def _said(
    heard: Sequence[tuple[float, float, str]],
    part: tuple[float, float],
    mids: Sequence[str],
    mid_of: Mapping[str, str],
) -> dict[str, bool]:
    """By mid, whether each class that was asked about or heard in a chunk is there."""
    names = {name for _, _, name in heard}
    there = {mid_of[name] for name in names if _covered(heard, name, *part)}
    return {mid: mid in there for mid in dict.fromkeys([*mids, *sorted(there)])}


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
