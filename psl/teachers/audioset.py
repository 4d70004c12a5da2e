"""AudioSet's 527 classes, in the order of every published tagger's outputs.

audioset_classes.csv is AudioSet's class_labels_indices.csv as Google published it in
2017 (Gemmeke et al.: Audio Set: An ontology and human-labeled dataset for audio events,
ICASSP 2017), under CC BY 4.0.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path

from shards.format.classes import Classes, read_classes


@functools.cache
def audioset_classes() -> Classes:
    """All 527."""
    return read_classes(Path(__file__).with_name("audioset_classes.csv"))


def select_classes(wanted: Sequence[str]) -> Classes:
    """Those of AudioSet's classes that have these display names or mids, in that order.

    The case of names does not matter. Raises ValueError with the nearest names for one
    that is not there or is there twice.
    """
    classes = audioset_classes()
    numbers = {name.casefold(): number for number, name in enumerate(classes.names)}
    numbers |= {mid: number for number, mid in enumerate(classes.mids)}
    chosen: list[int] = []
    for word in wanted:
        number = numbers.get(word, numbers.get(word.casefold()))
        if number is None:
            raise ValueError(f"AudioSet has no class {word!r}; {_nearest(word)}")
        if number in chosen:
            raise ValueError(f"class {word!r} is named twice; name it once")
        chosen.append(number)
    return Classes(
        tuple(classes.mids[number] for number in chosen),
        tuple(classes.names[number] for number in chosen),
    )


def _nearest(word: str) -> str:
    """Names that hold the word, or look like it."""
    folded, names = word.casefold(), audioset_classes().names
    holding = [name for name in names if folded and folded in name.casefold()]
    by_name = {name.casefold(): name for name in names}
    alike = [by_name[n] for n in difflib.get_close_matches(folded, by_name)]
    near = [repr(name) for name in dict.fromkeys([*alike, *holding])][:5]
    return f"near it: {', '.join(near)}" if near else "psl teachers classes lists all"
