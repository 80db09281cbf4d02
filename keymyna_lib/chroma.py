"""Average chroma of a recording: the features of the template methods and of a control."""

from __future__ import annotations

import warnings

import numpy as np

from keymyna_lib.spectrogram import SAMPLE_RATE

_N_FFT, _HOP = 8192, 4096  # samples; bins of 2 Hz, which separate neighbouring semitones from about 70 Hz up
_BLOCK = 100_000  # samples; 6.25 s, the order of a section


def mean_chroma(audio: np.ndarray) -> np.ndarray:
    """Average chroma of a recording, each frame counting the same (our choice).

    librosa's chroma on the power spectrum, in blocks of about 6 s for each of which librosa estimates the tuning: with
    a fixed tuning, music 30 cents flat leaks nearly half of each pitch class into the one below, which defeats the
    templates. Every frame sums to 1, so that loud sections do not outvote soft ones; drums and noise make a frame flat,
    which adds the same to all classes and so nothing to a correlation. Silent frames are left out.

    Parameters
    ----------
    audio : (sample,) in [-1, 1] at 16 kHz.

    Returns
    -------
    (pitch class,) float64, C first, that sums to 1; zeros for silence.
    """
    import librosa  # here, because it costs a second to import

    blocks = np.array_split(audio, max(1, round(len(audio) / _BLOCK)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Trying to estimate tuning|n_fft=.* is too large")
        frames = np.concatenate(
            [
                librosa.feature.chroma_stft(y=block, sr=SAMPLE_RATE, n_fft=_N_FFT, hop_length=_HOP, norm=1)
                for block in blocks
            ],
            axis=1,
        )
    heard = frames.sum(axis=0) > 0.5  # librosa leaves a silent frame at 0
    return frames[:, heard].mean(axis=1, dtype=np.float64) if heard.any() else np.zeros(12)
