"""Label members: the probabilities of a clip's chunks <-> bytes, in each form.

Owns what a label member holds: all classes or the largest few, of one view of the clip
or several. Every form is a ``.npy`` file that NumPy reads without pickle. How a view
came about is psl/data/views.py's.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from shards.errors import ShardError

Tail = Literal["zero", "mean"]
"""What the classes that top_k leaves out have: 0, or their mean in the chunk."""

TAILS: tuple[str, ...] = get_args(Tail)
MAX_VIEWS = 256
MAX_TOP_K_CLASSES = 1 << 16
"""Class numbers are uint16."""
MAX_EXPANDED_BYTES = 256 << 20
"""A clip whose top-k labels would fill more memory is refused: 4 bytes from anyone
could else stand for 128 kB. 600 s every 5 ms with 527 classes are half of it."""


@dataclass(frozen=True)
class LabelForm:
    """What the members of a label dataset hold."""

    views: int = 1
    top_k: int | None = None
    """Classes kept of each chunk; None for all."""
    tail: Tail | None = None
    """With top_k, what the others have."""

    @staticmethod
    def of(properties: Mapping[str, Any]) -> LabelForm:
        """The form that the properties of an index record; absent means dense."""
        return LabelForm(
            views=properties.get("views", 1),
            top_k=properties.get("top_k"),
            tail=properties.get("tail"),
        )

    @property
    def properties(self) -> dict[str, Any]:
        """What an index records of this form: what differs from the plain one."""
        found = {"views": self.views, "top_k": self.top_k, "tail": self.tail}
        plain = {"views": 1, "top_k": None, "tail": None}
        return {name: found[name] for name in found if found[name] != plain[name]}

    def check(self, num_classes: int) -> None:
        """ValueError unless labels of ``num_classes`` classes can have this form."""
        if not 1 <= self.views <= MAX_VIEWS:
            raise ValueError(f"views = {self.views}; expected 1 to {MAX_VIEWS}")
        if (self.top_k is None) != (self.tail is None):
            raise ValueError(
                f"top_k = {self.top_k} with tail = {self.tail}; expected both or none"
            )
        if self.top_k is not None and not 1 <= self.top_k <= num_classes:
            raise ValueError(f"top_k = {self.top_k}; expected 1 to {num_classes}")
        if self.top_k is not None and num_classes > MAX_TOP_K_CLASSES:
            raise ValueError(f"top_k with {num_classes} classes; at most 65536 can be")

    def bytes_per_chunk(self, num_classes: int) -> int:
        """Bytes of one chunk, all views together."""
        one_view = 2 * num_classes if self.top_k is None else self._record.itemsize
        return self.views * one_view

    def max_chunks(self, num_classes: int) -> int:
        """Chunks that a clip may have."""
        if self.top_k is None:
            return np.iinfo(np.int32).max  # the size of its member bounds it
        return MAX_EXPANDED_BYTES // (2 * num_classes)

    @functools.cached_property
    def _record(self) -> np.dtype:
        """One chunk and view of top-k labels; classes ascend."""
        fields = [("classes", "<u2", (self.top_k,)), ("probs", "<f2", (self.top_k,))]
        rest = [("rest", "<f2")] if self.tail == "mean" else []
        return np.dtype([*fields, *rest])


DENSE = LabelForm()


def encode_labels(probs: np.ndarray, form: LabelForm = DENSE) -> bytes:
    """A ``.npy`` member from probabilities in [0, 1].

    They are [K, C] if ``form`` has one view, else [V, K, C]. Of equal probabilities (as
    float16), top_k keeps those of the lower class numbers. Raises ValueError if a value
    is not a probability.
    """
    probs = np.asarray(probs)
    shape = "[K, C]" if form.views == 1 else f"[{form.views}, K, C]"
    if probs.ndim != shape.count(",") + 1 or not np.isfinite(probs).all():
        raise ValueError(f"labels must be finite {shape}, found shape {probs.shape}")
    if probs.min(initial=0.0) < 0.0 or probs.max(initial=0.0) > 1.0:
        raise ValueError("labels must be probabilities in [0, 1]")
    *_, num_chunks, num_classes = probs.shape
    form.check(num_classes)
    if len(probs) != form.views and form.views > 1:
        raise ValueError(f"labels must be {shape}, found shape {probs.shape}")
    values = probs.astype("<f2")
    kept = values if form.top_k is None else _keep_largest(values, form)
    return _npy_header(form, num_chunks, num_classes) + kept.tobytes()


def _keep_largest(probs: np.ndarray, form: LabelForm) -> np.ndarray:
    """Records [...] from probabilities [..., C] float16."""
    probs = probs + np.float16(0)  # makes -0.0 a 0.0, so that the bits are in order
    falling = np.argsort(~probs.view(np.uint16), axis=-1, kind="stable")
    classes = np.sort(falling[..., : form.top_k], axis=-1)
    records = np.empty(probs.shape[:-1], form._record)
    records["classes"] = classes
    records["probs"] = np.take_along_axis(probs, classes, axis=-1)
    if form.tail == "mean":
        others = probs.astype(np.float64)
        np.put_along_axis(others, classes, 0.0, axis=-1)
        num_others = max(probs.shape[-1] - classes.shape[-1], 1)
        records["rest"] = others.sum(axis=-1) / num_others
    return records


def open_labels(
    data: bytes | memoryview, num_chunks: int, num_classes: int, form: LabelForm
) -> np.ndarray:
    """The array in a label member, without copying, with unchecked values.

    [V, K, C] float16, or [V, K] records of top-k labels; expand_labels() takes any part
    of it. The header must be exactly the one that encode_labels writes for this shape,
    so nothing in the member is interpreted before it is known to be right. Raises
    ShardError if it is not.
    """
    header = _npy_header(form, num_chunks, num_classes)
    num_bytes = len(header) + num_chunks * form.bytes_per_chunk(num_classes)
    if len(data) != num_bytes or bytes(data[: len(header)]) != header:
        what = "float16" if form.top_k is None else f"top-{form.top_k}"
        shape = [*([form.views] if form.views > 1 else []), num_chunks, num_classes]
        raise ShardError(
            f"not a {what} label array of shape {shape} "
            f"(expected {num_bytes} bytes, found {len(data)}); relabel this shard"
        )
    if form.top_k is None:
        values = np.frombuffer(data, "<f2", offset=len(header))
        return values.reshape(form.views, num_chunks, num_classes)
    records = np.frombuffer(data, form._record, offset=len(header))
    return records.reshape(form.views, num_chunks)


def expand_labels(part: np.ndarray, num_classes: int, form: LabelForm) -> np.ndarray:
    """Probabilities [..., C] float16 from a part of what open_labels() gives.

    Dense ones are not copied. Raises ShardError if a value is not a probability,
    or a top-k record is not one that encode_labels writes.
    """
    probs = part if form.top_k is None else part["probs"]
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ShardError("labels outside [0, 1] or not finite; relabel this shard")
    if form.top_k is None:
        return probs
    classes = part["classes"]
    ascend = (classes[..., 1:] > classes[..., :-1]).all()
    if not ascend or (classes[..., -1] >= num_classes).any():
        raise ShardError(
            f"class numbers do not ascend, or not below {num_classes}; relabel this "
            "shard"
        )
    dense = np.zeros((*part.shape, num_classes), np.float16)
    if form.tail == "mean":
        rest = part["rest"]
        if not ((rest >= 0) & (rest <= probs.min(axis=-1))).all():
            raise ShardError("a tail above the classes kept; relabel this shard")
        dense[:] = rest[..., None]
    np.put_along_axis(dense, classes.astype(np.intp), probs, axis=-1)
    return dense


def decode_labels(
    data: bytes | memoryview,
    num_chunks: int,
    num_classes: int,
    form: LabelForm = DENSE,
    *,
    view: int = 0,
) -> np.ndarray:
    """Probabilities [K, C] float16 of one view from a label member.

    Dense ones are not copied. Raises ShardError if the member is not of this form and
    shape, or a value of the view is not a probability.
    """
    labels = open_labels(data, num_chunks, num_classes, form)
    return expand_labels(labels[view], num_classes, form)


def count_label_chunks(
    num_bytes: int, num_classes: int, form: LabelForm = DENSE
) -> int:
    """Chunks in a label member of ``num_bytes``, if it is one."""
    header = len(_npy_header(form, 1, num_classes))
    return max(0, num_bytes - header) // form.bytes_per_chunk(num_classes)


@functools.lru_cache(maxsize=1024)
def _npy_header(form: LabelForm, num_chunks: int, num_classes: int) -> bytes:
    shape = (num_chunks,) if form.views == 1 else (form.views, num_chunks)
    dense = form.top_k is None
    fields = {
        "descr": "<f2" if dense else np.lib.format.dtype_to_descr(form._record),
        "fortran_order": False,
        "shape": (*shape, num_classes) if dense else shape,
    }
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
