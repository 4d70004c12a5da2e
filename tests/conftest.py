"""A tiny dataset of tones that every test can pack, train on and break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings

from tests import needs

# a shared machine may stall for longer than hypothesis allows an example
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # as in a job that a script started in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

RATE = 16000
MIDS = ("/m/low", "/m/mid", "/m/high")
TONES_HZ = (300.0, 1200.0, 4000.0)

LONGEST_FIRST = (
    *("demo", "gpu_check", "zero", "slurm", "launchers", "ranks", "train", "faults"),
    *("blocks", "launch_files", "scaling", "bench_data", "two_machines", "label_job"),
    *("shard_faults", "plan", "config", "online", "resume"),
)
"""Test files that take the longest; begun last, one would be run alone at the end."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of LONGEST_FIRST in that order, then the others as they were."""
    names = [f"test_{name}.py" for name in LONGEST_FIRST]
    for name in names:
        if not any(Path(__file__).parent.rglob(name)):
            raise pytest.UsageError(f"tests/conftest.py: no {name}; mend LONGEST_FIRST")
    places = {name: place for place, name in enumerate(names)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or in CI fail, a test that needs what this machine lacks."""
    needs.check(item)


def skip_reasons(reporter: pytest.TerminalReporter) -> list[str]:
    """Why tests were skipped so far, one for each."""
    return [report.longrepr[2] for report in reporter.stats.get("skipped", [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine did not try: a line for each reason, with what to install."""
    if lines := needs.summary(skip_reasons(terminalreporter)):
        is_error = needs.in_ci() and needs.forbidden(skip_reasons(terminalreporter))
        note = "; PSL_CI is set, so this is an error" if is_error else ""
        terminalreporter.section(f"not tested on this machine{note}")
        for line in lines:
            terminalreporter.line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, where everything is installed, a skip fails unless it is optional."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not needs.in_ci():
        return
    if needs.forbidden(skip_reasons(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@dataclass(frozen=True)
class Source:
    """Audio files and CSVs as a user has them, before packing."""

    audio: Path
    segments: Path
    class_labels: Path

    def pack_arguments(self, out: Path) -> list[str]:
        """The words of ``python -m shards.pack`` for this source."""
        return [
            *("--audio", str(self.audio)),
            *("--segments", str(self.segments)),
            *("--class-labels", str(self.class_labels)),
            *("--out", str(out)),
            *("--workers", "1", "--clips-per-shard", "8"),
        ]


def write_source(folder: Path, *, num_clips: int, seconds: float = 2.0) -> Source:
    """``num_clips`` WAV files; clip i holds the tones of classes i % 3 (and i % 2)."""
    audio = folder / "audio"
    audio.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * RATE)) / RATE
    rows = []
    for number in range(num_clips):
        classes = sorted({number % 3, number % 2})
        tones = sum(np.sin(2 * np.pi * TONES_HZ[c] * time) for c in classes)
        wave = 0.2 * tones + 0.01 * rng.standard_normal(len(time))
        pcm = np.round(wave * 32767).astype(np.int16)
        soundfile.write(audio / f"clip{number}.wav", pcm, RATE, subtype="PCM_16")
        mids = ",".join(MIDS[c] for c in classes)
        rows.append(f'clip{number}, 0.000, {seconds:.3f}, "{mids}"')
    segments = folder / "segments.csv"
    segments.write_text("# Segments\n" + "\n".join(rows) + "\n")
    class_labels = folder / "class_labels_indices.csv"
    lines = [f'{i},{mid},"Tone {mid[3:]}"' for i, mid in enumerate(MIDS)]
    class_labels.write_text("index,mid,display_name\n" + "\n".join(lines) + "\n")
    return Source(audio, segments, class_labels)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """24 clips of 2 s that the test may break."""
    return write_source(tmp_path / "source", num_clips=24)


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs ``python -m MODULE WORDS...`` as a user does."""

    def run_module(
        module: str, *words: str, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )

    return run_module


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The 24 clips of 2 s, packed in 3 shards; not to be changed."""
    folder = tmp_path_factory.mktemp("dataset")
    source = write_source(folder / "source", num_clips=24)
    result = run("shards.pack", *source.pack_arguments(folder / "packed"))
    assert result.returncode == 0, result.stderr
    return folder / "packed"
