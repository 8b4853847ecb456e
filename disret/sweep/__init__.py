"""Many students compared: which layers to try, how to run them, tables and figures.

In: the tables that `benchmark.py` and `ispeed.py` wrote. Out: tables and figures.
May import: every other wing but `example`.
"""
