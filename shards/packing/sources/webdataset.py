"""WebDataset tars made by others: an audio member and a JSON member a clip.

Owns how members are paired and which JSON field holds the labels. Members belong
together when they share the name up to the suffix (not, as in WebDataset, up to the
first dot: ``<id>_30.000_40.000.flac`` has dots).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.audio.decode import SUFFIXES, load_clip
from shards.dataset.tar import Member, read_member, read_members
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.schema import MAX_DESCRIPTION_BYTES, parse_json
from shards.packing.sources.listing import Clip, Listing
from shards.remote.tars import local_places


def find_tars(
    places: Sequence[str | Path], downloads: str | Path | None = None
) -> list[Path]:
    """The tars among ``places``, which are tars or folders of them, sorted by name.

    Patterns with braces and URLs are those of local_places. Raises ShardError if a
    place holds none.
    """
    tars: list[Path] = []
    for place in local_places(places, downloads):
        found = sorted(place.glob("*.tar")) if place.is_dir() else [place]
        if not found or not found[0].is_file():
            raise ShardError(f"{place}: no tar there; give tars, or a folder of them")
        tars += found
    return tars


def read_pairs(
    path: str | Path, classes: Classes, label_field: str
) -> list[tuple[Clip, Member]]:
    """The clips of one tar with their audio members, in its order.

    ``label_field`` is the field of the JSON member with the labels, ``a.b`` for one
    inside another, or empty if there are none. Raises ShardError naming the member
    that is not in the form.
    """
    audio: dict[str, Member] = {}
    fields: dict[str, Any] = {}
    with open(path, "rb") as stream:
        for member in read_members(path):
            name = os.path.splitext(member.name)[0]
            if member.suffix in SUFFIXES:
                if name in audio:
                    raise ShardError(
                        f"{path}: {member.name} and {audio[name].name} are audio of "
                        "one clip; keep one of them"
                    )
                audio[name] = member
            elif member.suffix == ".json" and label_field:
                where = f"{path}: {member.name}"
                if member.size > MAX_DESCRIPTION_BYTES:
                    raise ShardError(f"{where}: JSON of {member.size} bytes refused")
                fields[name] = parse_json(read_member(stream, member), where=where)
    if lone := fields.keys() - audio.keys():
        raise ShardError(
            f"{path}: {min(lone)}.json has no audio member; known suffixes are "
            + ", ".join(SUFFIXES)
        )
    pairs = []
    for name, member in audio.items():
        where = f"{path}: {member.name}"
        if label_field and name not in fields:
            raise ShardError(f"{where}: has no JSON member {name}.json for its labels")
        value = _field(fields[name], label_field, where) if label_field else None
        place = (str(path), member.offset, member.size, member.name)
        clip = Clip.named(member.stem, value, place, classes=classes, where=where)
        pairs.append((clip, member))
    return pairs


def _field(value: Any, path: str, where: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            found = ", ".join(value) if isinstance(value, dict) else repr(value)
            raise ShardError(
                f"{where}: its JSON has no field {name!r} (found: {found[:200]}); name "
                "the one with the labels by --label-field"
            )
        value = value[name]
    return value


def list_clips(
    places: Sequence[str | Path],
    classes: Classes,
    *,
    label_field: str,
    downloads: str | Path | None = None,
) -> Listing:
    """The clips of all tars in ``places``; labels as in read_pairs."""
    tars = find_tars(places, downloads)
    pairs = [pair for tar in tars for pair in read_pairs(tar, classes, label_field)]
    provenance = {
        "tars": [tar.name for tar in tars],
        "tar_bytes": sum(tar.stat().st_size for tar in tars),
        "label_field": label_field,
    }
    where = ", ".join(map(str, places))
    clips = [clip for clip, _ in pairs]
    return Listing(where, clips, [], provenance, load)


def load(clip: Clip, sample_rate: int) -> np.ndarray:
    """Samples [N] int16 of a clip."""
    path, offset, size, name = clip.place
    with open(path, "rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
    try:
        return load_clip(data, sample_rate=sample_rate)
    except ShardError as error:
        raise ShardError(f"{path}: {name}: {error}") from None
