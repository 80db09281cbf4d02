"""Corpora: audio and spectrograms in a cache that is addressed by content; and how the rendered one is made.

A corpus lives in CACHE/corpus/<key>, the key being a hash of its configuration, of the code that makes it and
of the libraries' versions; another version of either is another corpus, and nothing is ever removed. Beside
the shards of `store` it holds

    manifest.csv   one row a track
    places.csv     where each track lies, see `store.offsets`
    corpus.json    configuration, versions, sha256 of manifest and places; written last

`datasets.recordings` makes corpora of recordings, which are opened like the rendered one.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from keymyna_lib import files, keys, paths, spectrogram
from keymyna_lib.data import arrange, compositions, render, store
from keymyna_lib.data.scores import Score, ScoreSet, load_scores
from keymyna_lib.errors import KeyMynaError

if TYPE_CHECKING:
    from distributed import Client

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
    "arrangement",
)
SPLITS = (*compositions.SPLITS, "extra", "pretrain")  # scored besides; without labels
RENDERED = "rendered"  # the one task of a rendered corpus
_MANIFEST, _PLACES, INDEX = "manifest.csv", "places.csv", "corpus.json"
_TEXTS = ("track_id", "piece_id", "source", "task", "title", "artist", "composition", "split", "label")
_LIBRARIES = ("music21", "symusic", "tinysoundfont", "pretty_midi", "numpy", "scipy", "torch", "librosa")


@dataclass(frozen=True)
class CorpusConfig:
    """What is in a corpus and how it is rendered; a KeyMynaError where a value is out of range.

    n_chorales, n_tunes : pieces of each source; 0 for all that pass the audit.
    seconds : longest excerpt from a piece's beginning, s.
    scope : "section" draws instruments, drums, tuning, level, room, noise anew every 5 to 8 s, "piece" once.
    drum_probability : share of sections with drums.
    detune_cents : tuning offsets are uniform in plus or minus this, cents.
    snr_db : signal-to-noise ratios are uniform between these two, dB.
    seed : of every draw.
    """

    n_chorales: int
    n_tunes: int
    seconds: float
    scope: str
    drum_probability: float
    detune_cents: float
    snr_db: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        rules = {
            "n_chorales": (self.n_chorales >= 0, "0 (all) or more"),
            "n_tunes": (self.n_tunes >= 0, "0 (all) or more"),
            "seconds": (self.seconds >= 1, "at least 1 s"),
            "scope": (self.scope in arrange.SCOPES, f"one of {arrange.SCOPES}"),
            "drum_probability": (0 <= self.drum_probability <= 1, "between 0 and 1"),
            "detune_cents": (self.detune_cents >= 0, "0 or more"),
            "snr_db": (len(self.snr_db) == 2 and self.snr_db[0] <= self.snr_db[1], "(low, high)"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise KeyMynaError(f"{name}={getattr(self, name)!r}: expected {rule}.")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A finished corpus.

    config : what it was built from; of a rendered one the fields of `CorpusConfig`.
    path : its folder.
    hash : sha256 of the manifest, which holds that of every track's samples and spectrogram; a view's is its own.
    manifest : one row a track, indexed by track_id; columns `COLUMNS` and task, or those of recordings (see
        `recordings.build_recordings`). key is after transposition, key_written before; duration in s; arrangement is
        JSON (see `arrange.arrange`).
    frames : by shard, (frame, mel) float16 memory map of its spectrograms end to end.
    offsets : shard, first_frame, n_frames, first_sample, n_samples by track_id.
    samples : by shard, (sample,) int16 memory map of its audio end to end.
    """

    config: Mapping[str, Any]
    path: Path
    hash: str
    manifest: pd.DataFrame
    frames: store.Shards
    offsets: pd.DataFrame
    samples: store.Shards

    def tracks(self, split: str | None = None, source: str | None = None) -> list[str]:
        """Track ids in the manifest's order, of one split (see `SPLITS`), one source (of the manifest's), or all."""
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
        """The view of a task: its tracks and those of no task (extra, pretrain); this corpus where these are all.

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
            self, hash=files.sha256_json([self.hash, name]), manifest=self.manifest[keep], offsets=self.offsets[keep]
        )

    def pretraining_tracks(self) -> list[str]:
        """What pre-training sees: the tracks of split "pretrain", or, where there are none, the training tracks.

        Left out of the former is what has the very samples of a track that is scored: an unlabelled folder may well hold
        the files of a test set. Other copies of the same music (another coding, another excerpt) cannot be told like this.
        """
        scored = self.manifest.loc[self.manifest["split"].isin(["valid", "test", "extra"]), "sha256"]
        copies = set(self.manifest.index[self.manifest["sha256"].isin(scored)])
        return [track for track in self.tracks("pretrain") if track not in copies] or self.tracks("train")

    def audio(self, track_id: str) -> np.ndarray:
        """(sample,) float32 in [-1, 1], 16 kHz."""
        place = self._place(track_id)
        return store.to_float(self.samples[place.shard][place.first_sample : place.first_sample + place.n_samples])

    def spectrogram(self, track_id: str) -> np.ndarray:
        """(frame, mel) float16 log(1 + power), a view into the memory map."""
        place = self._place(track_id)
        return self.frames[place.shard][place.first_frame : place.first_frame + place.n_frames]

    def close(self) -> None:
        """Let go of the memory maps, whose pages count as this process's memory; what is read later is mapped again."""
        self.frames.close()
        self.samples.close()

    def _place(self, track_id: str) -> pd.Series:
        try:
            return self.offsets.loc[track_id]
        except KeyError:
            raise KeyMynaError(f"no track {track_id!r} in {self.path}.") from None


