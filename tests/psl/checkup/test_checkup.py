"""psl.doctor: what it finds on machines that lack something."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from psl import doctor
from psl.checkup import folder, machine, packages
from psl.checkup.finding import Finding
from tests.learning import REPOSITORY


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_machine_that_works_is_told_so_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newcomer could not trust what it says, or would have files to remove."""
    with pytest.raises(SystemExit) as ended:
        doctor.main([str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and found["broken"] == []
    names = {f["name"]: f for f in found["findings"]}
    assert {"torch", "CPU", "GPU", "disk", "rename", "locks", "loader"} <= set(names)
    assert names["rename"]["state"] == names["locks"]["state"] == "ok"
    assert names["loader"]["facts"]["chunks_per_second"] > 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_broken_and_a_missing_extra_is_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first job would fail instead, or a machine would be called broken for what
    its user never needs.
    """
    asked = ["numpy>=99", "nosuchthing", 'h5py>=99; extra == "hdf5"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    found = by_name([*packages.versions(), *packages.extras()])
    assert found["packages"].state == "broken"
    assert "nosuchthing is missing" in found["packages"].text
    assert (found["packages"].cure or "").endswith("install 'numpy>=99' nosuchthing")
    assert found["extra hdf5"].state == "note"
    assert "packing HDF5 files" in found["extra hdf5"].text
    assert (found["extra hdf5"].cure or "").endswith("-m pip install 'h5py>=99'")
    with pytest.raises(SystemExit) as ended:
        doctor.main([str(tmp_path)])
    assert ended.value.code == 1
    assert capsys.readouterr().out.endswith("broken: packages\n")


def test_every_extra_is_explained() -> None:
    """A new extra would never be named."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = set(setup["options.extras_require"])
    assert set(packages.EXTRAS) == extras - {"docs", "mini", "test"}


def test_a_gpu_that_torch_does_not_see_is_told_apart_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU would stand idle for weeks of training on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "version")
    assert [f.state for f in machine.gpus()] == ["note"]
    (tmp_path / "version").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    (found,) = machine.gpus()
    assert "built for CPUs" in found.text and "CUDA build" in (found.cure or "")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [f.cure for f in machine.gpus()] == ["unset CUDA_VISIBLE_DEVICES"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [f.state for f in machine.gpus()] == ["broken"]


def test_a_folder_that_keeps_no_promise_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs would write into one run, or read half of a file."""

    def slow_copy(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"")
        shutil.copyfile(source, target)
        os.unlink(source)

    monkeypatch.setattr(os, "replace", slow_copy)
    monkeypatch.setattr(folder, "try_lock", lambda stream: True)  # locks nothing
    monkeypatch.setattr(folder, "file_system_time", lambda place: 0.0)
    found = by_name(list(folder.promises(tmp_path)))
    assert found["rename"].state == found["locks"].state == "broken"
    assert "behind ours" in found["clock"].text and found["clock"].cure
    monkeypatch.setattr(folder, "try_lock", lambda stream: None)
    assert by_name(list(folder.promises(tmp_path)))["locks"].state == "note"


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    """A shared folder would be taken for a local disk."""
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /shared\\040data rw - nfs4 server:/data rw\n"
        "31 22 0:41 / /share rw - tmpfs tmpfs rw\n"
    )
    assert folder.kind_of(Path("/shared data/runs"), mounts) == "nfs4"
    assert folder.kind_of(Path("/shared"), mounts) == "ext4"
    assert folder.kind_of(Path("/"), mounts) == "ext4"


def test_a_folder_that_cannot_be_written_is_broken_or_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A traceback would be the diagnosis."""
    with pytest.raises(SystemExit) as ended:
        doctor.main(["/proc"])
    assert ended.value.code == 1
    assert "/proc: nothing can be written" in capsys.readouterr().out
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        doctor.main(["nowhere"])
