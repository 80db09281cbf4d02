"""What parameters must keep, alone and together: checked before anything runs, by the runner and by each notebook.

Four kinds of rules, each broken one a sentence that begins with the numbers of its notebooks:

    a value for itself    the ranges of `base.checks.RANGES`, and the names that are known (`_names`)
    within a notebook     `_WITHIN`, and every pre-training run that a notebook will make (`_trainings`)
    between notebooks     `_same_budgets` and those after it: what one reads has been asked of the other
    with the corpus       `_with_corpus` and `_pitch`: label budgets, batches and probes against the tracks there are
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from keymyna_lib.base import paths
from keymyna_lib.base.checks import POSITIVE, RANGES, Rule, at_least, broken, each, one_of
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run import parameters

if TYPE_CHECKING:
    from keymyna_lib.corpus.corpus import Corpus
    from keymyna_lib.pretrain import PretrainConfig

DATA, RECORDINGS, PRETRAIN, CONTROLS = "00_data", "05_recordings", "10_pretrain", "15_controls"
PROBE, MLP, ROBUSTNESS = "20_linear_probe", "30_wide_mlp", "40_robustness"
REAL = "45_real_music"
OBJECTIVES, PITCH, DESIGN, HEADS = "50_objectives", "55_pitch", "60_design", "65_heads"
SPEED, ANSWERS, CONCLUSIONS, TRY_IT, TABLES = ("70_speed", "75_answers", "80_conclusions", "85_try_it", "90_tables")
# Numbers that only notebooks have.
_SIZES = {
    **dict.fromkeys(("n_test_chorales", "n_test_songs", "compared_tracks"), at_least(0)),
    **dict.fromkeys(("shift_step", "n_neighbours", "circle_windows", "cnn_steps"), at_least(1)),
    "circle_tracks": at_least(2),
    "cnn_seeds": each(at_least(0), least=0),
    "cnn_lr": POSITIVE,
    "timbre_steps": each(at_least(1), least=0),
    "further_lrs": each(POSITIVE, least=0),
    "mlp_budgets": each(at_least(0), least=0),
    **dict.fromkeys(("mlp_draws", "head_seeds"), each(at_least(0))),
}
# Notebook 60: what may be varied -> the parameter with its values, and the setting that takes them.
FACTORS = {
    "mask": ("mask_ratios", "mask_ratio"),
    "patches": ("patches", "patch"),
    "input": ("scales", "scale"),
    "loss": ("losses", "loss"),
    "batch": ("batch_sizes", "batch_size"),
    "crop": ("crops", "crop_frames"),
    "distance": ("crop_distances", "crop_distance"),
    "head": ("projection_dims", "projection_dim"),
}
ROWS = ("shift range", "linear maps", "test-time", "mixup", "grid A")  # of notebook 65
_INJECTED = "# Parameters"  # the first line of the cell that papermill puts after the parameters cell
_COUPLED = {"steps", "warmup_steps", "warmup_share", "patch", "crop_frames", "objective", "mask_ratio"}
_COUPLED |= {
    "objectives",
    "tune",
    "tuning_steps",
    "masked_steps",
    "timbre_steps",
    "factors",
    *(listed for listed, _ in FACTORS.values()),
}
Values = Mapping[str, Any]
Said = TypeVar("Said")


def refuse(
    values: Mapping[str, Values], *, root: Path, corpus: Corpus | None = None, rendered: Corpus | None = None
) -> None:
    """Refuse parameters of some notebooks that would fail sooner or later, in one message with all that is wrong.

    Parameters
    ----------
    values : notebook -> name -> value, of all notebooks that are to run.
    root : the folder that relative paths start from.
    corpus : that they will work on, where it is known already.
    rendered : the synthetic corpus, if what notebook 55 asks of it is to be tried (a second for a hundred tracks).

    Raises
    ------
    KeyMynaError
        When a rule is broken.
    """
    if found := problems(values, root=root, corpus=corpus, rendered=rendered):
        raise KeyMynaError(
            "these parameters cannot work (notebook: why); change them and run again:\n  " + "\n  ".join(found)
        )


def problems(
    values: Mapping[str, Values], *, root: Path, corpus: Corpus | None = None, rendered: Corpus | None = None
) -> list[str]:
    """The rules that parameters break, see `refuse`; a sentence that several notebooks share is said once."""
    said: list[tuple[str, str]] = []
    sound: dict[str, Values] = {}
    for notebook, table in values.items():
        rules = rules_of(notebook)
        refused = {name: broken({name: table[name]}, rules) for name in table if name in rules}
        said += [(sentence, notebook[:2]) for found in refused.values() for sentence in found]
        sound[notebook] = {name: value for name, value in table.items() if not refused.get(name)}
    for notebook, table in sound.items():
        said += [(sentence, notebook[:2]) for sentence in _read(_within(notebook, table, root))]
        said += [(sentence, notebook[:2]) for sentence in _read(_impossible(notebook, table, values[notebook]))]
    for between in (_same_budgets(sound), _asked_and_run(sound), _known_tasks(sound)):
        said += _read(between)
    if corpus is not None:
        for notebook, table in sound.items():
            said += [(sentence, notebook[:2]) for sentence in _read(_with_corpus(notebook, table, corpus))]
    if rendered is not None and PITCH in sound:
        said += [(sentence, PITCH[:2]) for sentence in _read(_pitch(sound, rendered))]
    numbers: dict[str, list[str]] = {}
    for sentence, number in said:
        numbers.setdefault(sentence, []).append(number)
    return [f"{', '.join(dict.fromkeys(of))}: {sentence}" for sentence, of in numbers.items()]


def check_cell(notebook: str, namespace: dict[str, Any]) -> None:
    """Check a notebook's parameters as they stand, however they were set, and put each into its declared type.

    The runner has checked them already; papermill and a person in JupyterLab have not.

    Parameters
    ----------
    notebook : its name, without suffix.
    namespace : the notebook's `globals()`. Text becomes the value that it stands for, and a single value a list of it
        where a list is declared.

    Raises
    ------
    KeyMynaError
        Lists every parameter that is unknown, missing, of another type, out of range or at odds with another one.
    """
    known = parameters.declared(paths.NOTEBOOKS / f"{notebook}.ipynb")
    rules, found, wrong = rules_of(notebook), {}, []
    for name in _injected(namespace):
        if name not in known:
            wrong.append(f"{name}: the notebook declares no such parameter, only {', '.join(known)}.")
    for name, parameter in known.items():
        try:
            value = parameter.read(namespace[name])
        except KeyError:
            wrong.append(f"{name} is not set; run the cell of parameters first.")
        except TypeError:
            wrong.append(
                f"{name} = {namespace[name]!r} is not of type {parameter.type_name} (default {parameter.default!r})."
            )
        else:
            found[name] = [value] if name in rules and rules[name].many and not isinstance(value, list) else value
    wrong += [sentence.removeprefix(f"{notebook[:2]}: ") for sentence in problems({notebook: found}, root=Path())]
    if wrong:
        raise KeyMynaError(f"parameters of {notebook}:\n  " + "\n  ".join(wrong))
    namespace.update(found)


def _injected(namespace: Values) -> list[str]:
    """Names that papermill has set, from IPython's record of the cells that ran; none in a notebook run by hand."""
    for source in reversed(namespace.get("In", [])):
        if source.partition("\n")[0].strip() == _INJECTED:
            with contextlib.suppress(SyntaxError):  # somebody's own cell, with a magic in it
                targets = [t for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]
                return [t.id for t in targets if isinstance(t, ast.Name) and not t.id.startswith("PAPERMILL_")]
    return []


