"""The index of a dataset, made again from its tars.

Owns what can be known from tars alone. For a dataset that was not changed the result
has the fingerprint of the lost index, so label folders still fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeGuard

from shards import __version__
from shards.audio import members
from shards.dataset.tar import Member, read_member, read_members
from shards.dataset.writer import PARTS_NAME, Part, make_index, part_row
from shards.errors import ShardError, naming
from shards.format.classes import Classes
from shards.format.index import INDEX_NAME, write_index
from shards.format.label_codec import LabelForm, count_label_chunks, decode_labels
from shards.format.meta import MAX_INDEX_BYTES, ShardRecord, parse_meta, properties_of
from shards.format.schema import CODECS, SOURCE_CODEC, ClipInfo, check_key
from shards.format.weak_labels import LabelReader
from shards.system.files import file_sha256, read_bounded
from shards.system.workers import Task, run_tasks


def rebuild(folder: str | Path, *, classes: Classes, workers: int = 1) -> str:
    """Write index.json and clips.npz of ``folder`` again; a one-line summary.

    What is not in the tars - provenance, and all about label datasets - is taken from
    index.json if it can still be read. Raises ShardError naming the member that is
    not of this format, or does not decode.
    """
    folder = Path(folder)
    if (folder / PARTS_NAME).exists():
        raise ShardError(f"{folder}: not packed to its end; pack it again first")
    paths = sorted(p for p in folder.glob("*.tar") if not p.name.startswith("."))
    if not paths:
        raise ShardError(f"{folder}: no tars to make an index of")
    kind, properties, provenance, names = _read_old(folder / INDEX_NAME)
    if names and names != {path.name for path in paths}:
        wrong = sorted(names ^ {path.name for path in paths})
        raise ShardError(
            f"{folder}: the tars are not those of its index.json (first: {wrong[0]}); "
            "copy what is missing, remove what is not of this dataset"
        )
    function = _index_labels if kind == "labels" else _index_audio
    more = (LabelForm.of(properties),) if kind == "labels" else ()
    tasks = [Task(1, function, (path, classes, *more)) for path in paths]
    results = run_tasks(tasks, workers, unit="shard", title="rebuild")
    forms = [form for _, form in results if form] or [{}]
    if kind == "audio" and any(form != forms[0] for form in forms):
        raise ShardError(f"{folder}: clips of different forms: {forms}")
    index = make_index(
        folder,
        [part for part, _ in results],
        kind=kind,
        classes=classes,
        properties=properties if kind == "labels" else forms[0],
        provenance=provenance,
    )
    write_index(folder, index)
    return f"{folder}: index of {len(index)} clips in {len(paths)} shards made again"


def _read_old(path: Path) -> tuple[str, dict[str, Any], dict[str, Any], set[str]]:
    """Kind, properties, provenance and shards that the old index tells, if it does."""
    try:
        meta = parse_meta(read_bounded(path, MAX_INDEX_BYTES), where=str(path))
    except ShardError:
        return "audio", {}, {"rebuilt_by": f"shards {__version__}"}, set()
    if meta.get("codec") == SOURCE_CODEC:
        raise ShardError(f"{path}: adopted tars; use python -m shards.adopt again")
    names = {shard["name"] for shard in meta["shards"]}
    return meta["kind"], properties_of(meta), meta["provenance"], names


def _index_audio(path: Path, classes: Classes) -> tuple[Part, dict[str, Any]]:
    """The record of one audio shard, and its codec and rate."""
    rows: list[list[Any]] = []
    forms, reader = set(), LabelReader(classes, "mids")
    found = read_members(path)
    with open(path, "rb") as stream:
        for member in found:
            where, codec = f"{path}: {member.name}", member.suffix.removeprefix(".")
            described = next(found, None)
            if codec not in CODECS or not _describes(described, member):
                raise ShardError(
                    f"{where}: not a clip followed by its .json member, so not a shard "
                    "made by shards.pack; use python -m shards.adopt"
                )
            data = read_member(stream, member)
            info = ClipInfo.from_bytes(read_member(stream, described), where=where)
            forms.add((codec, info.sample_rate))
            with naming(where):
                count, rate = info.num_samples, info.sample_rate
                members.decode(data, codec=codec, start=0, stop=count, sample_rate=rate)
            key = check_key(member.stem, where=where)
            labels = reader.parse(list(info.labels), where=where)
            rows.append(part_row(key, member.offset, data, count, labels))
    if len(forms) > 1:
        raise ShardError(f"{path}: clips of {sorted(forms)}; expected one form of clip")
    form = [{"codec": codec, "sample_rate": rate} for codec, rate in forms]
    return _part(path, rows), form[0] if form else {}


def _index_labels(
    path: Path, classes: Classes, form: LabelForm
) -> tuple[Part, dict[str, Any]]:
    """The record of one label shard."""
    rows = []
    with open(path, "rb") as stream:
        for member in read_members(path):
            where, data = f"{path}: {member.name}", read_member(stream, member)
            num_chunks = count_label_chunks(len(data), len(classes), form)
            with naming(where):
                if num_chunks > form.max_chunks(len(classes)):
                    raise ShardError(f"{num_chunks} chunks are too many")
                for view in range(form.views):
                    decode_labels(data, num_chunks, len(classes), form, view=view)
            key = check_key(member.stem, where=where)
            rows.append(part_row(key, member.offset, data, num_chunks, ()))
    return _part(path, rows), {}


def _describes(described: Member | None, member: Member) -> TypeGuard[Member]:
    return described is not None and described.name == f"{member.stem}.json"


def _part(path: Path, rows: list[list[Any]]) -> Part:
    record = ShardRecord(path.name, len(rows), path.stat().st_size, file_sha256(path))
    return Part(record, rows, [])
