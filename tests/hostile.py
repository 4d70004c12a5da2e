"""Datasets as an attacker would make them: what they like, and every hash right."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seal(fields: dict[str, Any]) -> bytes:
    """An index.json with the fingerprint that belongs to ``fields``."""
    hidden = ("fingerprint", "provenance")
    hashed = {name: value for name, value in fields.items() if name not in hidden}
    text = json.dumps(hashed, sort_keys=True)
    return json.dumps({**fields, "fingerprint": sha256(text.encode())}).encode()


def forge(
    folder: Path,
    *,
    columns: Callable[[Columns], None] | None = None,
    table: Callable[[bytes], bytes] | None = None,
    fields: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Change the columns or bytes of clips.npz, and the fields of index.json.

    Sizes and hashes of the shards are made those of the tars in the folder.
    """
    path = folder / "clips.npz"
    if columns:
        with np.load(path) as arrays:
            content = dict(arrays)
        columns(content)
        stream = io.BytesIO()
        np.savez(stream, **content)
        path.write_bytes(stream.getvalue())
    if table:
        path.write_bytes(table(path.read_bytes()))
    meta = json.loads((folder / "index.json").read_bytes())
    meta["clips_sha256"] = sha256(path.read_bytes())
    for shard in meta["shards"]:
        data = (folder / shard["name"]).read_bytes()
        shard |= {"num_bytes": len(data), "sha256": sha256(data)}
    if fields:
        fields(meta)
    (folder / "index.json").write_bytes(seal(meta))


@contextlib.contextmanager
def memory_bound(num_bytes: int) -> Iterator[None]:
    """In this block, only so many bytes more than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
