"""Corpora: audio and spectrograms in a content-addressed cache.

A corpus lies in CACHE/corpus/<key>. The key is a hash of its configuration, of the code that makes it and of library
versions, so that another version of any of these makes another corpus; nothing is ever removed. Besides the shards of
`store` the folder contains

    manifest.csv   one row per track
    places.csv     where each track lies, see `store.offsets`
    corpus.json    configuration, versions, sha256 of manifest and places, and of all this; written last

`rendered.build` makes the synthetic corpus and `recordings.build` corpora of recordings; both are opened alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keymyna_lib.base import files, hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus import splits, store

COLUMNS = (
    "piece_id",
    "source",
    "collection",
    "title",
    "composition",
    "split",
    "analysed",
    "key",
    "key_name",
    "key_written",
    "transposition",
    "tempo",
    "duration",
    "n_samples",
    "n_frames",
    "sha256",
    "spectrogram_sha256",
    "scope",
    "arrangement",
)
SPLITS = (*splits.SPLITS, "extra", "pretrain")  # "extra" is scored as well; "pretrain" has no labels
RENDERED = "rendered"  # the only task of a synthetic corpus
_MANIFEST, _PLACES, INDEX = "manifest.csv", "places.csv", "corpus.json"
_TEXTS = ("track_id", "piece_id", "source", "task", "title", "artist", "composition", "recording", "split", "label")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A finished corpus.

    Attributes
    ----------
    config : what it was built from; for a synthetic corpus the fields of `CorpusConfig`.
    path : its folder.
    hash : sha256 of the manifest, which contains those of every track's samples and spectrogram; a view has its own.
    manifest : one row per track, indexed by track_id; columns `COLUMNS`, task and, with songs, style and
        harmony; or those of recordings (see `recordings.build.build_recordings`). key is after transposition,
        key_written before it; duration in s;
        scope ("section" or "piece") says how far instruments and sound reach; arrangement is JSON (see
        `arrange.arrange`).
    frames : by shard, memory map of its spectrograms end to end, (frame, mel) float16.
    offsets : shard, first_frame, n_frames, first_sample, n_samples by track_id.
    samples : by shard, memory map of its audio end to end, (sample,) int16.
    task : name of the task of a view (see `of_task`), otherwise empty.
    scored : the recordings, as in the manifest, that any task scores, also in a view of another; empty for a synthetic
        corpus, whose tracks all differ.
    """

    config: Mapping[str, Any]
    path: Path
    hash: str
    manifest: pd.DataFrame
    frames: store.Shards
    offsets: pd.DataFrame
    samples: store.Shards
    task: str = ""
    scored: frozenset[str] = frozenset()

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the path travels to another process, which opens the corpus there."""
        return _opened, (self.path, self.task)

    def tracks(self, split: str | None = None, source: str | None = None) -> list[str]:
        """Track ids in the order of the manifest, optionally of one split (see `SPLITS`) or one source only."""
        keep = pd.Series(True, index=self.manifest.index)
        for column, value, known in (
            ("split", split, SPLITS),
            ("source", source, tuple(self.manifest["source"].unique())),
        ):
            if value is not None:
                if value not in known:
                    raise KeyMynaError(f"{column} {value!r}: expected one of {known}.")
                keep &= self.manifest[column] == value
        return self.manifest.index[keep].tolist()

    def tasks(self) -> list[str]:
        """Names of the tasks that have labelled tracks, sorted."""
        labelled = self.manifest[self.manifest["key"] >= 0]
        return sorted(set(labelled["task"]) - {""})

    def of_task(self, name: str) -> Corpus:
        """View of a task: its tracks and those of no task (extra, pretrain); this corpus itself if that is all.

        Raises
        ------
        KeyMynaError
            When there is no such task.
        """
        if name not in self.tasks():
            raise KeyMynaError(f"task {name!r}: {self.path} has {', '.join(self.tasks()) or 'none'}.")
        keep = self.manifest["task"].isin([name, ""])
        if keep.all():
            return self
        return replace(
            self,
            hash=hashing.sha256_json([self.hash, name]),
            manifest=self.manifest[keep],
            offsets=self.offsets[keep],
            task=name,
        )

    def pretraining_tracks(self, *, labelled: bool = False) -> list[str]:
        """Tracks to pre-train on: those of split "pretrain", or the training tracks if there are none.

        Copies of tracks that are scored are passed over, whichever task scores them.

        Parameters
        ----------
        labelled : only training tracks.
        """
        free = self.manifest
        if self.scored:
            free = free[~free["recording"].isin(self.scored)]
        unlabelled = [] if labelled else free.index[free["split"] == "pretrain"].tolist()
        return unlabelled or free.index[free["split"] == "train"].tolist()

    def audio(self, track_id: str) -> np.ndarray:
        """(sample,) float32 in [-1, 1], 16 kHz."""
        place = self._place(track_id)
        return store.to_float(self.samples[place.shard][place.first_sample : place.first_sample + place.n_samples])

    def spectrogram(self, track_id: str) -> np.ndarray:
        """(frame, mel) float16 log(1 + power), a view of the memory map."""
        return store.frames_of(self.frames, self._place(track_id))

    def close(self) -> None:
        """Drop the memory maps, whose pages count as this process's memory; a later read maps its file again."""
        self.frames.close()
        self.samples.close()

    def _place(self, track_id: str) -> pd.Series:
        try:
            return self.offsets.loc[track_id]
        except KeyError:
            raise KeyMynaError(f"no track {track_id!r} in {self.path}.") from None


