"""Fuzzing: everything that reads what a peer sent is fed what no peer should send.

`targets.py` holds what is fed and what must hold then; `corpus/` the inputs that each target begins with, and every
input that ever broke one. `python -m fuzz` runs all of them for some seconds each; `tests/test_fuzz.py` for a moment.
"""
