"""W&B, MLflow and trackio themselves, offline, each read back by its own reader."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import trackers_venv
from tests.learning import tiny_config
from tests.needs import needs

pytestmark = needs("trackers")


def _train(name: str, folder: Path, dataset: Path, *words: str) -> Path:
    """A start of the run in ``folder`` with the tracker, offline; its run folder."""
    config = tiny_config(folder, dataset, f"tracker=[{name}]", *words)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [trackers_venv.PYTHON, "-m", "psl.train", *config],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "gets nothing more" not in done.stderr, done.stderr
    return folder / "run"


def _losses(run: Path) -> dict[int, float]:
    """What the run wrote itself: loss by step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def test_mlflow_has_each_loss_of_a_resumed_run_once(
    tmp_path: Path, dataset: Path
) -> None:
    """Whoever compares runs there would see another curve, or a resumed run twice."""
    _train("mlflow", tmp_path, dataset, "epochs=1", "tracker_project=mine")
    run = _train("mlflow", tmp_path, dataset, "epochs=2", "tracker_project=mine")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        rows = store.execute(
            "select run_uuid, step, value from metrics where key = 'loss'"
        ).fetchall()
        names = store.execute("select name from experiments").fetchall()
    assert len({row[0] for row in rows}) == 1
    assert {step: value for _, step, value in rows} == pytest.approx(_losses(run))
    assert len(rows) == len(_losses(run)) and ("mine",) in names


def test_trackio_has_each_loss_of_a_resumed_run_once(
    tmp_path: Path, dataset: Path
) -> None:
    """Whoever compares runs there would see another curve, or a resumed run twice."""
    _train("trackio", tmp_path, dataset, "epochs=1", "tracker_project=mine")
    run = _train("trackio", tmp_path, dataset, "epochs=2", "tracker_project=mine")
    (path,) = (tmp_path / "trackio").glob("mine.db")
    losses, deadline = dict[int, float](), time.monotonic() + 120
    while len(losses) < len(_losses(run)):  # its own process writes a little later
        assert time.monotonic() < deadline, losses
        with sqlite3.connect(path) as store:
            rows = store.execute("select run_name, step, metrics from metrics")
            found = [(name, step, json.loads(text)) for name, step, text in rows]
        losses = {step: values["loss"] for _, step, values in found if "loss" in values}
    assert losses == pytest.approx(_losses(run))
    assert len({name for name, _, _ in found}) == 1


def test_wandb_has_each_loss_offline(tmp_path: Path, dataset: Path) -> None:
    """What wandb sync sends later would be another run's."""
    run = _train("wandb", tmp_path, dataset, "epochs=1", "tracker_project=mine")
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    found = _history(path)
    assert found == pytest.approx(_losses(run))


def _history(path: Path) -> dict[int, float]:
    """Loss by step of a file of W&B."""
    records = [record.hex() for record in _log_records(path.read_bytes())]
    done = subprocess.run(
        [trackers_venv.PYTHON, "-c", _PARSE],
        input="\n".join(records),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["_step"]: line["loss"] for line in lines if "loss" in line}


_PARSE = """
import json, sys
from wandb.proto import wandb_internal_pb2
for line in sys.stdin:
    record = wandb_internal_pb2.Record()
    record.ParseFromString(bytes.fromhex(line))
    items = record.history.item
    found = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
    print(json.dumps(found))
"""


def _log_records(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's form (blocks of 32 KiB, doc/log_format.md)."""
    place, parts = 7, []  # after W&B's own header
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []
