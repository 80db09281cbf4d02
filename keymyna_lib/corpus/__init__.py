"""Corpora: tracks with audio and spectrograms in a store, who is trained on and who is tested on.

`rendered` makes synthetic corpora out of scores and of `songs`, which compose popular music, on the instruments of
`sound`; `recordings` makes corpora of recorded music. All fill the same store and are opened by `corpus.open_corpus`.
`packages` fetches Debian's. Imports `base`, `compute`, `keys` and `spectrogram`.
"""
