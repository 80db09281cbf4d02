"""From notes to audio: programmes and SoundFonts, the synthesizer, and what studios and carriers do to its sound.

`programmes` names the instruments, `soundfonts` finds the banks that play them, `effects` are functions of audio,
`production` draws and applies chains of them, `draws` holds
what it and the arrangements draw alike, `render` plays an arrangement through all of it. Makers of synthetic
corpora stand above. Imports `base` and `spectrogram`.
"""
