"""``psl dry_run`` under the name that it has among the tools."""

from __future__ import annotations

from psl.dry_run import main
from shards.system.exits import run_main

if __name__ == "__main__":
    run_main(main)
