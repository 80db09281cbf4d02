"""What `keymyna predict` does around `predict`: which model, which files, their tags, and how answers are shown.

It imports anything but `run`, and at module level nothing that the notebooks alone install; but for `try_it`, which
notebook 85 alone uses.
"""
