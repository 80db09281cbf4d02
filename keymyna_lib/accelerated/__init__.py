"""Pre-training on a GPU: batches drawn on the device, and the whole step replayed as one CUDA graph.

Nothing here is used on a CPU, but all of it except CUDA graphs runs there, so that it can be tested without a GPU.
Imports the method's modules below `pretrain`, `corpus`, `compute` and `base`; `pretrain` and `features` turn to it.
"""
