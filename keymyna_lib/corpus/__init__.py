"""Corpora: tracks with audio and spectrograms in a store, who is trained on and who is tested on.

`rendered` makes the synthetic corpus out of scores, `recordings` makes corpora of recorded music; both fill the same
store and are opened by `corpus.open_corpus`. Imports `base`, `compute`, `keys` and `spectrogram`.
"""
