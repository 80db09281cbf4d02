"""The synthetic corpora: pieces are chosen, transposed, arranged and rendered into the store.

Pieces are scores, songs, or both side by side, told apart by the column source: "chorale", "tune", "song".
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib import keys, spectrogram
from keymyna_lib.base import hashing, paths, seeds
from keymyna_lib.base.checks import RANGES, at_least, check, one_of
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus import splits, store
from keymyna_lib.corpus.corpus import COLUMNS, INDEX, Corpus, finish, open_corpus
from keymyna_lib.corpus.rendered import arrange, compositions
from keymyna_lib.corpus.rendered.scores import Score, ScoreSet, load_scores
from keymyna_lib.corpus.songs import arrange as song_arrange
from keymyna_lib.corpus.songs.compose import compose
from keymyna_lib.corpus.sound import render, soundfonts
from keymyna_lib.front_ends import FRONT_ENDS

SONG = "song"  # the source of songs
SONG_COLUMNS = ("style", "harmony")  # of a manifest with songs, empty for other pieces; see `songs.compose.Song`
_LIBRARIES = ("music21", "symusic", "tinysoundfont", "pretty_midi", "numpy", "scipy", "torch", "librosa")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(arrange.ArrangementConfig):
    """Contents of a corpus, and how they are arranged.

    n_chorales, n_tunes : pieces of each source; 0 for all that pass the audit.
    n_songs : songs beside them, as of `SongConfig`.
    seed : of every draw.
    soundfont : what plays it, see `soundfonts.find`; another one plays the same notes. It is fetched where it can be.
    front_end : of the spectrograms, one of `front_ends.FRONT_ENDS`.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    n_chorales: int
    n_tunes: int
    n_songs: int = 0
    seed: int
    soundfont: str = soundfonts.DEFAULT
    front_end: str = "mel"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, {name: RANGES[name] for name in ("n_chorales", "n_tunes", "n_songs", "seed")})
        check(self, {"front_end": one_of(FRONT_ENDS)})


