"""Results: runs with their provenance, summaries, tables and figures of them, and the stage of a notebook.

A notebook opens a `stage.Stage`, which makes its runs and publishes its tables and figures as a whole. Imports `base`,
`keys`, `spectrogram` and `evaluate`: it reads and writes results, and trains nothing.
"""
