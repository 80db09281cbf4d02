"""Runs and what is shown of them: stored runs with their provenance, summaries, tables, figures.

Imports `base`, `keys`, `spectrogram` and `evaluate`: it reads stored results, and trains nothing.
"""