def rules_of(notebook: str) -> dict[str, Rule]:
    """The rule of each parameter name, as it is meant in a notebook."""
    return RANGES | _SIZES | _names() | _own().get(notebook, {})


@functools.cache
def _names() -> dict[str, Rule]:
    """The rules of parameters that hold names."""
    from keymyna_lib.corpus.rendered.arrange import MIXED, SCOPES
    from keymyna_lib.experiments import encoder_study
    from keymyna_lib.experiments.references import REFERENCES
    from keymyna_lib.losses import LOSSES
    from keymyna_lib.model import PATCHES, PRESETS, SCALES
    from keymyna_lib.objectives import OBJECTIVES as KINDS
    from keymyna_lib.pretrain import OPTIMIZERS, PRECISIONS
    from keymyna_lib.views import AUGMENTATIONS

    text = Rule(lambda value: isinstance(value, str) and bool(value.strip()), "a name")
    return {
        "profile": one_of(paths.PROFILES),
        "scope": one_of((*SCOPES, MIXED)),
        "preset": one_of(PRESETS),
        "patch": one_of(PATCHES),
        "scale": one_of(SCALES),
        "objective": one_of(KINDS),
        "augmentation": one_of(AUGMENTATIONS),
        "loss": one_of(LOSSES),
        "optimizer": one_of(OPTIMIZERS),
        "precision": one_of(PRECISIONS),
        "device": Rule(lambda value: re.fullmatch(r"auto|cpu|cuda(:\d+)?", value), "auto, cpu or cuda"),
        "objectives": each(one_of(encoder_study.OBJECTIVES)),
        "beside": Rule(lambda value: value in ("", *paths.PROFILES), f"nothing, or one of {', '.join(paths.PROFILES)}"),
        "references": each(one_of(REFERENCES), least=0),
        "patches": each(one_of(PATCHES)),
        "scales": each(one_of(SCALES)),
        "losses": each(one_of(LOSSES)),
        "factors": each(one_of(FACTORS), least=0),
        "rows": each(one_of(ROWS), least=0),
        "tasks": each(text),
        **dict.fromkeys(("extra", "fetch", "unlabelled"), each(text, least=0)),
        "scheduler": Rule(
            lambda value: re.fullmatch(r"(local(:[1-9]\d*)?|tcp:.+|slurm:.+)?", value),
            "nothing, local:N, tcp://host:port or slurm:FILE.json",
        ),
    }


