"""The command that calibrates labels on the weak labels of their audio.

Owns its words. psl/labelling/calibrate.py does it, imported once the configuration is
accepted, so that --help and a wrong key are answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from psl.command_line import Command, from_command_line
from psl.labelling.config import CalibrateConfig
from shards.system.exits import run_main

COMMAND = Command(
    "psl.calibrate",
    purpose="Fit a teacher's labels, class by class, to the weak labels of the clips, "
    "and write them calibrated. No truth in time is needed, and no teacher.",
    example="labels=data/labels_2s audio=data/balanced out=data/labels_2s_calibrated",
    first=("labels", "audio", "out", "method", "priors"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.calibrate``."""
    config = from_command_line(CalibrateConfig, argv, COMMAND)
    from psl.labelling.calibrate import calibrate  # loads decoders

    print(calibrate(config))


if __name__ == "__main__":
    run_main(main)
