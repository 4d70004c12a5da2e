"""Weight files of others: every common form gives the same weights, none does harm."""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import psl
from psl.weights.files import check_header, parse_weights, read_file
from psl.weights.kinds import is_file_of_weights, is_hub_model, is_run
from psl.weights.tensors import Found, find_weights
from shards.errors import ShardError
from tests.hostile import memory_bound

KNOWN = ("features.0.0.weight",)
WEIGHTS = {
    "features.0.0.weight": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
    "classifier.1.bias": torch.tensor([1, 2], dtype=torch.float16),
    "norm.num_batches_tracked": torch.tensor(7),
    "empty": torch.zeros(0, 4),
}


def saved(content: Any) -> bytes:
    """The bytes that torch.save writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


def found_in(content: Any) -> Found:
    data = content if isinstance(content, bytes) else saved(content)
    return find_weights(parse_weights(data, "a.pt"), "a.pt", known=KNOWN)


class Settings(argparse.Namespace):
    """What a training program keeps beside its weights."""


class Attributes(dict):
    """A dict of its own kind, as Lightning's hyper-parameters are."""


OTHERS = {
    "epoch": 3,
    "hyper_parameters": Attributes(path=Path("data"), rate=0.1, tags={"a"}),
    "callbacks": {Settings: [Settings(patience=3)]},
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
}
EMA = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
FORMS: dict[str, Callable[[], Any]] = {
    "torch.save": lambda: WEIGHTS,
    "before torch 1.6": lambda: _legacy(WEIGHTS),
    "safetensors": lambda: _safetensors(WEIGHTS),
    "torch.compile": lambda: prefixed("_orig_mod."),
    "DDP": lambda: prefixed("module."),
    "DDP of torch.compile": lambda: prefixed("module._orig_mod."),
    "Lightning": lambda: OTHERS | {"state_dict": prefixed("model.")},
    "Lightning, compiled": lambda: {"state_dict": prefixed("model._orig_mod.")},
    "student": lambda: {"model": prefixed("student.") | {"loss.scale": torch.ones(1)}},
    "net": lambda: prefixed("net."),
    "a part compiled": lambda: {
        n.replace("features.", "features._orig_mod."): t for n, t in WEIGHTS.items()
    },
    "FSDP": lambda: prefixed("_fsdp_wrapped_module."),
    "timm": lambda: {"state_dict": EMA, "state_dict_ema": WEIGHTS, "arch": "x"},
    "ema_state_dict": lambda: {"ema_state_dict": WEIGHTS, "state_dict": EMA},
    "DeiT": lambda: OTHERS | {"model": EMA, "model_ema": WEIGHTS},
    "AveragedModel": lambda: prefixed("module.") | {"n_averaged": torch.tensor(3)},
    "ema with a module": lambda: {"ema": {"decay": 0.9, "module": WEIGHTS}},
    "Lightning with an average inside": lambda: {
        "state_dict": {f"model.{n}": t for n, t in EMA.items()}
        | prefixed("model_ema.module.")
    },
    "a parameter": lambda: {n: _parameter(t) for n, t in WEIGHTS.items()},
}


def _parameter(tensor: Tensor) -> Tensor:
    return torch.nn.Parameter(tensor, requires_grad=False)


