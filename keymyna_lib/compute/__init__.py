"""Where work is done: threads, processes of this machine, a Dask cluster, the ranks of torchrun.

Imports `base` only. What is computed is decided elsewhere, and no result depends on anything in here.
"""
