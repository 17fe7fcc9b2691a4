"""Measurements: `python -m bench`. Ratios, not absolutes: every number stands beside a baseline of the same run."""
