"""Corpora of recordings: data sets and their annotations, downloads, decoding, tasks.

Start at `dataset`; a data set is a subclass of its `Dataset`, listed in `tasks`. Imports what `corpus` may import, and
`corpus` itself; nothing of `rendered`.
"""
