"""Corpora: tracks with audio and spectrograms in a store, who is trained on and who is tested on.

`rendered` makes the synthetic corpus out of scores and `songs`, played by `sound`; `recordings` makes corpora of
recorded music. Both fill the same store and are opened by `corpus.open_corpus`. `packages` fetches Debian's.
Imports `base`, `compute`, `keys` and `spectrogram`.
"""