def build_corpus(
    config: CorpusConfig,
    *,
    progress: bool = True,
    cache: Path | None = None,
    workers: int = 0,
    client: Client | None = None,
) -> Corpus:
    """Build a corpus, or what of it is missing or damaged; a finished one is verified and opened in seconds.

    Parameters
    ----------
    config : what to build.
    progress : show a bar.
    cache : folder to build in; `paths.CACHE` by default.
    workers : processes; 0 is one for each core. The result does not depend on it.
    client : a cluster to render on instead, see `cluster.connect`; nor does the result depend on this.

    Raises
    ------
    KeyMynaError
        When the disk is too full, or a rendering process is killed.
    """
    folder = Path(cache or paths.CACHE) / "corpus" / corpus_key(config)
    scores = load_scores()
    plan = plan_corpus(config, scores)

    def arguments(track_id: str) -> tuple[np.ndarray, str]:
        return playable_score(scores, plan.piece_id[track_id]).notes, plan.arrangement[track_id]

    places = store.offsets(plan)
    hashes, _ = store.fill(
        folder,
        places,
        _render,
        arguments,
        folder / INDEX,
        doing="rendering",
        progress=progress,
        workers=workers,
        client=client,
    )
    plan["sha256"], plan["spectrogram_sha256"] = zip(*(hashes[t] for t in plan.index))
    finish(folder, asdict(config), _versions(), plan[list(COLUMNS)], places)
    return open_corpus(folder)


def open_corpus(path: Path | str) -> Corpus:
    """Open a finished corpus. Checks sizes and the manifest's sha256; `build_corpus` verifies every track.

    Raises
    ------
    KeyMynaError
        When the corpus is unfinished, truncated or changed.
    """
    path = Path(path)
    mend = "Run the notebook that builds it again; what is damaged is made anew."
    if not (path / INDEX).exists():
        raise KeyMynaError(f"{path} holds no finished corpus. {mend}")
    index = files.read_json(path / INDEX)
    for name, sha256 in ((_MANIFEST, index["hash"]), (_PLACES, index.get("places"))):
        if not (path / name).exists() or files.sha256_file(path / name) != sha256:
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
    return Corpus(
        index["config"],
        path,
        index["hash"],
        manifest,
        store.Shards(path, store.FRAMES),
        places.loc[manifest.index],
        store.Shards(path, store.AUDIO),
    )


def corpus_key(config: CorpusConfig) -> str:
    """Folder name of a corpus: hash of configuration, code and library versions."""
    library = Path(__file__).parent.parent
    code = files.source_hash(library / "data", library / "spectrogram.py", library / "keys.py")
    return files.sha256_json([asdict(config), code, _versions()])[:16]


def playable_score(scores: ScoreSet, piece_id: str) -> Score:
    """A piece as it is arranged and rendered: without long rests."""
    score = scores.score(piece_id)
    return replace(score, notes=arrange.shorten_rests(score.notes))


def plan_corpus(config: CorpusConfig, scores: ScoreSet) -> pd.DataFrame:
    """The manifest but for what only rendering tells (the sha256 of the results)."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    table["split"] = compositions.assign_splits(table, seed=config.seed)
    chosen = compositions.select(table, n_chorales=config.n_chorales, n_tunes=config.n_tunes, seed=config.seed)
    table = table.loc[chosen].copy()
    table["transposition"] = compositions.transpositions(table, seed=config.seed)
    table["key_written"] = table["key"]
    table["key"] = keys.transpose(table["key_written"], table["transposition"])
    table["key_name"] = [keys.KEY_NAMES[k] for k in table["key"]]
    drawn = [
        arrange.arrange(
            playable_score(scores, p),
            table.transposition[p],
            config,
            np.random.default_rng([config.seed, *files.stable_words(p)]),
        )
        for p in chosen
    ]
    table["tempo"] = [a["tempo"] for a in drawn]
    table["duration"] = [a["duration"] for a in drawn]
    table["n_samples"] = [render.n_samples(a) for a in drawn]
    table["n_frames"] = [spectrogram.n_frames(n) for n in table["n_samples"]]
    table["arrangement"] = [json.dumps(a, separators=(",", ":")) for a in drawn]
    table["piece_id"] = table.index
    return table.rename_axis("track_id")


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _render(notes: np.ndarray, arrangement: str) -> np.ndarray:
    return render.render(notes, json.loads(arrangement))


def finish(
    folder: Path, config: Mapping[str, Any], versions: Mapping[str, str], manifest: pd.DataFrame, places: pd.DataFrame
) -> None:
    """Write manifest.csv and places.csv, then corpus.json, which makes the corpus whole."""
    hashes = {}
    for name, table in ((_MANIFEST, manifest), (_PLACES, places)):
        text = table.to_csv()
        files.write_text(folder / name, text)
        hashes[name] = files.sha256_bytes(text.encode())
    files.write_json(
        folder / INDEX,
        {"config": dict(config), "versions": dict(versions), "hash": hashes[_MANIFEST], "places": hashes[_PLACES]},
    )
