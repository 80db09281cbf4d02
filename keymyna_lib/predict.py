"""The key of a sound file, by a pre-trained encoder and a head: `python -m keymyna_lib.predict --encoder E --head H FILE...`

Audio is decoded to one channel at 16 kHz, cut into windows of 6.25 s, embedded and classified; the key is that of the
mean of the windows' outputs. Little is imported besides torch, as most of the time of a single call is spent on that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.heads import TrainedHead
from keymyna_lib.keys import KEY_NAMES
from keymyna_lib.model import load_encoder
from keymyna_lib.spectrogram import PEAK, compress, mel_power, window_starts


class KeyFinder:
    """An encoder and a head, read once, for any number of files.

    Parameters
    ----------
    encoder : written by `model.save_encoder`.
    head : written by `heads.TrainedHead.save`, trained on the encoder's embeddings.

    Raises
    ------
    KeyMynaError
        When a file is absent or damaged, or the head takes other features than the encoder gives.
    """

    def __init__(self, encoder: Path | str, head: Path | str):
        self.encoder, self.head = load_encoder(Path(encoder)), TrainedHead.load(head)
        if len(self.head.mean) != self.encoder.embedding_dim:
            raise KeyMynaError(
                f"{head} takes {len(self.head.mean)} features, and {encoder} gives "
                f"{self.encoder.embedding_dim}. Give the head that was trained on this encoder."
            )

    def probabilities(self, path: Path | str) -> np.ndarray:
        """(key,) mean softmax output over the windows of a file; errors as `decode.read_audio` and `mel_power`."""
        with torch.inference_mode():
            audio = read_audio(path)
            audio = audio * (PEAK / max(np.abs(audio).max(initial=0.0), 1e-6))  # as the tracks of every corpus
            stored = compress(mel_power(audio)[0])
            x = embed(self.encoder, cut_windows(stored, window_starts(stored.shape[1])))
            return self.head.predict(x, np.zeros(len(x), dtype=np.int64))[0]

    def key(self, path: Path | str) -> int:
        """The key of a file, 0..23; errors as `probabilities`."""
        return int(self.probabilities(path).argmax())


def main(arguments: list[str] | None = None) -> int:
    """Print the key and its share of the output for each file; status 0, or 1 when a file cannot be read."""
    options = argparse.ArgumentParser(prog="python -m keymyna_lib.predict", description=__doc__.splitlines()[0])
    options.add_argument("files", nargs="+", metavar="FILE", help="sound files (wav, flac, ogg, mp3)")
    options.add_argument("--encoder", required=True, metavar="E", help="encoder.safetensors of a pre-training run")
    options.add_argument("--head", required=True, metavar="H", help="head.safetensors of a run on its embeddings")
    asked, status = options.parse_args(arguments), 0
    try:
        finder = KeyFinder(asked.encoder, asked.head)
    except KeyMynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for file in asked.files:
        try:
            found = finder.probabilities(file)
            print(f"{file}\t{KEY_NAMES[found.argmax()]}\t{found.max():.3f}")
        except KeyMynaError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
