"""How good pseudo labels are: numbers, a table by class, and pictures.

command.py is the way in; report.py reads everything once and writes the files.
"""

from psl.label_report.command import main

__all__ = ["main"]
