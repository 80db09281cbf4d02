"""The recipe of the default key model: a corpus, an encoder, heads on its embeddings, and what they score.

Nothing in it has seen a labelled recording. The corpus is synthetic; recordings without labels may be listened to in
pre-training. Every stage is kept in the cache under what it depends on, so that a recipe that is started again, or one
that shares stages with another, goes on where it stopped. On the command line, `keymyna make-model`.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.checks import RANGES, at_least, check
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard
from keymyna_lib.base.hashing import code_hash_of, sha256_file, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.seeds import numpy_stream, torch_stream
from keymyna_lib.calibration import entropy, fit_temperature, most_doubt, reliability
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus, join
from keymyna_lib.corpus.rendered import no_key
from keymyna_lib.corpus.rendered.build import CorpusConfig, SongConfig, build_corpus, build_songs
from keymyna_lib.corpus.rendered.local_keys import Passage, chorale_passages, song_passage
from keymyna_lib.corpus.store import track_spectrogram
from keymyna_lib.evaluate import bootstrap_interval, group_means, mirex_scores, track_predictions
from keymyna_lib.experiments import head_study, label_free
from keymyna_lib.experiments.foreign import stored_recordings
from keymyna_lib.experiments.head_study import HeadStudy, configuration, shift_range
from keymyna_lib.experiments.key_tracking import Heard, choose_persistence, f_measure, hear, judge, judge_in_folds
from keymyna_lib.features import Features, add_shifted, content_hash, extract, track_embeddings
from keymyna_lib.front_ends import same_front_end
from keymyna_lib.heads import HeadSpec, TrainedHead, select, wide_mlp_grid
from keymyna_lib.key_model import MOST, KeyModel
from keymyna_lib.model import Encoder, EncoderConfig, build_encoder
from keymyna_lib.pretrain import INITIAL_WEIGHTS, PretrainConfig, pretrain_once
from keymyna_lib.spectrogram import WINDOW, window_frames

EMBEDDING = "embedding"
LOST = 0.05  # share of tonal validation tracks that may get no answer for the sake of what has no key
AGREEING = 100  # recordings at most on which a model is compared with itself
_AGREEMENT = {"halves": "halves agree", "transposition": "moves with a transposition"}
# Added to the corpus's seed, for songs and sounds beside it.
_APART = {"valid": 1001, "test": 1002}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a key model is made.

    Attributes
    ----------
    corpus : the labelled synthetic corpus; its front end is the encoder's.
    pretraining : of the encoder; None for an untrained one of `encoder`.
    encoder : of an untrained encoder.
    max_shift : semitones up and down of the pitch-shifted views that heads are trained on.
    shifted_windows : windows of each shifted view.
    widths, dropouts : of the heads' hidden layer, a grid of which the best on validation is kept.
    lr, weight_decay, batch_size : of the heads.
    max_steps, eval_every, patience : of the heads, see `heads.train_heads`.
    seeds : a head is trained for each, and the model's answer is the mean over them.
    n_passages : songs for the key over time, every other of which modulates; so many for choices and for the test.
    n_no_key : recordings of each kind without a key; so many for choices and for the test.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    corpus: CorpusConfig
    pretraining: PretrainConfig | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    max_shift: int = 6
    shifted_windows: int = 2
    widths: tuple[int, ...] = (2048,)
    dropouts: tuple[float, ...] = (0.75, 0.9)
    lr: float = 3e-4
    weight_decay: float = 1e-4
    batch_size: int = 64
    max_steps: int = 6000
    eval_every: int = 300
    patience: int = 6
    seeds: tuple[int, ...] = (0, 1, 2)
    n_passages: int = 40
    n_no_key: int = 30

    def __post_init__(self) -> None:
        names = ("max_shift", "shifted_windows", "widths", "dropouts", "seeds", "max_steps", "eval_every", "patience")
        check(self, {name: RANGES[name] for name in names}, of="recipe")
        check(self, {"batch_size": at_least(1), "lr": RANGES["head_lr"], "weight_decay": at_least(0)}, of="recipe")
        check(self, {"n_passages": at_least(2), "n_no_key": at_least(1)}, of="recipe")
        if self.listener.front_end != self.corpus.front_end:
            raise KeyMynaError(
                f"recipe: the corpus's front_end is {self.corpus.front_end}, the encoder's "
                f"{self.listener.front_end}; make them the same."
            )

    @property
    def listener(self) -> EncoderConfig:
        """The encoder's architecture and input."""
        return self.pretraining.encoder if self.pretraining else self.encoder

    @property
    def heads(self) -> list[HeadSpec]:
        """The grid."""
        return wide_mlp_grid(
            widths=self.widths,
            dropouts=self.dropouts,
            depths=(1,),
            lr=self.lr,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )


