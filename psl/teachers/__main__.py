"""``python -m psl.teachers``."""

from psl.teachers import main
from shards.system.exits import run_main

if __name__ == "__main__":
    run_main(main)
