"""Whether the packages that psl asks for are there, and what each missing extra is for.

Reads the metadata of installed packages; imports those whose compiled parts
break.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from psl.checkup.finding import Finding
from shards import __version__

DISTRIBUTION = "psl-audio"
EXTRAS = {
    "deepspeed": "ZeRO-1, 2 and 3",
    "export": "psl export to ONNX",
    "hdf5": "packing HDF5 files",
    "models": "EfficientNet, ResNet-50 and AST",
    "onnx": "ONNX teachers",
    "parquet": "packing Parquet files, importing soft labels",
    "remote": "datasets on S3",
    "report": "pictures of psl label_report",
    "teachers": "Hugging Face teachers",
    "tflite": "psl export to TFLite",
}
"""What each extra is for; those for building and testing psl itself are not listed."""
_IMPORTED = {
    "torch": "torch",
    "torchaudio": "psl.features._torchaudio",
    "soundfile": "soundfile",
    "av": "av",
}
"""Packages that may be there and not load, and the module that loads what psl uses."""


def versions() -> Iterator[Finding]:
    """Python, psl, and every package that psl cannot do without."""
    yield Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}")
    requirements = required()
    if requirements is None:
        yield Finding(
            "psl",
            "note",
            f"{__version__}, not installed: its packages are not known",
            "in its clone: pip install -e .",
        )
        return
    yield Finding("psl", "ok", __version__)
    always = [r for r in requirements if r.marker is None]
    lacking = [problem for r in always if (problem := _problem(r))]
    if lacking:
        wanted = [str(r) for r in always if _problem(r)]
        yield Finding("packages", "broken", "; ".join(lacking), _pip(wanted))
    else:
        yield Finding("packages", "ok", f"all {len(always)} that psl needs")
    for name, module in _IMPORTED.items():
        yield _loads(name, module)


def required() -> list[Requirement] | None:
    """What the installed psl asks for; None if it is not installed."""
    try:
        found = importlib.metadata.requires(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
    return [Requirement(text) for text in found or ()]


def _problem(requirement: Requirement) -> str | None:
    """Why an installed package does not meet ``requirement``; None if it does."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, expected {requirement.specifier}"


def _pip(requirements: Sequence[str]) -> str:
    words = [r.partition(";")[0].strip() for r in requirements]
    return f"{shlex.join([sys.executable, '-m', 'pip', 'install', *words])}"


def _loads(name: str, module: str) -> Finding:
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken library raises
        what = " ".join(str(error).split())[:200]
        return Finding(
            name,
            "broken",
            f"does not load: {type(error).__name__}: {what}",
            _pip(["--force-reinstall", "--no-deps", name]),
        )
    return Finding(name, "ok", importlib.metadata.version(name))


def extras() -> Iterator[Finding]:
    """A line for each extra of which a package is missing, and one for the others."""
    requirements = required()
    if requirements is None:
        return
    whole = []
    for extra, purpose in EXTRAS.items():
        asked = [
            r for r in requirements if r.marker and r.marker.evaluate({"extra": extra})
        ]
        lacking = [r for r in asked if _problem(r)]
        if lacking:
            said = "; ".join(filter(None, map(_problem, lacking)))
            text = f"for {purpose}: {said}"
            yield Finding(
                f"extra {extra}", "note", text, _pip([str(r) for r in lacking])
            )
        elif asked:
            whole.append(extra)
    if whole:
        yield Finding("extras", "ok", f"there: {', '.join(whole)}")
