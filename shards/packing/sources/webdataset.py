"""WebDataset tars made by others: an audio member and its description, for each clip.

Owns how members are paired, and where the labels are. Members belong together when they
share the name up to the suffix, as of ``<id>_30.000_40.000.flac`` and ``.json``, or
else up to the first dot, as WebDataset has it: ``000.audio.wav`` and ``000.meta.json``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shards.audio.decode import SUFFIXES, load_clip
from shards.dataset.tar import Member, read_member, read_members
from shards.errors import ShardError
from shards.format.schema import MAX_DESCRIPTION_BYTES
from shards.format.weak_labels import LabelError, LabelReader
from shards.packing.names import is_passed_over, key_of, name_for_id, without_suffix
from shards.packing.sources.listing import Clip, Listing
from shards.remote.tars import local_places

LABEL_SUFFIXES = (".cls", ".txt")
"""Members that may hold labels instead of a JSON member: an index, or names."""


@dataclass
class Sample:
    """The members of one clip."""

    audio: Member
    name: str
    """Path of the audio member without suffix, or up to the first dot."""
    described: list[Member] = field(default_factory=list)
    """JSON, .cls and .txt members."""


@dataclass
class Tar:
    """What one tar holds."""

    path: Path
    samples: list[Sample] = field(default_factory=list)
    rejected: list[list[str]] = field(default_factory=list)
    """Report lines of members that cannot be used."""


def find_tars(
    places: Sequence[str | Path], downloads: str | Path | None = None
) -> list[Path]:
    """The tars among ``places``, which are tars or folders of them, sorted by name.

    Patterns with braces and URLs are those of local_places. Hidden tars in a folder are
    passed over. Raises ShardError if a place holds none.
    """
    tars: list[Path] = []
    for place in local_places(places, downloads):
        found = [place]
        if place.is_dir():
            found = sorted(p for p in place.glob("*.tar") if not is_passed_over(p.name))
        if not found or not found[0].is_file():
            raise ShardError(f"{place}: no tar there; give tars, or a folder of them")
        tars += found
    return tars


def read_tar(path: str | Path, label_field: str) -> Tar:
    """The samples of one tar, in the order of their audio; reads headers alone.

    Without ``label_field``, no member but audio is looked at. Hidden members, and those
    that macOS adds, are passed over. Raises ShardError if one sample has two audio
    members.
    """
    tar = Tar(Path(path))
    described = []
    samples: dict[str, Sample] = {}
    for member in read_members(path, refuse_names=False):
        if is_passed_over(member.name):
            continue
        if "\\" in member.name and member.suffix in SUFFIXES:
            reason = f"{path}: {member.name}: its name is not plain UTF-8; rename it"
            tar.rejected.append([member.name, "rejected", reason])
        elif member.suffix in SUFFIXES:
            name = without_suffix(member.name)
            if name in samples:
                raise _two_audios(path, samples[name].audio, member)
            samples[name] = Sample(member, name)
        elif member.suffix in (".json", *LABEL_SUFFIXES) and "\\" not in member.name:
            described.append(member)
    tar.samples = list(samples.values())
    if label_field:
        _pair(tar, samples, described, wanted=(".json", f".{label_field}"))
    return tar


def _two_audios(path: str | Path, one: Member, two: Member) -> ShardError:
    return ShardError(
        f"{path}: {one.name} and {two.name} are audio of one clip; keep one of them"
    )


def _pair(
    tar: Tar,
    samples: dict[str, Sample],
    described: Iterable[Member],
    *,
    wanted: Sequence[str],
) -> None:
    """Give each sample the members that describe it.

    What describes none is rejected if it has a ``wanted`` suffix.
    """
    left = []
    for member in described:
        name = without_suffix(member.name)
        while name not in samples and os.path.splitext(name)[1]:
            name = os.path.splitext(name)[0]
        if name in samples:
            samples[name].described.append(member)
        else:
            left.append(member)
    by_prefix = defaultdict(list)
    for sample in tar.samples:
        if not sample.described:
            by_prefix[_up_to_first_dot(sample.name)].append(sample)
    for member in left:
        prefix = _up_to_first_dot(without_suffix(member.name))
        found = by_prefix.get(prefix, [])
        if len(found) > 1:
            raise _two_audios(tar.path, found[0].audio, found[1].audio)
        if found:
            found[0].name = prefix
            found[0].described.append(member)
        elif member.suffix in wanted:
            reason = (
                f"{tar.path}: {member.name} has no audio member; known suffixes are "
                + ", ".join(SUFFIXES)
            )
            tar.rejected.append([key_of(prefix), "rejected", reason])


def _up_to_first_dot(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def list_pairs(
    tar: Tar, reader: LabelReader, label_field: str, *, with_folder: bool
) -> list[tuple[Clip, Member]]:
    """The clips of one tar with their audio members, in its order.

    Their ids hold the folder if asked for. ``label_field`` is the field of a JSON
    member with the labels, ``a.b`` for one inside another, or ``cls`` or ``txt`` for a
    member with that suffix; empty if there are none. A clip whose labels cannot be read
    goes to ``tar.rejected``. Raises LabelError if a label is not in the class list or
    ambiguous.
    """
    pairs = []
    with open(tar.path, "rb") as stream:
        for sample in tar.samples:
            name = name_for_id(sample.name, with_folder=with_folder)
            member, where = sample.audio, f"{tar.path}: {sample.audio.name}"
            place = (str(tar.path), member.offset, member.size, member.name)
            try:
                value = None
                if label_field:
                    value = _read_labels(stream, sample, label_field, where)
                clip = Clip.named(name, value, place, reader=reader, where=where)
            except LabelError:
                raise
            except ShardError as error:
                tar.rejected.append([key_of(name), "rejected", str(error)])
                continue
            pairs.append((clip, member))
    return pairs


def _read_labels(stream: BinaryIO, sample: Sample, label_field: str, where: str) -> Any:
    """The value of ``label_field`` for one sample; ShardError if it has none."""
    jsons = [m for m in sample.described if m.suffix == ".json"]
    values, problems = [], []
    for member in jsons:
        fields = _parse(_read_text(stream, member, where), f"{where}: {member.name}")
        try:
            values.append(_field(fields, label_field, f"{where}: {member.name}"))
        except ShardError as error:
            problems.append(error)
    if not values:
        values = [
            _parse_text(_read_text(stream, member, where))
            for member in sample.described
            if member.suffix in LABEL_SUFFIXES and member.suffix == f".{label_field}"
        ]
    if not values and problems:
        raise problems[0]
    if not values:
        found = ", ".join(m.name for m in sample.described) or "no other member"
        raise ShardError(
            f"{where}: no JSON member for its labels (found: {found}); --label-field "
            "cls or txt reads members with that suffix"
        )
    if any(value != values[0] for value in values[1:]):
        names = " and ".join(member.name for member in sample.described)
        raise ShardError(f"{where}: {names} have different labels; keep one")
    return values[0]


def _read_text(stream: BinaryIO, member: Member, where: str) -> str:
    if member.size > MAX_DESCRIPTION_BYTES:
        raise ShardError(f"{where}: {member.name} of {member.size} bytes refused")
    try:
        return read_member(stream, member).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ShardError(f"{where}: {member.name} is not UTF-8") from None


def _parse_text(text: str) -> Any:
    """Labels of a .cls or .txt member: one, or a list, or one on each line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else text.strip()


