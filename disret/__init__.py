"""Plumbing of the scripts `distill.py`, `benchmark.py` and `ispeed.py`: one concept a module."""

__version__ = "0.1.0"
