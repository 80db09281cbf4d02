"""The key of a sound file, from a pre-trained encoder and a head; on the command line, `keymyna predict`.

Audio is decoded to one channel at 16 kHz, cut into windows of 6.25 s (or as long as the encoder's crops, where they
are shorter), embedded and classified; the estimate is the key with the largest mean softmax output over windows. Little
is imported besides torch: imports take most of a single call.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.features import cut_windows, embed, window_frames
from keymyna_lib.heads import TrainedHead
from keymyna_lib.model import load_encoder
from keymyna_lib.spectrogram import PEAK, WINDOW, compress, mel_power, window_starts


class KeyFinder:
    """An encoder and a head, read once, for any number of files.

    Parameters
    ----------
    encoder : file written by `model.save_encoder`.
    head : file written by `heads.TrainedHead.save`, trained on this encoder's embeddings.
    crop_frames : length of the crops that the encoder was pre-trained on, frames of 32 ms; as in training the head,
        windows are no longer than these.

    Raises
    ------
    KeyMynaError
        When a file is missing or damaged, or the head expects other features than the encoder's.
    """

    def __init__(self, encoder: Path | str, head: Path | str, *, crop_frames: int = WINDOW):
        if crop_frames < 1:
            raise KeyMynaError(f"crop_frames {crop_frames}: must be at least 1.")
        self.frames = window_frames(crop_frames)
        self.encoder, self.head = load_encoder(Path(encoder)), TrainedHead.load(head)
        if len(self.head.mean) != self.encoder.embedding_dim:
            raise KeyMynaError(
                f"{head} takes {len(self.head.mean)} features, and {encoder} gives "
                f"{self.encoder.embedding_dim}. Give the head that was trained on this encoder."
            )

    def probabilities(self, path: Path | str) -> np.ndarray:
        """Mean softmax output over the windows of a file, (key,), in the order of `keys.KEY_NAMES`.

        Raises
        ------
        KeyMynaError
            When the file cannot be read or is not sound.
        """
        with torch.inference_mode():
            audio = read_audio(path)
            audio = audio * (PEAK / max(np.abs(audio).max(initial=0.0), 1e-6))  # as the tracks of every corpus
            stored = compress(mel_power(audio)[0])
            x = embed(self.encoder, cut_windows(stored, window_starts(stored.shape[1], self.frames), self.frames))
            return self.head.predict(x, np.zeros(len(x), dtype=np.int64))[0]

    def key(self, path: Path | str) -> int:
        """The key of a file, 0 to 23 (see `keys`); raises as `probabilities` does."""
        return int(self.probabilities(path).argmax())
