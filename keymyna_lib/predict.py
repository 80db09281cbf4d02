"""The key of a sound file, from a key model; on the command line, `keymyna predict`.

Audio is decoded to one channel at 16 kHz, cut into windows of 6.25 s (or as long as the encoder's crops, where they
are shorter), embedded and classified; the estimate is the key with the largest mean softmax output over windows. What
training never shows is mended first (all of it our choice): silence is left out, what is shorter than a window is
repeated until it fills one, and a recording off concert pitch is heard at it. A file is gone through twice, block by
block, so that memory does not grow with its length. Little is imported besides torch: imports take most of a single
call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.calibration import entropy
from keymyna_lib.corpus.recordings.decode import audio_blocks
from keymyna_lib.evaluate import track_predictions
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.front_ends import power_pieces
from keymyna_lib.key_model import KeyModel
from keymyna_lib.key_over_time import Timeline, dense_starts, timeline, window_edges
from keymyna_lib.keys import N_KEYS
from keymyna_lib.spectrogram import HOP, N_FFT, PEAK, SAMPLE_RATE, compress, window_starts

SILENCE, DOUBT = "silence", "doubt"  # why no key is clear
_QUIET = 45.0  # dB below the loudest moment: what is softer is silence, and to an encoder next to nothing
_DUST = -70.0  # dB of full scale: below it lie rounding and dither, whatever the loudest moment is
_PAUSE = SAMPLE_RATE  # samples; shorter silence belongs to the music
_KEPT = 20 * 60 * SAMPLE_RATE  # samples of decoded audio that stay in memory, 77 MB; more is decoded a second time
_SPECTRUM = 8192  # samples; bins of 2 Hz, which separate neighbouring semitones from about 70 Hz up
_PITCHED = (80.0, 2000.0)  # Hz; above, upper partials outnumber fundamentals, and are sharp or flat of any scale
_LOUD_PEAK = 0.05  # of the highest in the same spectrum
_FLOOR = 1e-12  # least magnitude of a spectrum
_IN_TUNE = (
    15.0  # cents; half of what training shows the encoder (`detune_cents` of the corpora), where it begins to err
)
_CLEAR = 0.1  # least agreement of all peaks on one tuning, 0 to 1; noise has 0.01
_BATCH = 64  # windows


@dataclass(frozen=True)
class Estimate:
    """What a recording sounds like.

    Attributes
    ----------
    key : 0 to 23 (see `keys`), or None where none is clear.
    probabilities : (key,) mean softmax output over windows, calibrated; all the same where there is nothing to hear.
    tuning : deviation from concert pitch (A at 440 Hz) in cents, above -50 up to 50; 0 where no pitch is clear.
    seconds : length of the recording.
    silence : seconds of it that were left out.
    unclear : why there is no key: SILENCE throughout, or DOUBT, its windows having more entropy than the model's
        `max_entropy`; empty where there is one.
    timeline : the key over time [s of the recording], where it was asked for and there is a key; else None.
    embedding : (embedding,) mean over the windows that `probabilities` are the mean of; None for SILENCE.
    """

    key: int | None
    probabilities: np.ndarray
    tuning: float
    seconds: float
    silence: float
    unclear: str = ""
    timeline: Timeline | None = None
    embedding: np.ndarray | None = None

    @property
    def ranking(self) -> list[int]:
        """The keys, the likeliest first."""
        return np.argsort(-self.probabilities, kind="stable").tolist()


class KeyFinder:
    """A key model at work, on any number of files, and from several threads at a time.

    Parameters
    ----------
    model : as in training its heads, windows are no longer than the crops that its encoder was pre-trained on.
    device : where windows are embedded.
    """

    def __init__(self, model: KeyModel, *, device: torch.device | str = "cpu"):
        self.model, self.encoder = model, model.encoder.to(device)
        self.frames = model.frames

    @classmethod
    def load(cls, path: Path | str, *, device: torch.device | str = "cpu") -> KeyFinder:
        """Of a model file; raises as `KeyModel.load` does."""
        return cls(KeyModel.load(path), device=device)

    def estimate(self, path: Path | str, *, over_time: bool = False) -> Estimate:
        """The key of a file, and what else was heard.

        Silence of a second or more is left out: moments that are 45 dB softer than the loudest, or below -70 dB of full
        scale. What is left and shorter than a window is repeated. More than 15 cents off concert pitch, it is heard
        as if tuned; the key is then the nearest one. All others are embedded as the tracks of every corpus are.

        Parameters
        ----------
        path : of a sound file.
        over_time : find the key over time too, from windows that overlap: three to four times the work.

        Raises
        ------
        KeyMynaError
            When the file cannot be read, is not sound, or is shorter than 0.065 s.
        """
        heard = _Listener()
        kept: list[np.ndarray] = []
        for block in audio_blocks(path):
            heard.add(block)
            kept.append(block)
            if heard.samples > _KEPT:
                kept.clear()
        if heard.samples <= N_FFT // 2:
            raise KeyMynaError(
                f"{path} is too short: {heard.samples / SAMPLE_RATE:.3f} s. A key takes more than "
                f"{N_FFT / 2 / SAMPLE_RATE:.3f} s, and a good estimate several seconds."
            )
        sounding = heard.sounding(self.frames)
        left, seconds = int(sounding.sum()), heard.samples / SAMPLE_RATE
        if left <= N_FFT // 2 // HOP:  # nothing, or a click
            return Estimate(None, np.full(N_KEYS, 1 / N_KEYS), 0.0, seconds, seconds, SILENCE)
        tuning = heard.tuning()
        audio = _sounding_part(kept or audio_blocks(path), sounding)
        scale = PEAK / max(heard.peak, 1e-6)  # as the tracks of every corpus
        mended = -tuning / 100 if abs(tuning) > _IN_TUNE else 0.0
        pieces = power_pieces((block * scale for block in audio), self.encoder.config.front_end, mended)
        with torch.inference_mode():
            windows = _windows(map(compress, pieces), self.frames, dense=over_time)
            starts, x = [], []
            for batch in _batches(windows):
                starts += [start for start, _ in batch]
                x.append(embed(self.encoder, torch.stack([window for _, window in batch])))
            embeddings = torch.cat(x)
            found = self.model.probabilities(embeddings)
        end_to_end = np.isin(starts, window_starts(starts[-1] + self.frames, self.frames))
        mean = track_predictions(found[end_to_end], np.zeros(end_to_end.sum(), np.int64))[0]
        probabilities = self.model.calibrated(mean)
        silence = max(seconds - left * HOP / SAMPLE_RATE, 0.0)
        embedding = embeddings[torch.from_numpy(end_to_end)].mean(dim=0).numpy()
        if entropy(found[end_to_end]).mean() > self.model.max_entropy:
            return Estimate(None, probabilities, tuning, seconds, silence, DOUBT, embedding=embedding)
        heard_over_time = self._timeline(found, np.array(starts), sounding, seconds) if over_time else None
        key = int(probabilities.argmax())
        return Estimate(key, probabilities, tuning, seconds, silence, timeline=heard_over_time, embedding=embedding)

    def _timeline(self, found: np.ndarray, starts: np.ndarray, sounding: np.ndarray, seconds: float) -> Timeline:
        """The key over time, told in the recording's own time; silence between two windows belongs to the first.

        Parameters
        ----------
        found : (window, key) uncalibrated. starts : (window,) frames of what sounds.
        sounding : (hop,) bool.
        seconds : length of the recording.
        """
        heard = np.flatnonzero(sounding)
        edges, weights = window_edges(starts, self.frames, min(starts[-1] + self.frames, len(heard)))
        begin = np.append(heard, heard[-1] + 1)  # hop of the recording at which each hop that sounds begins
        times = begin[np.minimum(np.round(edges).astype(int), len(heard))] * HOP / SAMPLE_RATE
        return timeline(self.model.calibrated(found), np.minimum(times, seconds), weights, self.model.persistence)

    def probabilities(self, path: Path | str) -> np.ndarray:
        """`Estimate.probabilities` of a file, (key,), in the order of `keys.KEY_NAMES`; raises as `estimate` does."""
        return self.estimate(path).probabilities

    def key(self, path: Path | str) -> int | None:
        """`Estimate.key` of a file; raises as `estimate` does."""
        return self.estimate(path).key


class _Listener:
    """What has to be known of a whole recording before its windows are embedded, from blocks of (sample,) each."""

    def __init__(self) -> None:
        self.samples, self.peak = 0, np.float32(0)
        self._levels: list[np.ndarray] = []
        self._waiting = np.empty(0, np.float32)
        self._direction, self._weight = 0j, 0.0

    def add(self, block: np.ndarray) -> None:
        """Listen to what comes next."""
        self.samples += len(block)
        self.peak = max(self.peak, np.abs(block).max(initial=0.0))
        waiting = np.concatenate([self._waiting, block])
        whole = len(waiting) // _SPECTRUM * _SPECTRUM
        self._waiting = waiting[whole:]
        if whole:
            self._levels.append(waiting[:whole].reshape(-1, HOP).std(axis=1))  # an offset is not sound
            direction, weight = _spectral_tuning(waiting[:whole].reshape(-1, _SPECTRUM))
            self._direction += direction
            self._weight += weight

    def sounding(self, window: int) -> np.ndarray:
        """Whether each hop is to be heard, (hop,) bool, the last hop perhaps incomplete.

        What sounds for less than a window [frames] is freed of all silence, not only of long pauses.
        """
        rest = [self._waiting[i : i + HOP].std() for i in range(0, len(self._waiting), HOP)]
        levels = np.concatenate([*self._levels, rest])
        sounds = levels > max(levels.max() * 10 ** (-_QUIET / 20), 10 ** (_DUST / 20))
        if sounds.sum() < window:
            return sounds
        edges = np.flatnonzero(np.diff(np.concatenate([[True], sounds, [True]])))
        sounds = np.ones_like(sounds)
        for first, after in edges.reshape(-1, 2):
            sounds[first:after] = (after - first) * HOP < _PAUSE
        return sounds

    def tuning(self) -> float:
        """Deviation from concert pitch in cents, above -50 up to 50; 0 where the recording has no clear pitch."""
        if self.samples < _SPECTRUM // 2:  # peaks are wider than a semitone
            return 0.0
        direction, weight = self._direction, self._weight
        if len(self._waiting):
            last = _spectral_tuning(np.pad(self._waiting, (0, _SPECTRUM - len(self._waiting)))[None])
            direction, weight = direction + last[0], weight + last[1]
        if abs(direction) <= _CLEAR * weight:
            return 0.0
        return float(np.angle(direction)) / (2 * np.pi) * 100


def _spectral_tuning(samples: np.ndarray) -> tuple[complex, float]:
    """Where the peaks of some spectra lie between the semitones: magnitude-weighted sum of directions, and of weights.

    A peak d semitones above the nearest note of the scale points to exp(2 pi i d), so that 49 cents up and 49 down are
    neighbours. Its frequency is that of a parabola through three log magnitudes (Smith and Serra, 1987).

    Parameters
    ----------
    samples : (spectrum, _SPECTRUM).
    """
    spectrum = np.abs(torch.fft.rfft(torch.from_numpy(samples) * torch.hann_window(_SPECTRUM)).numpy())
    first, last = (round(hz * _SPECTRUM / SAMPLE_RATE) for hz in _PITCHED)
    left, here, right = (spectrum[:, first + i : last + i] for i in (-1, 0, 1))
    loud = np.maximum(_LOUD_PEAK * here.max(axis=1, keepdims=True, initial=0.0), _FLOOR)
    peak = (here > left) & (here >= right) & (here > loud)
    bins = np.nonzero(peak)[1] + first
    weight = here[peak].astype(np.float64)
    # In double precision: single has one logarithm for neighbouring numbers, and a flat top has no parabola.
    left, here, right = (np.log(side[peak].astype(np.float64) + _FLOOR) for side in (left, here, right))
    bins = bins + 0.5 * (left - right) / (left - 2 * here + right)
    semitones = 12 * np.log2(bins * SAMPLE_RATE / _SPECTRUM / 440)
    return complex((weight * np.exp(2j * np.pi * semitones)).sum()), float(weight.sum())


def _sounding_part(blocks: Iterable[np.ndarray], sounding: np.ndarray) -> Iterator[np.ndarray]:
    """The hops of a recording that sound, (sample,) a block; the blocks may have any lengths."""
    waiting, first = np.empty(0, np.float32), 0
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        hops = len(waiting) // HOP
        yield waiting[: hops * HOP][np.repeat(sounding[first : first + hops], HOP)]
        waiting, first = waiting[hops * HOP :], first + hops
    if len(waiting) and sounding[first]:
        yield waiting


def _windows(pieces: Iterable[torch.Tensor], frames: int, *, dense: bool = False) -> Iterator[tuple[int, torch.Tensor]]:
    """Windows (band, frame) of a stored spectrogram that comes in pieces (band, frame), and the frame each begins at.

    They are where `window_starts` has them or, `dense`, where `dense_starts` has. What is shorter than a window is
    repeated: silence in its place would be most of what the encoder sees.
    """
    starts_of = dense_starts if dense else window_starts
    held, gone = next(iter_pieces := iter(pieces)), 0
    for piece in iter_pieces:
        while held.shape[1] >= 2 * frames:
            for start in starts_of(2 * frames, frames)[:-1]:  # the next one's first is the last
                yield gone + start, held[:, start : start + frames]
            held, gone = held[:, frames:], gone + frames
        held = torch.cat([held, piece], dim=1)
    if held.shape[1] < frames:
        held = held.repeat(1, -(-frames // held.shape[1]))[:, :frames]
    starts = starts_of(held.shape[1], frames)
    yield from zip((starts + gone).tolist(), cut_windows(held, starts, frames))


def _batches(windows: Iterator[tuple[int, torch.Tensor]]) -> Iterator[list[tuple[int, torch.Tensor]]]:
    while batch := list(islice(windows, _BATCH)):
        yield batch