def default_recipe(front_end: str = "mel") -> Recipe:
    """That of the model in this repository: about an hour on two cores.

    The paper's masked contrastive objective with timbre augmentation. On synthetic validation it is level with
    `objectives.Transposed` (one seed or two of each, 600 steps), and a step costs a tenth.
    """
    encoder = EncoderConfig("vit-xxs", "vertical", "log1p", front_end)
    return Recipe(
        corpus=CorpusConfig(
            seconds=30,
            scope="mixed",
            drum_probability=0.5,
            detune_cents=30,
            snr_db=(5, 40),
            n_chorales=0,
            n_tunes=1000,
            n_songs=3000,
            seed=0,
            front_end=front_end,
        ),
        pretraining=PretrainConfig(
            encoder=encoder, augmentation="timbre", loss="infonce", steps=1000, batch_size=256, warmup_steps=100
        ),
    )


def toy_recipe(front_end: str = "mel") -> Recipe:
    """The same at a size that shows in a minute whether all of it runs."""
    encoder = EncoderConfig("vit-toy", "vertical", "log1p", front_end)
    whole = default_recipe(front_end)
    return replace(
        whole,
        corpus=replace(whole.corpus, seconds=14, n_chorales=8, n_tunes=24, n_songs=24),
        pretraining=replace(whole.pretraining, encoder=encoder, steps=4, warmup_steps=1, batch_size=8),
        max_shift=1,
        shifted_windows=1,
        widths=(64,),
        max_steps=100,
        eval_every=50,
        n_passages=4,
        n_no_key=3,
    )


RECIPES = {"default": default_recipe, "toy": toy_recipe}


@dataclass(frozen=True)
class Made:
    """A key model, its recipe, corpus and features, and the curve of its pre-training, if any."""

    model: KeyModel
    recipe: Recipe
    corpus: Corpus
    features: Features
    history: pd.DataFrame | None
    template_persistence: float  # of the template that the key over time is compared with


def make(
    recipe: Recipe,
    *,
    recordings: Corpus | None = None,
    device: str = "auto",
    name: str = "",
    client: Executor = HERE,
    show: bool = True,
) -> Made:
    """Follow a recipe, taking what is there from the cache.

    Parameters
    ----------
    recordings : more to listen to in pre-training: the tracks that `Corpus.pretraining_tracks` gives.
    device : of pre-training, embedding and heads.
    name : of the model.
    client : where to render, see `cluster.connect`.
    """
    corpus = build_corpus(recipe.corpus, progress=show, client=client)
    encoder, history = listener(recipe, corpus, recordings, device)
    frames = window_frames(encoder.crop_frames or WINDOW)
    encoder = encoder.to(pick_device(device))
    base = {EMBEDDING: extract(corpus, EMBEDDING, encoder, frames=frames, show=show)}
    shifts = shift_range(recipe.max_shift, 1)
    wanted = dict.fromkeys(corpus.tracks(split="train"), shifts)
    features = add_shifted(
        corpus, {EMBEDDING: encoder}, base, wanted, windows=recipe.shifted_windows, frames=frames, show=show
    )[EMBEDDING]
    heads = trained_heads(recipe, features, corpus, shifts, device, show=show)
    model = KeyModel(encoder.cpu(), heads, name=name)
    tonal, labels = _answers(model, features, corpus, corpus.tracks(split="valid"))
    model.temperature = fit_temperature(tonal.probabilities, labels)
    without = np.concatenate([found.doubt for found in without_key(model, recipe, "valid", show=show).values()])
    model.max_entropy = min(most_doubt(tonal.doubt, without, lost=LOST), MOST)
    heard = hear_passages(model, song_passages(recipe, "valid"), show=show)
    model.persistence = choose_persistence(heard)
    return Made(model, recipe, corpus, features, history, choose_persistence(heard, template=True))


