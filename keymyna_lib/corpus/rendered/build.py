"""The synthetic corpus: pieces are chosen, transposed, arranged and rendered into the store."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib import keys, spectrogram
from keymyna_lib.base import hashing, paths, seeds
from keymyna_lib.base.checks import RANGES, check
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus import splits, store
from keymyna_lib.corpus.corpus import COLUMNS, INDEX, Corpus, finish, open_corpus
from keymyna_lib.corpus.rendered import arrange, compositions
from keymyna_lib.corpus.rendered.scores import Score, ScoreSet, load_scores
from keymyna_lib.corpus.sound import render

_LIBRARIES = ("music21", "symusic", "tinysoundfont", "pretty_midi", "numpy", "scipy", "torch", "librosa")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(arrange.ArrangementConfig):
    """Contents of a corpus, and how they are arranged.

    n_chorales, n_tunes : pieces of each source; 0 for all that pass the audit.
    seed : of every draw.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    n_chorales: int
    n_tunes: int
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, {name: RANGES[name] for name in ("n_chorales", "n_tunes", "seed")})


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
        When the disk is too full, or a rendering process is killed.
    """
    folder = Path(cache or paths.CACHE) / "corpus" / corpus_key(config)
    scores = load_scores()
    plan = plan_corpus(config, scores)

    def arguments(track_id: str) -> tuple[np.ndarray, str]:
        return playable_score(scores, plan.piece_id[track_id]).notes, plan.arrangement[track_id]

    places = store.offsets(plan)
    hashes, _ = store.fill(
        folder, places, _render, arguments, folder / INDEX, doing="rendering", progress=progress, client=client
    )
    plan["sha256"], plan["spectrogram_sha256"] = zip(*(hashes[t] for t in plan.index))
    finish(folder, asdict(config), _versions(), plan[list(COLUMNS)], places)
    return open_corpus(folder)


def corpus_key(config: CorpusConfig) -> str:
    """Folder name of a corpus: hash of configuration, code and library versions."""
    code = hashing.code_hash_of(__name__)
    return hashing.sha256_json([asdict(config), code, _versions()])[:16]


def playable_score(scores: ScoreSet, piece_id: str) -> Score:
    """A piece as it is arranged and rendered: without long rests."""
    score = scores.score(piece_id)
    return replace(score, notes=arrange.shorten_rests(score.notes))


def plan_corpus(config: CorpusConfig, scores: ScoreSet) -> pd.DataFrame:
    """The manifest except what only rendering can tell (the sha256 of the results)."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    table["split"] = splits.assign_splits(table, seed=config.seed)
    chosen = compositions.select(table, n_chorales=config.n_chorales, n_tunes=config.n_tunes, seed=config.seed)
    table = table.loc[chosen].copy()
    table["transposition"] = compositions.transpositions(table, seed=config.seed)
    table["key_written"] = table["key"]
    table["key"] = keys.transpose(table["key_written"], table["transposition"])
    table["key_name"] = [keys.KEY_NAMES[k] for k in table["key"]]
    table["scope"] = [arrange.scope_of(config, p, config.seed) for p in chosen]
    drawn = [
        arrange.arrange(
            playable_score(scores, p),
            table.transposition[p],
            replace(config, scope=table.scope[p]),
            seeds.numpy_stream(config.seed, p),
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
