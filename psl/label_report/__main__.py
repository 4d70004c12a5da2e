"""``python -m psl.label_report``."""

from psl.label_report import main
from shards.system.exits import run_main

if __name__ == "__main__":
    run_main(main)