def _legacy(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def _safetensors(tensors: dict[str, Tensor]) -> bytes:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(whole)


@pytest.mark.parametrize("form", FORMS)
def test_every_common_form_gives_the_same_weights(form: str) -> None:
    """People could not use the weights they have, or would unknowingly use others."""
    found = found_in(FORMS[form]()).weights
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_what_was_taken_of_a_file_is_said() -> None:
    """A moving average would be used, or a model left out, and nobody would know."""
    assert found_in(WEIGHTS).note is None
    assert found_in(FORMS["timm"]()).note == "the weights under 'state_dict_ema'"
    assert found_in(FORMS["student"]()).note == (
        "the weights under 'model', names without their prefix 'student.', 1 other "
        "entries left out"
    )


def test_two_models_in_a_file_are_not_guessed_between() -> None:
    """The wrong network of a distillation would label."""
    both = prefixed("student.") | prefixed("teacher.")
    with pytest.raises(ValueError, match="holds 2 models, .* student., teacher.; save"):
        found_in({"state_dict": both})


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class Builder:
    """Makes a file by a method of an object."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",))


@pytest.mark.parametrize("kind", [Evil, Builder])
def test_objects_beside_the_weights_are_never_made(tmp_path: Path, kind: Any) -> None:
    """A downloaded .ckpt could do whatever it likes on the user's machine."""
    trace = tmp_path / "was_run"
    content = {"state_dict": prefixed("model."), "hyper_parameters": kind(trace)}
    assert torch.equal(found_in(content).weights["empty"], WEIGHTS["empty"])
    with pytest.raises(ValueError, match="holds more than tensors"):
        found_in({"state_dict": kind(trace)})
    assert not trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; expected a file of torch.save"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"RIFF....WAVE", r"starts with b'RIFF....WAVE'; expected .*\.ckpt"),
        (saved({}), "holds dict of nothing, expected a state_dict"),
        (saved({"layer.weight": 3}), "holds dict with layer.weight, expected a st"),
        (saved(3), "holds int, expected a state_dict"),
    ],
)
def test_a_file_of_something_else_says_what_it_is(data: bytes, message: str) -> None:
    """The user would look for a wrong name where the download failed."""
    with pytest.raises(ValueError, match=message):
        found_in(data)