@functools.cache
def _own() -> dict[str, dict[str, Rule]]:
    """Names that mean something else in one notebook than in the others."""
    from keymyna_lib.bench.sizes import SIZES, SUBJECTS

    probed = Rule(lambda value: value == 0 or 2 <= value < float("inf"), "at least 2, or 0 for all")
    return {
        DATA: {"seconds": at_least(1)},
        REAL: {"n_test_songs": at_least(1)},
        # Notebook 40 changes no audio of less than a second.
        RECORDINGS: {
            "seconds": Rule(lambda value: value == 0 or 1 <= value < float("inf"), "at least 1, or 0 for all")
        },
        # A logistic probe needs labels of two keys.
        OBJECTIVES: {"budgets": each(probed), "tuning_budget": probed},
        DESIGN: {"budgets": each(probed)},
        # Every other passage modulates; a kind is left out of the others, and songs have two outcomes.
        ANSWERS: {"n_test_songs": at_least(2), "n_no_key": at_least(1), "n_passages": at_least(2)},
        SPEED: {"subjects": each(one_of(SUBJECTS)), "size": one_of(list(SIZES)), "budget": POSITIVE},
    }


def _read(sentences: Iterable[Said]) -> list[Said]:
    """What is said until a value is missing, because it was refused by itself."""
    found = []
    with contextlib.suppress(KeyError):
        for sentence in sentences:
            found.append(sentence)
    return found


def _within(notebook: str, values: Values, root: Path) -> Iterator[str]:
    """What is wrong within one notebook whose values are each in range."""
    from keymyna_lib.base.device import pick_device

    if "device" in values:
        try:
            pick_device(values["device"])
        except KeyMynaError as error:
            yield str(error)
    if notebook in _WITHIN:
        yield from _WITHIN[notebook](values, root)


def _trainings(notebook: str, values: Values) -> Iterator[PretrainConfig | str]:
    """The pre-training runs that a notebook will make; what is wrong, in place of one that cannot be made."""
    from keymyna_lib.pretrain import PretrainConfig

    for what, changes in _changes(notebook, values):
        try:
            yield PretrainConfig.from_parameters({**values, **changes})
        except KeyMynaError as error:
            yield f"{what}: {error}" if what else str(error)


def _impossible(notebook: str, values: Values, given: Values) -> Iterator[str]:
    """What is wrong with a notebook's pre-training runs, each setting in range.

    Parameters
    ----------
    given : the same values with those that were refused by themselves. A setting that was refused counts as its
        default, and no run is looked at when it is one that others are measured by.
    """
    if not _COUPLED & given.keys() - values.keys():
        yield from (run for run in _trainings(notebook, values) if isinstance(run, str))


