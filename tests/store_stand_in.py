"""A small stand-in for a corpus's spectrogram store, and the settings of a run on it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig

TRAIN, VALID = [f"t{i}" for i in range(9)], ["t9", "t10", "t11"]


def store(shortest=15, longest=60):
    """Twelve tracks in three shards, each with a faint spectrum of its own under loud noise."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest, 12)
    tracks = [(0.4 * rng.random(128) + 4 * rng.random((n, 128))).astype(np.float16) for n in lengths]
    places = pd.DataFrame({"shard": np.arange(12) // 5, "n_frames": lengths}, index=[f"t{i}" for i in range(12)])
    places["first_frame"] = places.groupby("shard")["n_frames"].cumsum() - lengths
    return SimpleNamespace(
        frames=[np.concatenate(tracks[5 * shard : 5 * shard + 5]) for shard in range(3)],
        hash="stand-in",
        front_end="mel",
        manifest=pd.DataFrame({"key": np.arange(12) % 3}, index=places.index),
        offsets=places,
    )


def track_of(corpus, track_id):
    """(frame, mel) of one track."""
    place = corpus.offsets.loc[track_id]
    return corpus.frames[place.shard][place.first_frame : place.first_frame + place.n_frames]


def config(**changes):
    """A short run of a tiny encoder on the CPU."""
    values = dict(
        encoder=EncoderConfig("vit-toy", "vertical", "log1p"),
        mask_ratio=0.5,
        crop_frames=20,
        loss="infonce",
        projection_dim=16,
        steps=6,
        batch_size=8,
        warmup_steps=2,
        device="cpu",
        checkpoint_every=2,
        validate_every=3,
    )
    return PretrainConfig(**values | changes)