def header(entries: dict[str, Any], payload: int = 8) -> bytes:
    """A safetensors file with whatever header, and ``payload`` zeros."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(payload)


def entry(dtype: Any, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LIES: dict[str, bytes] = {
    "header past the end": struct.pack("<Q", 1 << 20) + b"{}",
    "header of 8 exabytes": struct.pack("<Q", (1 << 63) - 1) + b"{" + bytes(99),
    "header cut": _safetensors(WEIGHTS)[:40],
    "no JSON": struct.pack("<Q", 8) + b"{not it}",
    "brackets": struct.pack("<Q", 5000) + b'{"a":' + b"[" * 4995,
    "overlap": header({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 0, 4)}),
    "gap": header({"a": entry("F32", [1], 4, 8)}),
    "past the end": header({"a": entry("F32", [4], 0, 16)}),
    "shape bomb": header({"a": entry("F32", [1 << 40, 1 << 40], 0, 8)}),
    "negative": header({"a": entry("F32", [-2], 0, -8)}),
    "not numbers": header({"a": entry("F32", ["2"], 0, 8)}),
    "boolean": header({"a": entry("F32", [True, 2], False, 8)}),
    "unknown type": header({"a": entry("F99", [2], 0, 8)}),
    "other bytes": header({"a": entry("F32", [1], 0, 8)}),
    "a number": struct.pack("<Q", 7) + b'{"a":1}',
    "cut": _safetensors(WEIGHTS)[:-2],
    "longer": _safetensors(WEIGHTS) + b"\0\0",
    "twice": struct.pack("<Q", 122)
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    + b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'.ljust(68)
    + bytes(8),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_damage_and_takes_no_memory(lie: str) -> None:
    """A file of 100 bytes would fill the memory, or crash the process."""
    with memory_bound(1 << 28), pytest.raises(ShardError, match="a.st: damaged safet"):
        parse_weights(LIES[lie], "a.st")


def test_a_good_safetensors_header_gives_the_shapes() -> None:
    """Every checkpoint would be refused."""
    data = _safetensors(WEIGHTS)
    shapes = check_header(io.BytesIO(data), len(data))
    assert shapes == {name: list(tensor.shape) for name, tensor in WEIGHTS.items()}


def _rezip(compression: int, data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(stream, "w", compression) as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            is_pickle = name.endswith("data.pkl")
            new.writestr(name, change(content) if is_pickle else content)
    return stream.getvalue()


def memo_bomb(_: bytes) -> bytes:
    """A pickle of 12 bytes that asks for a memo of 2 billion entries."""
    return b"\x80\x02}r" + struct.pack("<I", (1 << 31) - 1) + b"."


def view_past_the_end(_: bytes) -> bytes:
    """A tensor of a million values in a storage of 6."""
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    code += b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00"
    code += b"J" + struct.pack("<i", 10**6) + b"\x85K\x01\x85\x89cfoo\nBar\n)Rt"
    return code + b"R."


@pytest.mark.parametrize(
    ("name", "data"),
    {
        "compressed": _rezip(
            zipfile.ZIP_DEFLATED, saved({"a": torch.zeros(1 << 20)}), bytes
        ),
        "memo": _rezip(zipfile.ZIP_STORED, saved(WEIGHTS), memo_bomb),
        "view": _rezip(zipfile.ZIP_STORED, saved(WEIGHTS), view_past_the_end),
        "cut zip": saved(WEIGHTS)[:-100],
        "old, cut": _legacy(WEIGHTS)[:-4],
    }.items(),
)
def test_a_torch_file_that_lies_is_refused(name: str, data: bytes) -> None:
    """A few bytes would stand for all memory, or be read as weights."""
    with memory_bound(1 << 29), pytest.raises((ShardError, ValueError), match="a.pt: "):
        found_in(data)


def test_a_tensor_that_claims_terabytes_is_refused() -> None:
    """A view of one value with a huge shape would be written out in full."""
    huge = torch.zeros(1).expand(1 << 40)
    with memory_bound(1 << 28), pytest.raises(ValueError, match="larger than any wei"):
        found_in({"features.0.0.weight": huge})


def test_names_that_are_no_text_are_not_printed_in_full() -> None:
    """A name of nested tuples would be hashed and written out for hours."""
    key = b"X\x01\x00\x00\x00x\x85" + b"q\x00h\x00\x86" * 40
    bomb = b"\x80\x02}" + key + b"K\x01s."
    with pytest.raises(ShardError, match="a tuple of more than"):
        found_in(bomb)
    with pytest.raises(ShardError, match="a tuple of more than"):
        found_in(_rezip(zipfile.ZIP_STORED, saved(WEIGHTS), lambda _: bomb))
    weights = found_in({**WEIGHTS, 3: torch.ones(2)}).weights
    assert weights.keys() == WEIGHTS.keys()


def test_a_folder_stands_for_its_file_of_weights(tmp_path: Path) -> None:
    """What accelerate and DeepSpeed save is a folder."""
    torch.save(WEIGHTS, tmp_path / "epoch=3.ckpt")
    (tmp_path / "scheduler.txt").touch()
    assert is_file_of_weights(tmp_path)
    assert read_file(tmp_path)[:2] == b"PK"
    torch.save({}, tmp_path / "optimizer.bin")
    assert not is_file_of_weights(tmp_path)  # nobody can tell which
    with pytest.raises(ShardError, match="no file of weights, or several; "):
        read_file(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(_safetensors(WEIGHTS))
    assert is_file_of_weights(tmp_path) and read_file(tmp_path)[8:9] == b"{"
    (tmp_path / "config.json").write_text("{}")
    assert is_hub_model(tmp_path) and not is_file_of_weights(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert is_run(tmp_path) and not is_hub_model(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "link out", "device", "sparse", "folder"])
def test_a_file_that_is_no_plain_one_is_refused_at_once(
    tmp_path: Path, kind: str
) -> None:
    """The job would hang for ever, deaf to SIGTERM, or fill the memory."""
    path = tmp_path / "home" / "model.safetensors"
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link out":
        (tmp_path / "elsewhere").write_bytes(_safetensors(WEIGHTS))
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        with open(path, "wb") as stream:
            stream.truncate(1 << 40)
    else:
        path.mkdir()
    with memory_bound(1 << 28), pytest.raises(ShardError, match="model.safetensors: "):
        read_file(path.parent)


def test_our_own_model_s_file_is_read_whole() -> None:
    """The largest model of the paper must not meet a bound."""
    weights = psl.build_model(num_classes=527).state_dict()
    found = find_weights(
        parse_weights(_safetensors(weights), "a"), "a", known=KNOWN
    ).weights
    assert found.keys() == weights.keys()