def song_passages(recipe: Recipe, split: str) -> list[Passage]:
    """Excerpts of synthetic songs of which every other one modulates; those of "valid" and "test" have no song in
    common, with each other or with the recipe's corpus."""
    sound, seed = _sound(recipe), recipe.corpus.seed + _APART[split]
    return [
        song_passage(seed, i, modulates=i % 2 == 0, seconds=2 * recipe.corpus.seconds, **sound)
        for i in range(recipe.n_passages)
    ]


def chorales(recipe: Recipe, *, without: Container[str] = (), count: int | None = None) -> list[Passage]:
    """Chorales with analyses, see `chorale_passages`, of the sound of a recipe's corpus."""
    return list(chorale_passages(recipe.corpus.seed, **_sound(recipe), without=without, count=count))


def _sound(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe.corpus, name) for name in ("detune_cents", "snr_db")}


def hear_passages(model: KeyModel, passages: Sequence[Passage], *, show: bool = True) -> list[Heard]:
    """Passages as the model and a template hear them."""
    return [hear(model, one) for one in bar(passages, desc="keys over time", unit="passage", show=show)]


class Answers(NamedTuple):
    """What a model says of some tracks.

    probabilities : (track, key) mean over windows, not yet calibrated.
    doubt : (track,) mean over windows of their entropy [nats], as of `KeyModel.max_entropy`.
    """

    probabilities: np.ndarray
    doubt: np.ndarray


def answers_of(found: np.ndarray, track: np.ndarray) -> Answers:
    """From probabilities of windows (window, key), not yet calibrated, and their tracks (window,), 0..n_tracks-1."""
    return Answers(track_predictions(found, track), group_means(entropy(found)[:, None], track)[:, 0])


def without_key(model: KeyModel, recipe: Recipe, split: str, *, show: bool = True) -> dict[str, Answers]:
    """Answers to sound without a key, for each of `no_key.KINDS`."""
    made = no_key.NoKeyConfig(
        count=recipe.n_no_key, seconds=recipe.corpus.seconds, seed=recipe.corpus.seed + _APART[split], **_sound(recipe)
    )
    heard: dict[str, list[np.ndarray]] = {kind: [] for kind in no_key.KINDS}
    total = len(heard) * made.count
    for kind, samples in bar(no_key.recordings(made), desc="sound without a key", total=total, show=show):
        heard[kind].append(track_spectrogram(samples, recipe.corpus.front_end))
    return {kind: listen(model, spectrograms) for kind, spectrograms in heard.items()}


def listener(
    recipe: Recipe, corpus: Corpus, recordings: Corpus | None = None, device: str = "auto"
) -> tuple[Encoder, pd.DataFrame | None]:
    """The encoder of a recipe, pre-trained or not, and the curve of its pre-training."""
    if recipe.pretraining is None:
        return build_encoder(recipe.encoder, torch_stream(0, INITIAL_WEIGHTS)).eval(), None
    everything, train = corpus, corpus.tracks(split="train")
    if recordings is not None:
        everything, train = join([corpus, recordings]), train + recordings.pretraining_tracks()
    config = replace(recipe.pretraining, device=device)
    return pretrain_once(config, everything, train, corpus.tracks(split="valid"), desc="pre-training")


