"""Weak labels as people write them -> class indices.

Owns every reading of a label: machine id, display name, class index, 0/1 vector. Where
two readings fit and differ, nothing is guessed.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from shards.errors import ShardError
from shards.format.classes import Classes

LabelsAre = Literal["mids", "names", "indices", "multi-hot"]
"""How labels are to be read."""

LABELS_ARE: tuple[str, ...] = get_args(LabelsAre)


class LabelError(ShardError):
    """A label that does not fit the class list, or fits it in two ways.

    The labels of the whole source are then in doubt, not those of one clip alone.
    """


@dataclass(frozen=True)
class LabelReader:
    """Reads the labels of one source."""

    classes: Classes
    labels_are: LabelsAre | None = None
    """None for whichever of mids, names and indices fits, as long as only one does."""

    def parse(self, value: object, *, where: str) -> tuple[int, ...]:
        """Class indices, ascending, of the labels of one clip.

        ``value`` is one label, a list of them, or a text of them separated by ``;`` or
        ``,``; None and "" are no label. Raises ShardError naming ``where`` if it is
        none of that, LabelError if a label is not in the class list or ambiguous.
        """
        items = self._split(value)
        if self.labels_are == "multi-hot":
            return self._read_vector(items, where) if items else ()
        if self.labels_are is None and _may_be_vector(items, len(self.classes)):
            raise LabelError(
                f"{where}: labels {_shown(items)} may be class indices or a 0/1 vector "
                f"of {len(self.classes)} classes; give --labels-are indices or "
                "--labels-are multi-hot"
            )
        found = (self._read_label(item, where) for item in items)
        return tuple(sorted({index for index in found if index is not None}))

    def _split(self, value: object) -> Sequence[object]:
        if value is None:
            return ()
        if isinstance(value, list | tuple):
            return value
        if isinstance(value, str) and not self._readings(value.strip()):
            return value.split(";" if ";" in value else ",") if value.strip() else ()
        return (value,)

    def _read_label(self, item: object, where: str) -> int | None:
        """The class of one label; None for a blank."""
        if isinstance(item, bool | float) and item in (0, 1):
            raise LabelError(
                f"{where}: label {item!r}; expected a mid, a name or a class index. "
                "For 0/1 vectors, give --labels-are multi-hot"
            )
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise ShardError(
                f"{where}: label {_shown(item)}; expected a mid, a name or a class "
                "index"
            )
        text = str(item).strip()
        if not text:
            return None
        found = self._readings(text)
        if len(set(found.values())) == 1 and not self._is_unlikely_index(found):
            return next(iter(found.values()))
        if found:
            kinds = [f"class {index} by {kind}" for kind, index in found.items()]
            if len(kinds) == 1:
                kinds.append("an id or name that is not in the class list")
            raise LabelError(
                f"{where}: label {_shown(text)} may be {' or '.join(kinds)}; give "
                "--labels-are mids, names or indices"
            )
        raise LabelError(self._describe_unknown(text, where))

    def _readings(self, text: str) -> dict[str, int]:
        """Class index of a label by each kind of label that it can be."""
        kinds = {
            "mids": self._by_mid,
            "names": self._by_name,
            "indices": self._by_index,
        }
        allowed = kinds if self.labels_are is None else {self.labels_are}
        normal = unicodedata.normalize("NFC", text)
        found = {
            kind: table.get(text, table.get(normal))
            for kind, table in kinds.items()
            if kind in allowed
        }
        return {kind: index for kind, index in found.items() if index is not None}

    @functools.cached_property
    def _by_mid(self) -> dict[str, int]:
        return _unique(self.classes.mids)

    @functools.cached_property
    def _by_name(self) -> dict[str, int]:
        return _unique(self.classes.names)

    @functools.cached_property
    def _by_index(self) -> dict[str, int]:
        return {str(index): index for index in range(len(self.classes))}

    def _is_unlikely_index(self, found: dict[str, int]) -> bool:
        """A number that is an index but no id, where ids are other numbers."""
        return (
            self.labels_are is None
            and found.keys() == {"indices"}
            and self._has_other_numbers
        )

    @functools.cached_property
    def _has_other_numbers(self) -> bool:
        """Whether all mids, or all names, are numbers but not their own indices."""
        return any(
            all(text.isdecimal() for text in column)
            and any(int(text) != index for index, text in enumerate(column))
            for column in (self.classes.mids, self.classes.names)
        )

    def _describe_unknown(self, text: str, where: str) -> str:
        same = [i for i, name in enumerate(self.classes.names) if name == text]
        if len(same) > 1 and self.labels_are in (None, "names"):
            return (
                f"{where}: label {_shown(text)} is the name of {len(same)} classes "
                f"({', '.join(map(str, same[:5]))}); write their mids or indices"
            )
        kind = "" if self.labels_are is None else f" among its {self.labels_are}"
        return (
            f"{where}: label {_shown(text)} is not in the class list{kind} "
            f"({len(self.classes)} classes); give the list these labels were made with"
        )

    def _read_vector(self, items: Sequence[object], where: str) -> tuple[int, ...]:
        bits = [_bit(item) for item in items]
        if len(bits) != len(self.classes) or None in bits:
            raise LabelError(
                f"{where}: labels {_shown(items)}; expected {len(self.classes)} values "
                "of 0 or 1, one for each class, as --labels-are multi-hot says"
            )
        return tuple(index for index, bit in enumerate(bits) if bit)


def add_labels_are(add: Callable[..., Any]) -> None:
    """Add the option --labels-are to a parser by its ``add_argument``."""
    add(
        "--labels-are",
        choices=LABELS_ARE,
        help="how to read labels (default: as ids, names or indices, where only one "
        "fits); multi-hot for vectors of a 0 or 1 for each class",
    )


def _may_be_vector(items: Sequence[object], num_classes: int) -> bool:
    """Whether several labels could be a 0/1 vector: by their number, or by repeats."""
    if any(isinstance(item, bool | float) or _bit(item) is None for item in items):
        return False
    has_repeats = len(items) > len({_bit(item) for item in items})
    return len(items) > 1 and (len(items) == num_classes or has_repeats)


def _bit(item: object) -> int | None:
    """0 or 1 as a number, a Boolean or a text; None for anything else."""
    if isinstance(item, str):
        return {"0": 0, "1": 1}.get(item.strip())
    return int(item) if isinstance(item, int | float) and item in (0, 1) else None


def _unique(column: Sequence[str]) -> dict[str, int]:
    """Position of each text that is there once, also in its normal Unicode form."""
    found: dict[str, int] = {}
    normal = [unicodedata.normalize("NFC", text) for text in column]
    for texts in (normal, column):
        counts = Counter(texts)
        found |= {text: i for i, text in enumerate(texts) if counts[text] == 1}
    return found


def _shown(value: object) -> str:
    """``value`` for a message, short and printable."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
