"""A review in progress: its items, what was decided, and what the page may ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psl.data.pseudo_labels import PseudoLabels
from psl.reviewing.queue import Item, make_item, shown_names
from psl.reviewing.store import Part, Store
from psl.serving.local import Refused, Reply, Request, Routes, as_json, body_object
from psl.serving.page import page
from psl.serving.sounds import spectrogram, wav
from shards.dataset.clips import AudioDataset
from shards.system.text import plain

MAX_SECONDS = 30.0
"""Of a clip that is played and drawn; of longer ones, the part around the chunk."""


class Session:
    """Items of one label dataset, and the file that decisions go to."""

    def __init__(
        self,
        items: list[Item],
        labels: PseudoLabels,
        audio: AudioDataset,
        store: Store,
    ) -> None:
        self._items, self._store = list(items), store
        self._labels, self._audio = labels, audio
        self._classes = labels.classes

    @property
    def routes(self) -> Routes:
        """For a LocalServer."""
        shown = page("psl.reviewing", "psl review")
        return {
            ("GET", ""): lambda request: shown,
            ("GET", "items"): self._list,
            ("GET", "sound"): self._sound,
            ("GET", "spectrogram"): self._spectrogram,
            ("POST", "decide"): self._decide,
            ("POST", "skip"): self._skip,
            ("POST", "undo"): self._undo,
        }

    def _list(self, request: Request) -> Reply:
        del request
        classes, names = self._classes, shown_names(self._classes)
        held: dict[Part, Any] = {
            (line.key, line.start, line.end): {
                mid: said
                for mid, said in line.classes.items()
                if mid in classes.index_of
            }
            if line.classes
            else "skipped"
            for line in self._store.held()
        }
        return as_json(
            {
                "items": [
                    item.facts(names, classes.mids)
                    | {"said": held.get(item.part), "window": self._window(item)}
                    for item in self._items
                ],
                "names": names,
                "mids": list(classes.mids),
                "labels": plain(self._labels.index.where, 200),
                "file": plain(str(self._store.path), 200),
                "num_held": len(self._store.held()),
            }
        )

    def _window(self, item: Item) -> list[float]:
        """Start and end of what is heard of the clip, s."""
        seconds = self._audio[item.key].seconds
        middle = (item.start + item.end) / 2
        start = min(max(0.0, middle - MAX_SECONDS / 2), max(0.0, seconds - MAX_SECONDS))
        return [start, min(seconds, start + MAX_SECONDS)]

    def _item(self, number: Any) -> Item:
        text = str(number)
        is_number = text.isascii() and text.isdecimal() and len(text) < 10
        if not is_number or int(text) >= len(self._items):
            raise Refused(404, f"there is no item {text[:20]}")
        return self._items[int(text)]

    def _samples(self, request: Request) -> Any:
        item, rate = self._item(request.query.get("item")), self._audio.sample_rate
        start, end = self._window(item)
        count = self._audio[item.key].num_samples
        return self._audio.pcm(
            item.key, round(start * rate), min(count, round(end * rate))
        )

    def _sound(self, request: Request) -> Reply:
        data = wav(self._samples(request), self._audio.sample_rate)
        return Reply(data, "audio/wav")

    def _spectrogram(self, request: Request) -> Reply:
        return as_json(spectrogram(self._samples(request), self._audio.sample_rate))

    def _decide(self, request: Request) -> Reply:
        asked = body_object(request)
        item, said = self._item(asked.get("item")), asked.get("classes")
        known = self._classes.index_of
        if not isinstance(said, dict) or not said:
            raise Refused(400, "expected classes: true or false by mid")
        for mid, is_there in said.items():
            if mid not in known or type(is_there) is not bool:
                raise Refused(400, f"{plain(str(mid))}: expected true or false by mid")
        self._store.decide(item.part, said)
        return self._done()

    def _skip(self, request: Request) -> Reply:
        self._store.skip(self._item(body_object(request).get("item")).part)
        return self._done()

    def _undo(self, request: Request) -> Reply:
        """Take back the newest decision, of this session or an earlier one."""
        del request
        line = self._store.undo()
        if line is None:
            return as_json({"item": None, "num_held": 0})
        part = (line.key, line.start, line.end)
        parts = [item.part for item in self._items]
        if part not in parts:
            item = self._find(part, line.classes)
            if item is not None:
                self._items.append(item)
                parts.append(part)
        number = parts.index(part) if part in parts else None
        return as_json({"item": number, "num_held": len(self._store.held())})

    def _find(self, part: Part, asked: Iterable[str]) -> Item | None:
        """A chunk of these labels with the classes that it was asked with, by mid.

        None if there is no such chunk.
        """
        key, start, end = part
        if key not in self._labels:
            return None
        row = self._labels.keys.index(key)
        starts, ends = self._labels.times(row)
        known = self._classes.index_of
        first = [known[mid] for mid in asked if mid in known]
        for k, bounds in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if bounds == (start, end):
                return make_item(self._labels, self._audio, row, k, first, 1.0)
        return None

    def _done(self) -> Reply:
        return as_json({"num_held": len(self._store.held())})
