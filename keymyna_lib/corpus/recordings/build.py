"""A corpus of recordings: decoded once, stored like the synthetic one, and opened by the same `open_corpus`.

Every recording, loud or quiet, is scaled to the peak of a synthetic piece (`spectrogram.PEAK` of full scale): nothing
is clipped, 16 bits are enough for quiet recordings, and data sets cannot be recognised by the level of a log
spectrogram. An encoder of linear mel power is hardly affected, as its first layer normalises each patch.

The folder is CACHE/corpus/<key>. The key is a hash of the table of tracks (without their files' places), `seconds`, the
code that decodes and the libraries' versions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from keymyna_lib import keys, spectrogram
from keymyna_lib.base import hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus import corpus as corpora
from keymyna_lib.corpus import store
from keymyna_lib.corpus.recordings import copies, decode

COLUMNS = (
    "source",
    "task",
    "title",
    "artist",
    "composition",
    "recording",
    "split",
    "key",
    "key_name",
    "label",
    "duration",
    "n_samples",
    "n_frames",
    "sha256",
    "spectrogram_sha256",
)
_GIVEN = (
    *("file", "n_samples", "source", "task", "split", "drawn", "composition"),
    *("key", "label", "artist", "title", "content"),
)
_KINDS = {"n_samples": np.int64, "key": np.int64, "drawn": bool}  # the others are text
_LIBRARIES = ("soundfile", "soxr", "numpy", "torch", "librosa")
_SILENCE = 1e-6  # peak below which there is nothing to scale
# Least log(1 + power) of a frame's loudest band that counts as sound: 50 dB or so below loud music (our choice).
_HEARD = 0.02


def build_recordings(
    tracks: pd.DataFrame,
    *,
    seconds: float,
    min_windows: float = 0,
    cache: Path | None = None,
    progress: bool = True,
    client: Executor = HERE,
    front_end: str = "mel",
) -> tuple[corpora.Corpus, pd.DataFrame]:
    """Decode recordings into a corpus, or its missing and damaged parts; a finished one is verified and opened.

    A file that cannot be decoded is left out, reported, and not tried again. One that is absent stops the build, as its
    disk may have been removed; called again, the build resumes. Copies of one recording are kept together, see
    `copies.settle`, and said.

    Parameters
    ----------
    tracks : index track_id; columns file (path), n_samples (at 16 kHz, as `decode.audio_length` has it), source (data
        set), task (or empty), split (one of `corpus.SPLITS`), drawn (whether the split was drawn from the composition),
        composition, key (0..23, or -1 without a label), label (as written), artist, title, content (a string that
        changes with the file's content).
    seconds : of each recording, from its beginning; 0 for all of it.
    min_windows : least length of a recording that is pre-trained on alone (split "pretrain"), in windows of
        `spectrogram.WINDOW` frames, silent frames not counted. Shorter ones are sound effects and jingles.
    cache : folder to build in; `paths.CACHE` by default.
    progress : show bars.
    client : where to decode, see `cluster.connect`; a cluster's workers see the recordings under the same paths. The
        result depends neither on it nor on the order of `tracks`.
    front_end : of the spectrograms, one of `front_ends.FRONT_ENDS`.

    Returns
    -------
    corpus : its manifest has the columns `COLUMNS`, its rows are sorted by track_id; key_name is empty without a label,
        recording is the same for copies.
    unused : columns track_id, state ("corrupt": it cannot be decoded; "excluded": too short, or a copy of what is
        scored), problem.

    Raises
    ------
    KeyMynaError
        When the table is not as above, a file is not there, nothing can be decoded or is long enough, the disk is too
        full, or a process is killed; or as `copies.settle`.
    """
    plan = _plan(tracks, seconds)
    recipe = {
        "seconds": float(seconds),
        "peak": spectrogram.PEAK,
        "min_windows": float(min_windows),
        "front_end": front_end,
    }
    least = min_windows * spectrogram.WINDOW  # frames
    why = f"less than {min_windows:g} windows of sound ({least * spectrogram.HOP / spectrogram.SAMPLE_RATE:.1f} s)"
    short = set(plan.index[(plan["split"] == "pretrain") & (plan["n_frames"] < least)])  # they need no decoding
    plan = plan.drop(index=list(short))
    if plan.empty:
        raise KeyMynaError(f"all of the {len(short)} recordings have {why}; lower min_windows, or bring longer ones.")
    folder = Path(cache or paths.CACHE) / "corpus" / _key(plan, recipe)
    places = store.offsets(plan)
    hashes, problems = store.fill(
        folder,
        places,
        functools.partial(_samples, seconds=seconds),
        lambda track_id: (plan.file[track_id],),
        folder / corpora.INDEX,
        doing="decoding",
        progress=progress,
        client=client,
        front_end=front_end,
    )
    manifest = plan.drop(index=[track_id for track_id in plan.index if track_id in problems])
    if manifest.empty:
        track_id, problem = next(iter(problems.items()))
        raise KeyMynaError(f"none of the {len(plan)} recordings can be decoded; {track_id}: {problem}")
    manifest["sha256"], manifest["spectrogram_sha256"] = zip(*(hashes[t] for t in manifest.index))
    frames = store.Shards(folder, store.FRAMES, front_end)
    if least:
        unlabelled = manifest.index[manifest["split"] == "pretrain"]
        quiet = {t for t in unlabelled if sounding(store.frames_of(frames, places.loc[t])) < least}
        manifest, short = manifest.drop(index=list(quiet)), short | quiet
        if manifest.empty:
            raise KeyMynaError(f"all of the {len(short)} recordings have {why}; lower min_windows.")
    manifest["recording"] = copies.recordings(
        manifest["sha256"], lambda track_id: store.frames_of(frames, places.loc[track_id]), progress=progress
    )
    frames.close()
    settled, left_out = copies.settle(manifest)
    for line in copies.describe(manifest, settled, left_out):
        print(line)
    corpora.finish(folder, recipe, _versions(plan), settled.drop(index=left_out)[list(COLUMNS)], places)
    unused = [(track_id, "corrupt", problem) for track_id, problem in problems.items()]
    unused += [(track_id, "excluded", copies.LEFT_OUT) for track_id in left_out]
    unused += [(track_id, "excluded", why) for track_id in short]
    return corpora.open_corpus(folder), pd.DataFrame(sorted(unused), columns=["track_id", "state", "problem"])


def sounding(frames: np.ndarray) -> int:
    """Frames of a stored spectrogram (frame, mel) that are not silent: their loudest band reaches `_HEARD`."""
    return int(np.count_nonzero(frames.max(axis=1) >= _HEARD))


def _plan(tracks: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """The manifest except what only decoding can tell, with file and content."""
    if absent := [name for name in _GIVEN if name not in tracks]:
        raise KeyMynaError(f"tracks: no column {', '.join(absent)}.")
    if tracks.empty or not tracks.index.is_unique:
        raise KeyMynaError(
            f"tracks: {len(tracks)} rows, {tracks.index.nunique()} of them with an id of their own; "
            "expected at least one, and no id twice."
        )
    plan = tracks[list(_GIVEN)].rename_axis("track_id").sort_index()
    plan = plan.astype({name: _KINDS.get(name, str) for name in _GIVEN})
    least = spectrogram.N_FFT // 2 / spectrogram.SAMPLE_RATE
    rules = {
        "n_samples": (plan["n_samples"] > 0, "1 or more"),
        "key": (plan["key"].between(-1, 23), "-1 to 23"),
        "split": (plan["split"].isin(corpora.SPLITS), f"one of {corpora.SPLITS}"),
    }
    for name, (valid, rule) in rules.items():
        if not valid.all():
            row = plan[~valid].iloc[0]
            raise KeyMynaError(f"tracks: {name} of {row.name} is {row[name]}; expected {rule}.")
    if seconds and not seconds > least:
        raise KeyMynaError(f"seconds={seconds}: expected 0 (all), or more than {least} s.")
    if seconds:
        plan["n_samples"] = plan["n_samples"].clip(upper=round(seconds * spectrogram.SAMPLE_RATE))
    plan["n_frames"] = [spectrogram.n_frames(n) for n in plan["n_samples"]]
    plan["duration"] = plan["n_samples"] / spectrogram.SAMPLE_RATE
    plan["key_name"] = [keys.KEY_NAMES[k] if k >= 0 else "" for k in plan["key"]]
    return plan


def _key(plan: pd.DataFrame, recipe: dict[str, float | str]) -> str:
    code = hashing.code_hash_of(__name__)
    return hashing.sha256_json([plan.drop(columns="file").to_csv(), recipe, code, _versions(plan)])[:16]


def _versions(plan: pd.DataFrame) -> dict[str, str]:
    """Of what makes the corpus; of `av`, with FFmpeg in it, where the recordings' names say that it decodes them."""
    versions = {
        "libsndfile": soundfile.__libsndfile_version__,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    if plan["file"].map(decode.named_for_ffmpeg).any():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # then none of them can be decoded
            versions["av"] = importlib.metadata.version("av")
    return versions


def _samples(file: str, *, seconds: float) -> np.ndarray:
    """(sample,) int16 of a recording, its peak at spectrogram.PEAK of full scale."""
    try:
        audio = decode.read_audio(file, seconds=seconds)
    except KeyMynaError as error:
        if isinstance(error.__cause__, OSError):
            raise KeyMynaError(f"{error} Bring it back and run again; the build resumes.") from error
        raise store.BadTrack(str(error).replace(file, Path(file).name)) from error
    if len(audio) <= spectrogram.N_FFT // 2:
        raise store.BadTrack(f"{Path(file).name} is too short: {len(audio)} samples at 16 kHz.")
    return np.round(audio * (spectrogram.PEAK * 32767 / max(np.abs(audio).max(), _SILENCE))).astype(np.int16)
