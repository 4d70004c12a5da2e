"""Data plane: audio clips and label rows as bytes, keys, tables and order.

Owns everything between files on disk and NumPy arrays. Never imports torch or psl.
"""

__version__ = "0.1.0"
