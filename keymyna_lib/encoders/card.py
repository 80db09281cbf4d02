"""The model card of an encoder that was pre-trained here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json, write_text
from keymyna_lib.base.hashing import sha256_file
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.model import load_encoder
from keymyna_lib.report.runs import config_of, load_metrics, run_file
from keymyna_lib.report.stage import markdown
from keymyna_lib.spectrogram import SAMPLE_RATE


def write_model_card(
    path: Path, corpus: Corpus, *, profile: str, run_id: str, scored_by: Sequence[str], licence: str
) -> Path:
    """Write the README.md that the hub shows, next to the encoder; every value in it was stored by the runs.

    Parameters
    ----------
    path : the encoder as run `run_id` wrote it.
    corpus : what it was pre-trained on.
    profile, run_id : the run that made it (of notebook 10, or a row of a comparison).
    scored_by : runs on its frozen embeddings, for the scores; may include `run_id`, where that run holds scores.
    licence : of the weights, as the hub spells it ("mit").

    Returns
    -------
    Path of the card.

    Raises
    ------
    KeyMynaError
        When file or corpus are not those of the run, the run loaded published weights, or a run scored another encoder.
    """
    config = config_of(profile, run_id)
    provenance = read_json(run_file(profile, run_id, "provenance.json"))
    digest = sha256_file(path)
    if provenance["artifacts"].get("encoder.safetensors") != digest:
        raise KeyMynaError(f"{path} is not the encoder that run {run_id} wrote.")
    if "weights" in config:
        raise KeyMynaError(f"run {run_id} trained nothing: its encoder was published as {config['weights']['source']}.")
    if config["inputs"]["corpus"] != corpus.hash:
        raise KeyMynaError(f"run {run_id} was pre-trained on another corpus than {corpus.path}.")
    for run in scored_by:
        if run != run_id and config_of(profile, run)["inputs"].get("pretrain") != digest:
            raise KeyMynaError(f"run {run} did not score the encoder of run {run_id}.")
    encoder = load_encoder(path)
    settings = {
        name: str(value) for name, value in config.items() if name not in ("experiment", "inputs", "encoder", "device")
    }
    origin = {
        "file": f"{path.name}, sha256 {digest}",
        "run": f"{run_id}, profile {profile}",
        "commit": f"{provenance['commit']}{' with changes' if provenance['dirty'] else ''}",
        "code": provenance["code_hash"],
        "corpus": corpus.hash,
        "device": provenance["device"],
        "finished": provenance["ended"],
        "torch": provenance["packages"]["torch"],
    }
    card = path.parent / "README.md"
    write_text(
        card,
        _CARD.format(
            licence=licence,
            preset=encoder.config.preset,
            patch=encoder.config.patch,
            dim=encoder.embedding_dim,
            parameters=f"{sum(p.numel() for p in encoder.parameters()):,}",
            rate=f"{SAMPLE_RATE:,}",
            scale="the mel power" if encoder.config.scale == "linear" else "log(1 + mel power)",
            file=path.name,
            data=markdown(_sources(corpus)),
            scores=markdown(_scores(profile, scored_by)),
            settings=markdown(pd.DataFrame(sorted(settings.items()), columns=["setting", "value"])),
            origin=markdown(pd.DataFrame(origin.items(), columns=["", "value"])),
        ),
    )
    return card


_CARD = """---
license: {licence}
pipeline_tag: feature-extraction
tags: [music, audio, key-detection]
---
# Music encoder, {preset}, {patch} patches

A vision transformer on mel spectrograms of music, from an independent reproduction of *Masked Contrastive Pre-Training
Improves Music Audio Key Detection* ([arXiv:2604.10021](https://arxiv.org/abs/2604.10021)). These are not the authors'
weights, though the tensors have the same names. {parameters} parameters; embeddings of {dim} dimensions. The input is
{scale} of mono audio at {rate} Hz, as `keymyna_lib.spectrogram` computes it.

## Data

{data}

## Training

{settings}

## Scores

Scores, in 0 to 1, of heads on the frozen embeddings, and of controls, on test tracks that were not trained on.
`weighted_both` is the MIREX score that credits fifths in both directions, `weighted_ascending` credits ascending ones
only.

{scores}

## Loading

```python
from pathlib import Path

from keymyna_lib.model import load_encoder

encoder = load_encoder(Path("{file}"))
```

From the hub, `keymyna_lib.encoders.hub.HubFile(repository, "{file}", commit).download()` gives the path. The file
holds tensors and their configuration; loading it never runs code.

## Provenance

{origin}
"""


def _sources(corpus: Corpus) -> pd.DataFrame:
    """Number and hours of the tracks that the encoder was pre-trained on, by source."""
    durations = corpus.manifest.loc[corpus.pretraining_tracks()].groupby("source")["duration"]
    table = durations.agg(["size", "sum"]).reset_index().set_axis(["source", "tracks", "hours"], axis=1)
    return table.assign(hours=(table["hours"] / 3600).round(2))


def _scores(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """Test scores of runs, one row per run, label budget and data set."""
    shown, table = ["weighted_both", "weighted_ascending", "accuracy"], []
    for run in run_ids:
        config, metrics = config_of(profile, run), load_metrics(profile, [run])
        test = metrics[(metrics["split"] == "test") & metrics["metric"].isin(shown)]
        for (budget, dataset), rows in test.groupby(["budget", "dataset"], sort=False, dropna=False):
            scores = rows.set_index("metric")["value"].reindex(shown).map("{:.4f}".format)
            table.append(
                {
                    "features": config.get("features", config.get("name")),
                    "head": config.get("head", "logistic probe"),
                    "labels": "none" if pd.isna(budget) else budget or "all",
                    "tracks": dataset,
                    **scores,
                    "n": rows["n"].iloc[0],
                    "run": run,
                }
            )
    return pd.DataFrame(table)
