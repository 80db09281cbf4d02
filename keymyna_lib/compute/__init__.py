"""Where work is done: threads, processes of this machine, a Dask cluster, the ranks of torchrun.

It imports only `base`. Other packages decide what is computed, and no result depends on where it is.
"""
