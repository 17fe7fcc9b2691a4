"""Fuzzing: all parsers of a peer's data get invalid input.

`targets.py` has the targets and their invariants; `corpus/` the inputs that each target begins with, and every
input that ever broke one. `python -m fuzz` runs all of them for some seconds each; `tests/test_fuzz.py` for a moment.
"""