def trained_heads(
    recipe: Recipe, features: Features, corpus: Corpus, shifts: Sequence[int], device: str, *, show: bool = True
) -> dict[str, TrainedHead]:
    """For each seed the head of the grid that is best on the validation tracks, by name; kept in the cache."""
    content = content_hash({"x": features.x, "track": features.track, "shift": features.shift})
    chosen: dict[int, TrainedHead] = {}
    todo: dict[HeadStudy, Path] = {}
    for seed in recipe.seeds:
        study = HeadStudy(
            EMBEDDING,
            "wide MLP",
            budget=0,
            shifts=tuple(shifts),
            max_steps=recipe.max_steps,
            eval_every=recipe.eval_every,
            patience=recipe.patience,
            seed=seed,
        )
        identity = [configuration(study, recipe.heads), content, corpus.hash, code_hash_of(head_study.__name__)]
        file = paths.CACHE / "heads" / f"{sha256_json(identity)[:16]}.safetensors"
        try:
            chosen[seed] = TrainedHead.load(file)
        except KeyMynaError:  # absent, or damaged
            todo[study] = file
    trained = head_study.sweep(list(todo), recipe.heads, {EMBEDDING: features}, corpus, device, show=show)
    for (study, file), heads in zip(todo.items(), trained):
        discard(file)
        chosen[study.seed] = select(heads)
        chosen[study.seed].save(file)
    return {f"seed {seed}": chosen[seed] for seed in recipe.seeds}


def _answers(model: KeyModel, features: Features, corpus: Corpus, tracks: Sequence[str]) -> tuple[Answers, np.ndarray]:
    """Answers and (track,) keys of some tracks, from their unshifted rows."""
    rows = features.select(tracks)
    found = answers_of(model.probabilities(rows.x), rows.track.numpy())
    return found, corpus.manifest.loc[list(tracks), "key"].to_numpy()


def held_out(recipe: Recipe, soundfont: str, *, n_songs: int = 200, show: bool = True) -> Corpus:
    """Songs that a recipe's corpus does not hold, played by another SoundFont: the test of other timbres."""
    corpus = recipe.corpus
    shared = {name: getattr(corpus, name) for name in ("seconds", "scope", "detune_cents", "snr_db", "front_end")}
    return build_songs(SongConfig(**shared, n_songs=n_songs, seed=corpus.seed + 1, soundfont=soundfont), progress=show)


def report(
    made: Made,
    *,
    others: Mapping[str, Corpus] | None = None,
    unlabelled: Corpus | None = None,
    real: Path | None = None,
    show: bool = True,
) -> pd.DataFrame:
    """What a model scores on everything that can be scored.

    Parameters
    ----------
    others : labelled corpora by name, all of whose tracks are scored, see `held_out`.
    unlabelled : recordings; measured is whether their halves agree, and whether the answer moves with a transposition.
    real : a folder as `foreign.stored_recordings` reads it; passed over where the model's front end is not mel.

    Returns
    -------
    Rows of set, measure, value, low, high (95 % interval, both in the unit of the value) and tracks.
    """
    model, corpus = made.model, made.corpus
    rows = []
    for split in ("valid", "test"):
        tracks = corpus.tracks(split=split)
        found, labels = _answers(model, made.features, corpus, tracks)
        source = corpus.manifest.loc[tracks, "source"].to_numpy()
        for name in (*dict.fromkeys(source), "all"):
            of = (source == name) | (name == "all")
            rows += _scored(f"{split}: {name}", model, labels[of], Answers(found.probabilities[of], found.doubt[of]))
    rows += _agreement("test: all", model, corpus, corpus.tracks(split="test"), show=show)
    for name, other in (others or {}).items():
        same_front_end(model.encoder.config.front_end, other.front_end)
        heard = [other.spectrogram(track) for track in other.tracks()]
        rows += _scored(name, model, other.manifest["key"].to_numpy(), listen(model, heard))
    if unlabelled is not None:
        rows += _agreement("unlabelled", model, unlabelled, unlabelled.pretraining_tracks(), show=show)
    if real is not None and corpus.front_end == "mel":
        recordings = stored_recordings(real)
        for name, tracks in recordings.tracks.groupby("set", sort=False):
            heard = [recordings.spectrogram(track) for track in tracks.index]
            rows += _scored(name, model, tracks["key"].to_numpy(), listen(model, heard))
    for kind, found in without_key(model, made.recipe, "test", show=show).items():
        rows.append(_share(f"without a key: {kind}", "answered", found.doubt <= model.max_entropy))
    songs = hear_passages(model, song_passages(made.recipe, "test"), show=show)
    rows += _over_time("songs", judge(songs, model.persistence, made.template_persistence))
    known = {*corpus.tracks(split="train"), *corpus.tracks(split="valid")}  # a score's track is named after its piece
    found = hear_passages(model, chorales(made.recipe, without=known, count=made.recipe.n_passages), show=show)
    rows += _over_time("analysed chorales", judge(found, model.persistence, made.template_persistence))
    rows += _over_time("analysed chorales, persistence chosen on the other half", judge_in_folds(found))
    return pd.DataFrame(rows, columns=["set", "measure", "value", "low", "high", "tracks"])


