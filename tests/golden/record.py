"""``python -m tests.golden.record``: compute the golden values and store them.

Only when the arithmetic or a format is meant to change, or a package that computes is
upgraded, and with the reason in the commit. Never to make a refactoring pass.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.golden.machine import machine, packages
from tests.golden.recipe import measure

GOLDEN = Path(__file__).with_name("golden.json")


def recompute() -> dict[str, Any]:
    """All that golden.json holds, as this machine and this code have it now."""
    with tempfile.TemporaryDirectory() as folder:
        values = measure(Path(folder))
    return {"packages": packages(), "machine": machine(), **values}


def main() -> None:
    """Overwrite golden.json."""
    GOLDEN.write_text(json.dumps(recompute(), indent=1) + "\n")
    print(f"{GOLDEN}: recorded; look at git diff, and say in the commit why it differs")


if __name__ == "__main__":
    main()