def _changes(notebook: str, values: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pre-training runs of a notebook, each as what it is and how its settings differ from the parameters."""
    from keymyna_lib.experiments import encoder_study

    if notebook == PRETRAIN:
        yield "", {}
    if notebook not in (OBJECTIVES, DESIGN):
        return
    usual = {"warmup_steps": round(values["warmup_share"] * values["steps"])}
    if notebook == DESIGN:
        yield "", usual
        for factor in values["factors"]:
            listed, setting = FACTORS[factor]
            for value in values[listed]:
                yield f"{listed}, {value!r}", usual | {setting: value}
        return
    for name in values["objectives"]:
        yield f"objectives, {name!r}", usual | encoder_study.OBJECTIVES[name]
    for listed, name in (("masked_steps", encoder_study.MASKED), ("timbre_steps", encoder_study.TIMBRE)):
        for steps in values[listed]:
            length = {"steps": steps, "warmup_steps": round(values["warmup_share"] * steps)}
            yield f"{listed}, {steps}", length | encoder_study.OBJECTIVES[name]


def _recordings(values: Values, root: Path) -> Iterator[str]:
    from keymyna_lib.corpus.recordings import tasks

    for task in values["tasks"]:
        yield from _said(tasks.datasets_of, task)
    for name in (*values["extra"], *values["fetch"]):
        yield from _said(tasks.dataset, name)
    where = values["data_root"]
    if where and not (root / paths.expanded(where)).is_dir():
        yield f"data_root {where!r} is not a folder."
    if values["fetch"] and not where:
        yield f"fetch = {values['fetch']}: data_root says where to put them; give it (./run_all.sh --data-root DIR)."


def _said(function: Any, *arguments: Any) -> Iterator[str]:
    """The message of the KeyMynaError that a call raises, if it does."""
    try:
        function(*arguments)
    except KeyMynaError as error:
        yield str(error)


def _pretrain(values: Values, root: Path) -> Iterator[str]:
    from keymyna_lib.encoders.hub import checkpoint

    if values["weights"]:
        try:
            file = checkpoint(values["weights"])
        except KeyMynaError as error:
            yield str(error)
        else:
            if isinstance(file, Path) and not (root / file).is_file():
                yield (
                    f"weights {values['weights']!r}: there is no such file; one of the model hub is written "
                    "owner/name/file@commit."
                )


def _controls(values: Values, root: Path) -> Iterator[str]:
    where = values["predictions"]
    if where and not (root / paths.expanded(where)).is_dir():
        yield f"predictions {where!r} is not a folder."


def _frozen(values: Values, root: Path) -> Iterator[str]:
    where = values["frozen"]
    if where and "@" not in where and not (root / paths.expanded(where)).is_dir():
        yield f"frozen {where!r}: there is no such folder; one of the model hub is written owner/name@revision."


def _mlp(values: Values, root: Path) -> Iterator[str]:
    yield from _frozen(values, root)
    budgets, steps = values["budgets"], values["shift_steps"]
    if len(budgets) != len(steps):
        yield f"budgets {budgets}, shift_steps {steps}: give one shift step for each budget."
    if 2 in values["depths"] and min(values["widths"]) > values["widest_pair"]:
        yield (
            f"widest_pair {values['widest_pair']}, widths {values['widths']}: no width is small enough for two layers; "
            "raise widest_pair, or leave 2 out of depths."
        )


def _robustness(values: Values, root: Path) -> Iterator[str]:
    if values["n_tracks"]:
        yield from _points(values["n_tracks"], values["perplexity"])


def _points(n_tracks: int, perplexity: float) -> Iterator[str]:
    from keymyna_lib.experiments.audio_changes import AUGMENTATIONS

    if (points := n_tracks * (1 + len(AUGMENTATIONS))) <= perplexity:
        yield f"perplexity {perplexity:g}: expected less than the {points} points of {n_tracks} tracks; lower it."


def _real_music(values: Values, root: Path) -> Iterator[str]:
    from keymyna_lib.corpus.sound import soundfonts

    where, soundfont = values["recordings"], values["soundfont"]
    if where and not (root / Path(where).expanduser()).is_dir():
        yield f"recordings {where!r} is not a folder."
    if soundfont not in soundfonts.SOUNDFONTS:
        yield from _said(soundfonts.find, str(root / Path(soundfont).expanduser()))
    elif soundfont == soundfonts.DEFAULT:
        yield f"soundfont {soundfont!r} is what the corpus is played by: name another one."
    if 0 in values["test_shifts"]:
        yield f"test_shifts {values['test_shifts']}: 0 is the recording itself; leave it out."


def _objectives(values: Values, root: Path) -> Iterator[str]:
    from keymyna_lib.experiments.encoder_study import ELSEWHERE, FREE, MASKED, OTHER

    parameters = {FREE: "free_recordings", OTHER: "beside"}
    for name in filter(ELSEWHERE.get, values["objectives"]):
        if not values[parameter := parameters[ELSEWHERE[name][1]]]:
            yield f"objectives, {name!r}: {parameter} says where its material is; give it."
    yield from _beside(values)
    if MASKED not in values["objectives"]:
        yield f"objectives {values['objectives']}: the others are compared with {MASKED!r}; add it."
    yield from _parts("shown_budgets", values["shown_budgets"], "budgets", values["budgets"])


def _heads(values: Values, root: Path) -> Iterator[str]:
    if "linear maps" in values["rows"]:
        if values["map_tracks"] < 5:
            yield f"map_tracks {values['map_tracks']}: linear maps need at least 5."
        if values["max_shift"] < 1:
            yield f"max_shift {values['max_shift']}: linear maps stand in for shifts; take at least 1."


def _try_it(values: Values, root: Path) -> Iterator[str]:
    named = values["model"]
    runs = paths.run_folders(Path(named).name)
    if named and not (root / Path(named).expanduser()).exists() and not any(runs):
        yield f"model {named!r}: there is no such file or run."
    if 0 < values["compared_tracks"] <= values["n_neighbours"]:
        yield (
            f"n_neighbours {values['n_neighbours']}, compared_tracks {values['compared_tracks']}: expected more tracks "
            "than neighbours."
        )


def _conclusions(values: Values, root: Path) -> Iterator[str]:
    yield from _beside(values)


def _beside(values: Values) -> Iterator[str]:
    if values["beside"] and values["beside"] == values["profile"]:
        yield f"beside {values['beside']!r}: it is the profile itself; name the one to compare it with, or nothing."


_WITHIN = {
    RECORDINGS: _recordings,
    PRETRAIN: _pretrain,
    CONTROLS: _controls,
    PROBE: _frozen,
    MLP: _mlp,
    ROBUSTNESS: _robustness,
    REAL: _real_music,
    OBJECTIVES: _objectives,
    HEADS: _heads,
    CONCLUSIONS: _conclusions,
    TRY_IT: _try_it,
}


def _parts(name: str, parts: Iterable[Any], whole_name: str, whole: Iterable[Any]) -> Iterator[str]:
    """A sentence if something that is to be shown is not among what is run."""
    whole = list(whole)
    if missing := [part for part in parts if part not in whole]:
        yield f"{name}: {missing[0]} is not among {whole_name} {whole}; add it there, or set {name}."


def _same_budgets(values: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
    """(sentence, numbers of notebooks): 40 and 90 read heads of 20 and 30 side by side."""
    if PROBE in values and MLP in values and (ROBUSTNESS in values or TABLES in values):
        for name in ("budgets", "seeds"):
            first, second = values[PROBE][name], values[MLP][name]
            if set(first) != set(second):
                yield f"{name} {first} in notebook 20 and {second} in 30: the tables need the same in both.", "20, 30"


def _asked_and_run(values: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
    """As `_same_budgets`: label budgets that a later notebook shows, and an earlier one does not run."""
    pairs = [(TABLES, "headline_budget", PROBE), (CONCLUSIONS, "budgets", OBJECTIVES), (CONCLUSIONS, "budgets", DESIGN)]
    for later, name, earlier in pairs:
        if later in values and earlier in values:
            asked = values[later][name]
            whole = f"the budgets of notebook {earlier[:2]}"
            for sentence in _parts(
                name, asked if isinstance(asked, list) else [asked], whole, values[earlier]["budgets"]
            ):
                yield sentence, later[:2]


def _known_tasks(values: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
    """As `_same_budgets`: a task that notebook 05 is not asked for."""
    if RECORDINGS in values:
        recorded = values[RECORDINGS]["data_root"]
        known = values[RECORDINGS]["tasks"] if recorded else ["rendered"]
        why = "tasks" if recorded else "the synthetic corpus; for recordings give --data-root DIR"
        for notebook, table in values.items():
            if table.get("task") and table["task"] not in known:
                yield f"task {table['task']!r}: expected one of {', '.join(known)} ({why}).", notebook[:2]


def _with_corpus(notebook: str, values: Values, corpus: Corpus) -> Iterator[str]:
    """What is wrong in one notebook, given the tracks that there are."""
    from keymyna_lib.experiments.references import DISCRIMINANTS
    from keymyna_lib.experiments.upstream import tasks_of
    from keymyna_lib.pretrain import training_tracks

    tasks = tasks_of(corpus)
    if "task" in values:
        if (task := values["task"] or next(iter(tasks))) not in tasks:
            yield f"task {task!r}: the corpus has {', '.join(tasks)}."
            return
        tasks = {task: tasks[task]}
    if notebook in (PRETRAIN, PROBE, MLP, ROBUSTNESS, OBJECTIVES, DESIGN, HEADS, CONCLUSIONS):
        for task, part in tasks.items():
            sizes = {split: len(part.tracks(split=split)) for split in ("train", "valid", "test", "extra")}
            for split in ("train", "valid", "test"):
                if not sizes[split]:
                    yield f"{task} has no track in {split!r}: take more tracks."
            n_train = sizes["train"]
            if notebook == ROBUSTNESS:
                n_tracks = min(values["n_tracks"] or float("inf"), sizes["extra"] or sizes["test"])
                yield from _points(n_tracks, values["perplexity"])
            for name in ("budget", "budgets", "tuning_budget", "mlp_budgets", "optimism_budgets"):
                if (
                    name == "tuning_budget"
                    and not values.get("tune")
                    and DISCRIMINANTS not in values.get("references", [])
                ):
                    continue
                asked = values.get(name, [])
                for budget in asked if isinstance(asked, list) else [asked]:
                    if budget > n_train:
                        yield f"{name} {budget}: {task} has {n_train} labelled training tracks; 0 takes all."
    if not values.get("weights"):
        part = corpus if notebook == PRETRAIN else next(iter(tasks.values()))
        for run in _trainings(notebook, values):
            if not isinstance(run, str) and run.batch_size > (n_tracks := len(training_tracks(run, part))):
                yield f"batch_size {run.batch_size}: there are {n_tracks} tracks to train on; lower it."


def _pitch(values: Mapping[str, Values], corpus: Corpus) -> Iterator[str]:
    """What notebook 55 would refuse of the synthetic corpus: its probes are rehearsed on features that say nothing."""
    from keymyna_lib.base.seeds import numpy_stream
    from keymyna_lib.corpus.rendered.window_truth import window_properties
    from keymyna_lib.experiments import pitch_probes
    from keymyna_lib.experiments.transfer import transfer
    from keymyna_lib.spectrogram import WINDOW, window_frames

    asked, seed = values[PITCH], values[PITCH]["seed"]
    frames = window_frames(values.get(OBJECTIVES, {}).get("crop_frames", WINDOW))
    tracks = list(numpy_stream(seed, "tracks").permutation(corpus.manifest.index))[: asked["n_tracks"] or None]
    windows = window_properties(corpus, tracks, frames)
    nothing = np.zeros((len(windows), 1))
    rehearsals = (
        lambda: pitch_probes.probe_properties(
            nothing, windows, numpy_stream(seed, "probes"), max_train_rows=asked["probe_rows"]
        ),
        lambda: transfer(nothing, windows, numpy_stream(seed, "transfer")),
    )
    for rehearse in rehearsals:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                rehearse()
        except KeyMynaError as error:
            yield (
                f"{error} Change n_tracks or probe_rows, or what the corpus is made with (such as drum_probability, "
                "detune_cents and snr_db), or leave notebook 55 out (--only)."
            )
