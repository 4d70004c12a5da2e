"""``python -m psl.adapting``."""

from psl.adapting import main
from shards.system.exits import run_main

if __name__ == "__main__":
    run_main(main)
