"""Numbers and bytes that a refactoring must not change, and the check that it did not.

``test_golden.py`` runs the command lines on a tiny data set and compares losses,
weights, shards and labels with ``golden.json``. After a change that is meant to alter
the arithmetic, or an upgrade of a package that computes, record them again and say why
in the commit: ``python -m tests.golden.record``.
"""
