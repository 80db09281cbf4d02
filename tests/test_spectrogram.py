"""The mel front end against nnAudio, closed forms and a round trip."""

import warnings

import numpy as np
import pytest
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.spectrogram import (
    HOP,
    SAMPLE_RATE,
    WINDOW,
    compress,
    expand,
    mel_filterbank,
    mel_pieces,
    mel_power,
    n_frames,
    window_starts,
)


def tone(frequency, seconds=3.0, harmonics=1):
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return sum(0.3 / h * np.sin(2 * np.pi * h * frequency * time) for h in range(1, harmonics + 1)).astype(np.float32)


def test_agrees_with_nnaudio():
    from nnAudio.features import MelSpectrogram

    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, 100_000).astype(np.float32))
    theirs = MelSpectrogram(sr=SAMPLE_RATE, n_fft=2048, n_mels=128, hop_length=512, verbose=False)(audio)[0]
    ours = mel_power(audio)[0]
    assert ours.shape == theirs.shape == (128, 196)
    assert ((ours - theirs).abs() / theirs).max() < 1e-4


@pytest.mark.parametrize("samples, frames", [(50_000, 98), (100_000, 196), (16_000, 32)])
def test_frame_counts(samples, frames):
    assert n_frames(samples) == frames == mel_power(torch.zeros(samples)).shape[2]


@pytest.mark.parametrize("samples", [1025, 2048, 5000, 131_072, 132_608, 132_609, 300_001])
@pytest.mark.parametrize("block", [700, 2048, 99_999])
def test_a_spectrogram_in_pieces_is_that_of_the_whole(samples, block):
    audio = np.random.default_rng(0).normal(0, 0.2, samples).astype(np.float32)
    pieces = list(mel_pieces((audio[i : i + block] for i in range(0, samples, block)), -0.37))
    assert torch.equal(torch.cat(pieces, dim=1), mel_power(audio, [-0.37])[0])
    assert all(piece.shape[1] == 256 for piece in pieces[:-1])


@pytest.mark.parametrize("shift", [-6, -1, 1, 4])
def test_shifted_filterbank_is_the_spectrogram_of_the_shifted_tone(shift):
    """A tone heard through the shifted filters looks like the tone that really is that much higher."""
    original, higher = tone(660, harmonics=4), tone(660 * 2 ** (shift / 12), harmonics=4)
    heard = mel_power(original, [shift])[0, :, 20:-20].mean(dim=1).log1p()
    real = mel_power(higher)[0, :, 20:-20].mean(dim=1).log1p()
    assert torch.nn.functional.cosine_similarity(heard, real, dim=0) > 0.99
    unshifted = mel_power(original)[0, :, 20:-20].mean(dim=1).log1p()
    assert torch.nn.functional.cosine_similarity(unshifted, real, dim=0) < 0.95


def test_unshifted_filterbank_is_torchaudios():
    from torchaudio.functional import melscale_fbanks

    theirs = melscale_fbanks(1025, 0, 8000, 128, SAMPLE_RATE, norm="slaney", mel_scale="slaney").T
    torch.testing.assert_close(mel_filterbank(), theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("shift", [0.0, -6.0, 3.3, 12.0])
def test_filterbanks_are_librosas_to_the_last_bit(shift):
    import librosa

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Empty filters")  # the top bands of a downward shift
        theirs = librosa.filters.mel(sr=SAMPLE_RATE * 2 ** (shift / 12), n_fft=2048, n_mels=128, fmin=0.0, fmax=8000.0)
    assert np.array_equal(mel_filterbank(shift).numpy(), theirs)


def test_storage_round_trip_where_float16_alone_overflows():
    power = torch.logspace(-6, 6, 500)
    assert power.half().isinf().any()
    stored = compress(power)
    assert stored.dtype == torch.float16 and stored.isfinite().all()
    tolerance = 6e-4 * (1 + power.log1p())
    assert ((expand(stored) - power).abs() <= tolerance * (power + 1e-3)).all()


@pytest.mark.parametrize("frames", [1, 195, 196, 197, 226, 227, 392, 393, 422, 423, 938, 1000])
def test_windows_cover_all_but_less_than_a_second_and_the_end_once(frames):
    starts = window_starts(frames)
    covered = np.unique(np.concatenate([np.arange(s, s + WINDOW) for s in starts]))
    assert len(set(range(frames)) - set(covered)) * HOP < SAMPLE_RATE
    assert frames < WINDOW or starts[-1] + WINDOW == frames
    assert (np.diff(starts) * HOP >= SAMPLE_RATE - HOP).all()


@pytest.mark.parametrize("audio", [np.zeros(1000, np.float32), np.zeros((2, 5000), np.float32)])
def test_unusable_audio_is_refused(audio):
    with pytest.raises(KeyMynaError, match="one channel"):
        mel_power(audio)