def _opened(path: Path, task: str) -> Corpus:
    corpus = open_corpus(path)
    return corpus.of_task(task) if task else corpus


def open_corpus(path: Path | str) -> Corpus:
    """Open a finished corpus. Checks sizes and the manifest's sha256; `build_corpus` verifies every track.

    Raises
    ------
    KeyMynaError
        When the corpus is unfinished, truncated or changed.
    """
    path = Path(path)
    mend = "./run_all.sh mends it, as does the notebook that builds it: only what is damaged is made again."
    if not (path / INDEX).exists():
        raise KeyMynaError(f"{path} holds no finished corpus. {mend}")
    index = files.read_json(path / INDEX, mend)
    if index.pop("sha256", None) != hashing.sha256_json(index):
        raise KeyMynaError(f"{path / INDEX} was changed. {mend}")
    for name, sha256 in ((_MANIFEST, index["hash"]), (_PLACES, index["places"])):
        if not (path / name).is_file() or hashing.sha256_file(path / name) != sha256:
            raise KeyMynaError(f"{path / name} is missing or was changed. {mend}")
    manifest, places = (
        pd.read_csv(path / name, index_col="track_id", keep_default_na=False, dtype=dict.fromkeys(_TEXTS, str))
        for name in (_MANIFEST, _PLACES)
    )
    for shard, sizes in store.sizes(places):
        for name, size in sizes.items():
            file = store.shard_folder(path, shard) / name
            if not file.exists() or file.stat().st_size != size:
                raise KeyMynaError(f"{file} is missing or truncated. {mend}")
    if "task" not in manifest:
        manifest["task"] = RENDERED
    scored = manifest["split"].isin(["valid", "test", "extra"])
    return Corpus(
        index["config"],
        path,
        index["hash"],
        manifest,
        store.Shards(path, store.FRAMES),
        places.loc[manifest.index],
        store.Shards(path, store.AUDIO),
        scored=frozenset(manifest.loc[scored, "recording"] if "recording" in manifest else ()),
    )


def finish(
    folder: Path, config: Mapping[str, Any], versions: Mapping[str, str], manifest: pd.DataFrame, places: pd.DataFrame
) -> None:
    """Write manifest.csv and places.csv, then corpus.json, which completes the corpus."""
    hashes = {}
    for name, table in ((_MANIFEST, manifest), (_PLACES, places)):
        text = table.to_csv()
        if (folder / name).is_dir():  # which no file can be moved over
            files.discard(folder / name)
        files.write_text(folder / name, text)
        hashes[name] = hashing.sha256_bytes(text.encode())
    index = {"config": dict(config), "versions": dict(versions), "hash": hashes[_MANIFEST], "places": hashes[_PLACES]}
    if (folder / INDEX).is_dir():
        files.discard(folder / INDEX)
    files.write_json(folder / INDEX, {**index, "sha256": hashing.sha256_json(index)})