def _scored(name: str, model: KeyModel, labels: np.ndarray, found: Answers) -> list[tuple]:
    """Scores of all answers; how well they are calibrated; and what is left when doubtful ones are withheld."""
    probabilities = found.probabilities
    answers, confidence = probabilities.argmax(axis=1), model.calibrated(probabilities).max(axis=1)
    weighted, right = mirex_scores(labels, answers, fifths="both"), labels == answers
    given = found.doubt <= model.max_entropy
    rows = [_share(name, "weighted_both", weighted), _share(name, "accuracy", right), _share(name, "answered", given)]
    if given.any():
        rows.append(_share(name, "weighted_both, answered", weighted[given]))
    for measure, sure in {"": confidence, ", temperature 1": probabilities.max(axis=1)}.items():
        error = reliability(sure, right).error
        rows.append((name, f"calibration error{measure}", error, None, None, len(labels)))
    return rows


def _over_time(name: str, judged: pd.DataFrame) -> list[tuple]:
    """Score over time and F-measure of the boundaries of each system, from the rows of `key_tracking.judge`."""
    rows = []
    for system, of in judged.groupby("system", sort=False):
        rows.append(_share(f"{name}: {system}", "weighted_both over time", of["score"].to_numpy()))
        rows.append((f"{name}: {system}", "boundaries within 3 s (F)", f_measure(of), None, None, len(of)))
    return rows


def _share(name: str, measure: str, values: Sequence[float] | np.ndarray) -> tuple:
    return (name, measure, float(np.mean(values)), *bootstrap_interval(np.array(values, float), seed=0), len(values))


def listen(model: KeyModel, spectrograms: Sequence[np.ndarray]) -> Answers:
    """Answers to stored spectrograms (frame, band)."""
    x, track = track_embeddings(model.encoder, spectrograms, model.frames)
    return answers_of(model.probabilities(x), track.numpy())


def _agreement(name: str, model: KeyModel, corpus: Corpus, tracks: Sequence[str], *, show: bool) -> list[tuple]:
    """How often the model agrees with itself on some of the recordings, see `label_free`."""
    some = numpy_stream(0, "agreement").permutation(sorted(tracks))[:AGREEING].tolist()
    answers = label_free.listen(corpus, some, [label_free.ModelSystem(name, model)], progress=show)
    rows = label_free.agreement(answers, seed=0).itertuples()
    return [(name, _AGREEMENT[row.measure], row.same, row.same_low, row.same_high, row.tracks) for row in rows]


def write_card(table: pd.DataFrame, model: Path, **origin: Any) -> None:
    """Write what `report` found beside a model's file, as JSON, with its hash and where the two come from."""
    from keymyna_lib.base import files

    scores = json.loads(table.to_json(orient="records"))
    files.write_json(model.with_suffix(".json"), {"model": sha256_file(model), **origin, "scores": scores})
