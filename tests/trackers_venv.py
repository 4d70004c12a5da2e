"""An environment with W&B, MLflow and trackio, which the tests of trackers use.

python -m tests.trackers_venv makes it in .cache. It sees the packages of the
environment it is run with, and has its own where the trackers want older versions.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PACKAGES = ("wandb==0.31.0", "mlflow==3.17.2", "trackio==0.43.0")
HOME = Path(__file__).resolve().parents[1] / ".cache" / "trackers"
PYTHON = HOME / "bin" / "python"
_READY = HOME / "packages.txt"


def problem() -> str | None:
    """What is wrong with the environment and what to do; None if nothing."""
    if _READY.exists() and _READY.read_text().split() == list(PACKAGES):
        return None
    return f"no environment with them in {HOME} (make trackers makes it)"


def make() -> None:
    """Make the environment, unless it is there and whole."""
    if problem() is None:
        return
    venv.create(HOME, clear=True)
    (own,) = HOME.glob("lib/python*/site-packages")
    (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, *PACKAGES], check=True)
    _READY.write_text("\n".join(PACKAGES) + "\n")


if __name__ == "__main__":
    try:
        make()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"trackers: {error}; their tests cannot run")