_TWICE = object()
"""Value of a field that a JSON object has more than once."""


def _parse(text: str, where: str) -> Any:
    """The value of JSON of others, of which all but the labels may be anything."""
    try:
        return json.loads(text, object_pairs_hook=_mark_repeats)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: not JSON: {error}") from None


def _mark_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        fields[name] = _TWICE if name in fields else value
    return fields


def _field(value: Any, path: str, where: str) -> Any:
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            found = ", ".join(value) if isinstance(value, dict) else repr(value)
            raise ShardError(
                f"{where}: no field {name!r} (found: {found[:200]!r}); name the one "
                "with the labels by --label-field"
            )
        value = value[name]
        if value is _TWICE:
            raise ShardError(f"{where}: duplicate field {name!r}; keep one")
    return value


def list_keys(path: str | Path, label_field: str) -> list[str]:
    """The keys of the samples of one tar, by names without folder."""
    samples = read_tar(path, label_field).samples
    return [key_of(name_for_id(s.name, with_folder=False)) for s in samples]


def list_clips(
    places: Sequence[str | Path],
    reader: LabelReader,
    *,
    label_field: str,
    downloads: str | Path | None = None,
) -> Listing:
    """The clips of all tars in ``places``; labels as in list_pairs.

    Ids hold the folder if two samples differ in nothing else.
    """
    paths = find_tars(places, downloads)
    for with_folder in (False, True):
        clips: list[Clip] = []
        rejected: list[list[str]] = []
        for path in paths:
            tar = read_tar(path, label_field)
            pairs = list_pairs(tar, reader, label_field, with_folder=with_folder)
            clips += [clip for clip, _ in pairs]
            rejected += tar.rejected
        if len({clip.key for clip in clips}) == len(clips):
            break
    provenance = {
        "tars": [path.name for path in paths],
        "tar_bytes": sum(path.stat().st_size for path in paths),
        "label_field": label_field,
    }
    return Listing(
        where=", ".join(map(str, places)),
        clips=clips,
        missing=[],
        provenance=provenance,
        load=load,
        rejected=rejected,
        describe=_describe,
    )


def _describe(clip: Clip) -> str:
    path, _, _, name = clip.place
    return f"{path}: {name}"


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
