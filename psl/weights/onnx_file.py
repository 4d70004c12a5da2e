"""ONNX files, from anyone: read, checked and run by onnxruntime.

Owns the metadata of our exports, the rule that external data lies below the file's own
folder, and the message where a package is missing. What outputs mean is for the callers
to know.
"""

from __future__ import annotations

import importlib
import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from psl.config import config as config_class
from psl.features.config import Rate
from psl.models.config import ModelConfig
from psl.weights.files import MAX_BYTES
from shards.errors import ShardError
from shards.format.classes import Classes
from shards.format.schema import parse_json
from shards.system.extras import pip_install
from shards.system.files import file_sha256, open_plain, read_bounded, sha256_of

_log = logging.getLogger(__name__)

METADATA_KEY = "psl"
"""Of the metadata property that describes an export of ours, as JSON."""
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@config_class
class Description:
    """What an export of ours says of itself."""

    mids: list[str]
    names: list[str]
    """Of the classes, in the order of the outputs."""
    sample_rate: Rate
    """Hz."""
    input: str
    """waveform or features."""
    min_samples: Annotated[int, Field(ge=1, le=1 << 24)]
    """Shorter waveforms must be padded with zeros to this."""
    frame_samples: Annotated[int, Field(ge=1, le=1 << 30)]
    """Samples from the start of one frame to the start of the next."""
    model: ModelConfig
    precision: str = "float32"
    teacher: str | None = None
    license: str | None = None
    source: str | None = None
    """What was exported."""
    version: str = ""
    """Of this program."""

    @property
    def classes(self) -> Classes:
        """The class list."""
        return Classes(tuple(self.mids), tuple(self.names))


@dataclass(frozen=True)
class Port:
    """An input or output of a graph."""

    name: str
    shape: tuple[int | None, ...]
    """None for a length that may vary."""
    is_float: bool


class OnnxFile:
    """An open file; ``run`` computes on the CPU or a GPU, from any thread."""

    def __init__(self, path: str | Path) -> None:
        """Raises ShardError for a file that is not there, damaged or not ONNX.

        ValueError if onnx or onnxruntime is not installed.
        """
        self.path = Path(path)
        self._runtime = _module("onnxruntime", self.path)
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._data = read_bounded(self.path, MAX_BYTES)
        self.sha256, self.metadata, external = _look(self._data, self.path)
        self._has_external = bool(external)
        session = self._session("cpu")
        self.inputs = [_port(value) for value in session.get_inputs()]
        self.outputs = [_port(value) for value in session.get_outputs()]

    def description(self) -> Description | None:
        """What it says of itself; None for a file of others.

        Raises ShardError if that is damaged.
        """
        if METADATA_KEY not in self.metadata:
            return None
        where = f"{self.path}: metadata {METADATA_KEY}"
        try:
            values = parse_json(self.metadata[METADATA_KEY].encode(), where=where)
            found: Description = TypeAdapter(Description).validate_python(values)
            if len(set(found.mids)) != len(found.names) or not found.mids:
                raise ValueError(f"{len(found.mids)} mids, {len(found.names)} names")
        except ValueError as error:
            raise ShardError(
                f"{where} is damaged: {_line(error)}; export the model again"
            ) from None
        return found

    def run(
        self, inputs: dict[str, np.ndarray], names: list[str], *, device: str = "cpu"
    ) -> list[np.ndarray]:
        """The outputs of ``names``; ValueError, on one line, if the graph fails."""
        session = self._session(device)
        try:
            found: list[np.ndarray] = session.run(names, inputs)
        except Exception as error:  # onnxruntime has a class for each status
            if isinstance(error, MemoryError | KeyboardInterrupt):
                raise
            shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in inputs.items())
            raise ValueError(
                f"{self.path}: onnxruntime fails on {shapes}: {_line(error)}"
            ) from None
        return found

    def _session(self, device: str) -> Any:
        with self._lock:
            if device not in self._sessions:
                self._sessions[device] = self._open(device)
            return self._sessions[device]

    def _open(self, device: str) -> Any:
        providers = [_CPU]
        if device == "cuda":
            if _CUDA in self._runtime.get_available_providers():
                providers = [_CUDA, _CPU]
            else:
                _log.info(
                    "%s: runs on the CPU, as this onnxruntime has no %s; install "
                    "onnxruntime-gpu to use the GPU",
                    self.path,
                    _CUDA,
                )
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; not printed as well
        options.intra_op_num_threads = _threads()
        # by path only where data lies beside it: what was checked is what is run
        source = str(self.path) if self._has_external else self._data
        try:
            return self._runtime.InferenceSession(
                source, sess_options=options, providers=providers
            )
        except Exception as error:
            raise ShardError(
                f"{self.path}: onnxruntime cannot load it: {_line(error)}; fetch or "
                "export the file again"
            ) from None


def _threads() -> int:
    import torch

    return int(torch.get_num_threads())


def _look(data: bytes, path: Path) -> tuple[str, dict[str, str], set[str]]:
    """The sha256 of a file and its external data, its metadata, and those names.

    Raises ShardError unless it is a whole ONNX file whose data lies below its folder.
    """
    onnx = _module("onnx", path)
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:
        raise ShardError(_not_onnx(data, path, error)) from None
    if not proto.graph.node or not proto.opset_import:
        raise ShardError(_not_onnx(data, path, "no graph in it"))
    helper = importlib.import_module("onnx.external_data_helper")
    external = set()
    for tensor in helper._get_all_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            keys = {entry.key: entry.value for entry in tensor.external_data}
            external.add(keys.get("location", ""))
    hashes = [sha256_of(data)]
    for name in sorted(external):  # refuses names and links that lead elsewhere
        with open_plain(path.parent, name, max_bytes=MAX_BYTES) as stream:
            hashes.append(file_sha256(stream))
    sha256 = hashes[0] if len(hashes) == 1 else sha256_of("".join(hashes).encode())
    return sha256, {p.key: p.value for p in proto.metadata_props}, external


def _not_onnx(data: bytes, path: Path, error: object) -> str:
    found = "is empty" if not data else f"is damaged ({_line(error)})"
    if data[:200].lstrip().startswith(b"<"):
        found = "is a web page, perhaps of an error while it was fetched"
    elif data.startswith(b"version https://git-lfs"):
        found = "is a Git LFS pointer and not the file itself; run git lfs pull"
    return f"{path}: {found}; expected an ONNX file; fetch or export it again"


def _port(value: Any) -> Port:
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in value.shape)
    return Port(value.name, shape, value.type in _FLOATS[:1])


def _module(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{path}: needs a package that is not installed ({error}); run "
            f"{pip_install('onnx')}"
        ) from None


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]


def to_metadata(description: Description) -> dict[str, str]:
    """The properties of an export, the main ones also by themselves, for others."""
    plain = TypeAdapter(Description).dump_python(description, mode="json")
    own = {
        "class_names": description.names,
        "class_mids": description.mids,
        "sample_rate": description.sample_rate,
        "min_samples": description.min_samples,
        "teacher": description.teacher,
        "license": description.license,
    }
    found = {METADATA_KEY: json.dumps(plain)}
    for name, value in own.items():
        if value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found
