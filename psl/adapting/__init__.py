"""Own classes from a few examples: heads on embeddings, or all layers.

command.py is the way in for people, job.py for Python (``psl.adapt``).
"""

from psl.adapting.command import main

__all__ = ["main"]
