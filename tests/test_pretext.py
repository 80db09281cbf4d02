"""What guessing gives in each pretext task, against guesses that are made, and the mark where no more was learned."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from store_stand_in import TRAIN, VALID, config, store

from keymyna_lib.experiments.pretext import (
    MARK,
    WORSE,
    chance_measure,
    learned,
    matching_table,
    pretext_scores,
    pretext_table,
    similarity,
    unlearned,
)
from keymyna_lib.losses import top1
from keymyna_lib.objectives import OBJECTIVES
from keymyna_lib.pretrain import Pretraining
from keymyna_lib.report.runs import Run

EVERYONE = [*TRAIN, *VALID]


@pytest.fixture(scope="module")
def corpus():
    return store()


def test_every_objective_has_a_chance_level_between_its_worst_and_its_best(corpus):
    for name in OBJECTIVES:
        settings = config(objective=name, loss="infonce", mask_ratio=0.5, transpositions=3)
        assert 0 < chance_measure(settings, corpus, VALID) < (100 if name == "reconstruction" else 0.9)


def test_contrastive_chance_is_the_share_of_random_outputs_that_match(corpus):
    settings = config(loss="infonce", batch_size=8)
    generator = torch.Generator().manual_seed(0)
    found = [
        top1(torch.randn(8, 64, generator=generator), torch.randn(8, 64, generator=generator), torch.arange(8))
        for _ in range(500)
    ]
    assert chance_measure(settings, corpus, EVERYONE) == 1 / 8 == pytest.approx(np.mean(found), abs=0.02)
    assert chance_measure(settings, corpus, VALID) == 1 / 3  # there are no more
    transposed = replace(settings, objective="transposed", transpositions=4)
    assert chance_measure(transposed, corpus, EVERYONE) == 1 / 32


def test_supervised_chance_is_that_of_the_most_frequent_key(corpus):
    settings = config(objective="supervised", mask_ratio=0.0, batch_size=8)
    keys = corpus.manifest["key"].to_numpy()[:7]  # 0 1 2 0 1 2 0
    assert chance_measure(settings, corpus, EVERYONE[:7]) == pytest.approx((keys == 0).mean())


def test_reconstruction_chance_is_the_error_of_the_mean_spectrum_on_the_validation_batch(corpus):
    settings = config(objective="reconstruction", batch_size=12)
    run = Pretraining(settings, corpus, TRAIN, EVERYONE)
    seen = []
    measure = run.objective.measure
    run.objective.measure = lambda outputs, batch: seen.append(batch) or measure(outputs, batch)
    run.validate()
    crops = seen[0].crops[0].float().numpy()  # (batch, band, frame)
    mean = np.array([crops[:, band].mean() for band in range(128)])
    expected = ((crops - mean[None, :, None]) ** 2).mean()
    assert chance_measure(settings, corpus, EVERYONE) == pytest.approx(expected, rel=1e-4)


def store_run(name, objective, measures, steps=5):
    for seed, (measure, chance) in enumerate(measures):
        with Run(
            "objective",
            profile="smoke",
            notebook="n",
            seed=seed,
            inputs={"corpus": "c"},
            config={"name": name, "objective": objective, "steps": steps, "seed": seed},
        ) as run:
            run.metric("all", "valid", "measure", measure, 30)
            run.metric("all", "valid", "chance", chance, 30)
            run.metric("all", "test", "weighted_both", 0.5, 30, budget=48)
        yield {"name": name, "steps": steps, "run_id": run.run_id}


def test_a_row_near_chance_is_marked(home):
    runs = pd.DataFrame(
        [
            *store_run("learned", "contrastive", [(0.9, 0.01), (0.7, 0.01)]),
            *store_run("not learned", "contrastive", [(0.03, 0.01)]),
            *store_run("rebuilt", "reconstruction", [(0.5, 2.0)]),
            *store_run("not rebuilt", "reconstruction", [(1.95, 2.0)]),
            *store_run("led astray", "reconstruction", [(2.5, 2.0)]),
            {"name": "untrained", "steps": 0, "run_id": "none"},
        ]
    )
    found = pretext_scores("smoke", runs).set_index("name")
    assert list(found.index) == ["learned", "not learned", "rebuilt", "not rebuilt", "led astray"]
    assert found.loc["learned", "learned"] == pytest.approx((0.8 - 0.01) / 0.99)
    assert found.loc["rebuilt", "learned"] == pytest.approx(0.75)
    assert list(found["near_chance"]) == [False, True, False, True, True]
    table = pretext_table(found.reset_index())
    assert list(table.frame["mark"]) == ["", MARK, "", MARK, WORSE] and list(table.frame["learned"])[2] == "75 %"
    assert table.cells["learned, 5 / validation"] == found.loc["learned", "run_ids"] and len(table.cells) == 20
    assert unlearned(found.reset_index()) == ["not learned", "not rebuilt", "led astray"]
    assert unlearned(pd.DataFrame()) == []
    shown = learned(found.reset_index())
    assert shown["learned"] == ("80 %", found.loc["learned", "run_ids"])
    assert shown["not rebuilt"] == (f"3 %, {MARK}", found.loc["not rebuilt", "run_ids"])
    assert shown["led astray"][0] == f"-25 %, {WORSE}"


def test_similarities_are_cosines_of_centred_embeddings():
    """An encoder that passes a number on: two views of three recordings, by hand."""
    embeddings = torch.tensor([[[3.0, 0], [0, 3], [-3, -3]], [[1, 0], [0, -1], [-1, 1.0]]])  # their mean is 0

    def encoder(crops, mask_ratio, generator):
        assert crops.shape == (6, 1, 2) and mask_ratio == 0.5
        return crops[:, 0]

    found = similarity(encoder, embeddings[:, :, None], 0.5, None)
    root = 0.5**0.5
    assert found == pytest.approx(np.array([[1, 0, -root], [0, -1, root], [-root, root, 0]]), abs=1e-6)
    table = matching_table({"ours": found}, "run").frame.set_index("encoder")
    assert table.loc["ours", "top-1"] == "33"  # the first alone finds its own
    assert table.loc["ours", "same recording"] == "0.00" and table.loc["a guess", "top-1"] == "33"
    assert float(table.loc["ours", "other recordings"]) == pytest.approx(0.0, abs=0.005)