@dataclass(frozen=True, kw_only=True)
class SongConfig:
    """Contents of a corpus of songs alone, and how they are arranged.

    n_songs : songs 0, 1, ... of the seed (see `songs.compose.compose`): a larger corpus holds those of a smaller one.
    seconds : longest excerpt, from anywhere in a song [s].
    scope, detune_cents, snr_db, soundfont : as of `CorpusConfig`. Whether and how drums play is the style's.
    seed : of every draw.
    front_end : as of `CorpusConfig`.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    n_songs: int
    seconds: float
    scope: str
    detune_cents: float
    snr_db: tuple[float, float]
    seed: int
    soundfont: str = soundfonts.DEFAULT
    front_end: str = "mel"

    def __post_init__(self) -> None:
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        rules = {"n_songs": at_least(1), "seconds": at_least(1), "scope": one_of((*arrange.SCOPES, arrange.MIXED))}
        check(self, rules | {name: RANGES[name] for name in ("detune_cents", "snr_db", "seed")})
        check(self, {"front_end": one_of(FRONT_ENDS)})


def build_corpus(
    config: CorpusConfig, *, progress: bool = True, cache: Path | None = None, client: Executor = HERE
) -> Corpus:
    """Build a corpus, or the parts of it that are missing or damaged; a finished one is verified and opened in seconds.

    Parameters
    ----------
    config : what to build.
    progress : show a bar.
    cache : folder to build in; `paths.CACHE` by default.
    client : where to render, see `cluster.connect`. The result does not depend on it.

    Raises
    ------
    KeyMynaError
        When the disk is too full, or a rendering process is killed; or there is no such SoundFont.
    """
    scores = load_scores()
    plan = plan_corpus(config, scores)
    if config.n_songs:
        songs = {name: getattr(config, name) for name in SongConfig.__dataclass_fields__}
        plan = pd.concat([plan, plan_songs(SongConfig(**songs))])
        plan[list(SONG_COLUMNS)] = plan[list(SONG_COLUMNS)].fillna("")
    return _build(config, plan, scores, progress=progress, cache=cache, client=client)


def build_songs(
    config: SongConfig, *, progress: bool = True, cache: Path | None = None, client: Executor = HERE
) -> Corpus:
    """Build a corpus of songs alone; parameters and errors as of `build_corpus`."""
    return _build(config, plan_songs(config), None, progress=progress, cache=cache, client=client)


def _build(
    config: CorpusConfig | SongConfig,
    plan: pd.DataFrame,
    scores: ScoreSet | None,
    *,
    progress: bool,
    cache: Path | None,
    client: Executor,
) -> Corpus:
    folder = Path(cache or paths.CACHE) / "corpus" / corpus_key(config)
    if not (folder / INDEX).exists():
        soundfonts.fetch(config.soundfont, show=progress)

    def arguments(track_id: str) -> tuple[np.ndarray, str]:
        row = plan.loc[track_id]
        return played_notes(row.piece_id, row.source, row.arrangement, scores), row.arrangement

    places = store.offsets(plan)
    hashes, _ = store.fill(
        folder,
        places,
        _render,
        arguments,
        folder / INDEX,
        doing="rendering",
        progress=progress,
        client=client,
        front_end=config.front_end,
    )
    plan["sha256"], plan["spectrogram_sha256"] = zip(*(hashes[t] for t in plan.index))
    columns = [*COLUMNS, *(name for name in SONG_COLUMNS if name in plan)]
    finish(folder, asdict(config), _versions(), plan[columns], places)
    return open_corpus(folder)


def corpus_key(config: CorpusConfig | SongConfig) -> str:
    """Folder name of a corpus: hash of configuration, SoundFont, code and library versions."""
    code = hashing.code_hash_of(__name__)
    return hashing.sha256_json([asdict(config), soundfonts.sha256_of(config.soundfont), code, _versions()])[:16]


def playable_score(scores: ScoreSet, piece_id: str) -> Score:
    """A piece as it is arranged and rendered: without long rests."""
    score = scores.score(piece_id)
    return replace(score, notes=arrange.shorten_rests(score.notes))


def played_notes(piece_id: str, source: str, arrangement: str, scores: ScoreSet | None) -> np.ndarray:
    """Notes of a piece as it is rendered: (note, 4) of a score, (note, 5) of the excerpt of a song.

    Parameters
    ----------
    arrangement : JSON, as in the manifest.
    scores : not read for songs.
    """
    if source == SONG:
        made = json.loads(arrangement)
        return compose(*made["song"], tonic=0).notes(*song_arrange.excerpt(made))
    return playable_score(scores, piece_id).notes


def plan_songs(config: SongConfig) -> pd.DataFrame:
    """The rows of songs in a manifest, except what only rendering can tell; every song is a composition of its own."""
    songs = {f"song-{i:06d}": compose(config.seed, i, tonic=0) for i in range(config.n_songs)}
    names = list(songs)
    table = pd.DataFrame(
        {
            "source": SONG,
            "collection": [song.genre for song in songs.values()],
            "title": [f"{song.style}, {song.kind}" for song in songs.values()],
            "composition": names,
            "analysed": False,
            "key": [song.key for song in songs.values()],
            "style": [song.style for song in songs.values()],
            "harmony": [song.kind for song in songs.values()],
        },
        index=pd.Index(names, name="piece_id"),
    )
    table["split"] = splits.assign_splits(table, seed=config.seed)

    def draw(name: str, transposition: int, scope: str) -> dict:
        return song_arrange.arrange(
            songs[name],
            transposition,
            seconds=config.seconds,
            scope=scope,
            detune_cents=config.detune_cents,
            snr_db=config.snr_db,
            rng=seeds.numpy_stream(config.seed, name),
        )

    return _arranged(table, draw, config)


def plan_corpus(config: CorpusConfig, scores: ScoreSet) -> pd.DataFrame:
    """The manifest except what only rendering can tell (the sha256 of the results)."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    table["split"] = splits.assign_splits(table, seed=config.seed)
    chosen = compositions.select(table, n_chorales=config.n_chorales, n_tunes=config.n_tunes, seed=config.seed)
    table = table.loc[chosen].copy()

    def draw(piece_id: str, transposition: int, scope: str) -> dict:
        rng = seeds.numpy_stream(config.seed, piece_id)
        return arrange.arrange(playable_score(scores, piece_id), transposition, replace(config, scope=scope), rng)

    return _arranged(table, draw, config)


def _arranged(
    table: pd.DataFrame, draw: Callable[[str, int, str], dict], config: CorpusConfig | SongConfig
) -> pd.DataFrame:
    """Add transpositions, scopes and what follows from them and from the arrangements that `draw` draws."""
    table["transposition"] = compositions.transpositions(table, seed=config.seed)
    table["key_written"] = table["key"]
    table["key"] = keys.transpose(table["key_written"], table["transposition"])
    table["key_name"] = [keys.KEY_NAMES[k] for k in table["key"]]
    table["scope"] = [arrange.scope_of(config.scope, piece_id, config.seed) for piece_id in table.index]
    drawn = [draw(*row) for row in table[["transposition", "scope"]].itertuples()]
    if config.soundfont != soundfonts.DEFAULT:
        drawn = [a | {"soundfont": config.soundfont} for a in drawn]
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
